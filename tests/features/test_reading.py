"""What a model says about a text that it cannot read, by the kind of its tokenizer."""

from collections.abc import Callable
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from retrieval.features.models import BUNDLED_FOLDER
from retrieval.features.reading import read, unreadable
from retrieval.labels import printable

TEXTS = ["red fruit", "a photo of a cat", "a castle at night", "many happy people"] * 10
TEMPLATES = ("{}", "a photo of a {}")


def bundled() -> Any:
    return AutoTokenizer.from_pretrained(BUNDLED_FOLDER)


def of_bytes() -> Any:
    """Byte-level BPE like CLIP's: the unknown token exists, but is never used."""
    tokenizer = Tokenizer(models.BPE(unk_token="<|end|>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    party = ["🎉"] * 50  # learnt as one token, as many emoji are by CLIP
    tokenizer.train_from_iterator(TEXTS + party, trainers.BpeTrainer(initial_alphabet=alphabet, vocab_size=400))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<|end|>", model_max_length=77)


def falling_back_to_bytes() -> Any:
    """BPE over characters like SentencePiece's, which spells unknown characters in bytes such as <0xE7>."""
    vocabulary = [f"<0x{byte:02X}>" for byte in range(256)] + list("▁abcdefghijklmnopqrstuvwxyz")
    model = models.BPE({token: place for place, token in enumerate(vocabulary)}, [], byte_fallback=True)
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=64)


def of_pieces() -> Any:
    """Unigram without a fallback, like SigLIP's: an unknown character becomes <unk> after a mark for the space."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    special = [AddedToken("<unk>", special=True)]
    tokenizer.train_from_iterator(
        TEXTS, trainers.UnigramTrainer(vocab_size=60, special_tokens=special, unk_token="<unk>")
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", model_max_length=64)


TOKENIZERS: list[Callable[[], Any]] = [bundled, of_bytes, falling_back_to_bytes, of_pieces]


@pytest.mark.parametrize("make", TOKENIZERS)
def test_text_that_no_token_stands_for_is_reported(make: Callable[[], Any]) -> None:
    tokenizer = make()
    for text in ("red fruit", "many happy people"):
        assert unreadable(tokenizer, text) == 0
        assert read(tokenizer, "m", text, TEMPLATES).notes == ()
    for text in ("猫", "我喜欢猫", "Привет мир" if make is bundled else "ΑΒΓ" if make is of_pieces else "貓狗"):
        [note] = read(tokenizer, "m", text, TEMPLATES).notes
        assert note.startswith(f'The model m cannot read most of "{text}"')


def test_words_spelled_in_letters_count_as_read() -> None:
    assert unreadable(falling_back_to_bytes(), "xqzvk") == 0
    assert unreadable(bundled(), "xqzvk") == 0


def test_emoji_that_the_tokenizer_cannot_read_are_named() -> None:
    for text in ("🎉🎉", "🎉 🎉"):
        reading = read(bundled(), "m", text, TEMPLATES)
        assert reading.text == "party popper party popper"
        assert reading.notes == ("Emoji are searched by their names: party popper.",)
    mixed = read(bundled(), "m", "a cat👩‍🚀 with ❤️", TEMPLATES)
    assert mixed.text == "a cat woman astronaut with red heart"
    assert mixed.notes == ("Emoji are searched by their names: woman astronaut, red heart.",)


def test_emoji_that_the_tokenizer_has_learnt_stay() -> None:
    reading = read(of_bytes(), "m", "🎉 and 🦑", TEMPLATES)
    assert reading.text == "🎉 and squid"
    assert reading.notes == ("Emoji are searched by their names: squid.",)


def test_note_lists_few_emoji() -> None:
    [note] = read(bundled(), "m", "🐱🐶🐭🐹🐰🦊🐻🐼", TEMPLATES).notes
    assert note.endswith("rabbit face and 3 more.")


def test_length_counts_the_longest_template_and_special_tokens() -> None:
    tokenizer = bundled()  # 40 tokens, 2 of them special; the template adds 4
    assert read(tokenizer, "m", "a " * 34, TEMPLATES).notes == ()
    [note] = read(tokenizer, "m", "a " * 35, TEMPLATES).notes
    assert note.startswith("The model m reads 40 tokens, and ")
    assert note.endswith("is too long by 1: its end is ignored.")
    assert read(tokenizer, "m", "a " * 38, ("{}",)).notes == ()


@pytest.mark.parametrize("text", ["", "\u200b", "\x1b[2J", "�", "🎉" * 500, "\u202e", "a" * 500])
def test_no_text_fails_or_puts_control_characters_into_notes(text: str) -> None:
    for make in TOKENIZERS:
        for note in read(make(), "m", text, TEMPLATES).notes:
            assert printable(note) == note
