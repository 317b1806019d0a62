"""How a model's tokenizer reads a text: which emoji are replaced by their names, and what the model cannot read."""

from collections.abc import Mapping, Sequence
from typing import Any

from retrieval.features.base import Reading
from retrieval.labels import printable

MOSTLY = 0.5  # the share of unreadable tokens from which on a text, or an emoji, counts as one that cannot be read
NAMED = 5  # emoji that a note lists
QUOTED = 40  # characters of a text that a note quotes


def read(tokenizer: Any, model: str, text: str, templates: Sequence[str]) -> Reading:
    """Return a text as a model should get it, with a sentence on everything that the model cannot read.

    Args:
        tokenizer: of transformers.
        model: its name, for the sentences.
        text: what a user typed.
        templates: the sentences in which the model gets it, with `{}` for the text.
    """
    words, names = (text, []) if text.isascii() else _with_names(tokenizer, text)
    notes = [_about_emoji(names)] if names else []
    if unreadable(tokenizer, words) >= MOSTLY:
        notes.append(
            f"The model {model} cannot read most of {_quoted(text)}, so these results mean little. "
            "Describe it in English, or search with an image."
        )
    limit = tokenizer.model_max_length
    if (over := max(len(_tokens(tokenizer, each.replace("{}", words), True)) for each in templates) - limit) > 0:
        notes.append(
            f"The model {model} reads {limit} tokens, and {_quoted(text)} is too long by {over}: its end is ignored."
        )
    return Reading(words, tuple(notes))


def unreadable(tokenizer: Any, text: str) -> float:
    """Return the share of a text's tokens that tell a model nothing about it, from 0 to 1.

    These are unknown tokens, and tokens that are only a part of a character: a tokenizer of bytes (CLIP's, or
    SentencePiece with a fallback to bytes) has no unknown token, but spells a character that it has not learnt in
    bytes. A word that it spells in whole letters counts as read. The share is 1 for a text without any token.
    """
    tokens = _tokens(tokenizer, text, False)
    if not tokens:
        return 1.0
    pieces = tokenizer.batch_decode([[token] for token in tokens])
    lost: int = sum(
        token == tokenizer.unk_token_id or "\N{REPLACEMENT CHARACTER}" in piece
        for token, piece in zip(tokens, pieces, strict=True)
    )
    return lost / len(tokens)


def _with_names(tokenizer: Any, text: str) -> tuple[str, list[str]]:
    """Return a text with the CLDR names of emoji that cannot be read in their place, and these names, each once."""
    from emoji import replace_emoji  # reads its tables for a tenth of a second

    names: dict[str, None] = {}

    def name(sign: str, data: Mapping[str, str]) -> str:
        if unreadable(tokenizer, sign) < MOSTLY:
            return sign
        found = data["en"].strip(":").replace("_", " ")
        names[found] = None
        return f" {found} "

    return " ".join(replace_emoji(text, name).split()), list(names)


def _tokens(tokenizer: Any, text: str, special: bool) -> list[int]:
    """Return the tokens of a text, all of them; `special` adds those that begin and end it."""
    found: list[int] = tokenizer(text, add_special_tokens=special, truncation=False, verbose=False).input_ids
    return found


def _about_emoji(names: list[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f"Emoji are searched by their names: {', '.join(names[:NAMED])}{more}."


def _quoted(text: str) -> str:
    short = text if len(text) <= QUOTED else f"{text[:QUOTED].rstrip()} ..."
    return f'"{printable(short)}"'
