"""The text tower: three of MiniLM's layers, trained to place a text near the images of what it means.

The target of a text is a distribution over the bank, one over all icons and one over all ImageNet classes. It mixes the
known meaning of the text with the similarity that the teacher, MiniLM, finds between the text and the bank's captions.
The tower learns cosines with the bank's vectors that have the same distribution. These vectors are computed from images
and do not change.
"""

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import backbone
import torch
from torch import nn
from torch.nn import functional
from training_loop import Schedule, TrainingLoop
from transformers import AutoModel, AutoTokenizer, BertConfig, BertModel, BertTokenizerFast

LAYERS = (0, 2, 5)  # of MiniLM's six
WIDTH = 384
LENGTH = 40
PIECES = 9000
TEACHER_SCALE = 18.0  # softmax scale of the teacher's cosines
KNOWN = 0.9  # the share of the known meaning in a target
MEANING_SCALE = 30.0  # softmax scale of the tower's cosines
LIKENESS_SCALE = 20.0
RIDGE = 10.0
TOGETHER = 4  # batches whose texts are sorted by length together
PASS = 128  # texts per forward pass without gradients
PROJECTION_RATE = 3.0  # relative to the tower's learning rate
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


class Teacher:
    """The complete MiniLM, which turns texts into unit vectors."""

    def __init__(self, folder: Path) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModel.from_pretrained(folder).eval()

    def __call__(self, texts: Sequence[str], batch: int = 256) -> torch.Tensor:
        """Return unit vectors of shape (n, 384), float16: the mean over the tokens, as MiniLM was trained."""
        result = torch.empty(len(texts), WIDTH, dtype=torch.float16)
        order = sorted(range(len(texts)), key=lambda place: len(texts[place]))
        with torch.inference_mode(), backbone.mixed():
            for start in range(0, len(order), batch):
                places = order[start : start + batch]
                given = self.tokenizer(
                    [texts[place] for place in places],
                    padding=True,
                    truncation=True,
                    max_length=LENGTH,
                    return_tensors="pt",
                )
                states = self.model(**given).last_hidden_state.float()
                mask = given["attention_mask"].unsqueeze(-1)
                result[places] = functional.normalize((states * mask).sum(1) / mask.sum(1), dim=-1).half()
        return result


@dataclass(frozen=True)
class Bank:
    """Unit vectors of the icons (n, d) and of the classes (m, d), and the teacher's vectors of their captions."""

    icons: torch.Tensor
    classes: torch.Tensor
    icon_captions: torch.Tensor
    class_captions: torch.Tensor


class Targets:
    """The target distributions of texts over the icons or the classes of the bank."""

    def __init__(self, meanings: Sequence[set[int]], texts: torch.Tensor, captions: torch.Tensor) -> None:
        """Prepare the targets.

        Args:
            meanings: for each text the indices in the bank that it means; empty if unknown.
            texts: the teacher's vectors of the texts.
            captions: the teacher's vectors of the captions.
        """
        self._meanings, self._texts, self._captions = meanings, texts, captions.float()

    def __call__(self, places: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the target distributions of n texts (n, bank), and a mask of the texts with a known meaning (n,)."""
        near = (TEACHER_SCALE * self._texts[list(places)].float() @ self._captions.T).softmax(1)
        known = torch.zeros(len(places), dtype=torch.bool)
        for row, place in enumerate(places):
            if meant := self._meanings[place]:
                known[row] = True
                chosen = torch.zeros_like(near[row])
                chosen[torch.tensor(sorted(meant))] = 1 / len(meant)
                near[row] = KNOWN * chosen + (1 - KNOWN) * near[row]
        return near, known


class Likeness:
    """First objective: vectors like the teacher's."""

    def __init__(self, vectors: torch.Tensor) -> None:
        self._vectors = vectors  # the teacher's vectors of all texts

    def __call__(self, vectors: torch.Tensor, places: Sequence[int]) -> torch.Tensor:
        """Return the loss: the angle to the teacher's vector, and a contrastive loss within the batch."""
        wanted = self._vectors[list(places)].float()
        apart = functional.cross_entropy(LIKENESS_SCALE * vectors @ wanted.T, torch.arange(len(wanted)))
        return 5 * (1 - (vectors * wanted).sum(1)).mean() + apart


class Meaning:
    """Second objective: texts are near the icons and near the classes that they mean."""

    def __init__(self, bank: Bank, of_icons: Targets, of_classes: Targets) -> None:
        self._parts = ((bank.icons, of_icons), (bank.classes, of_classes))

    def __call__(self, vectors: torch.Tensor, places: Sequence[int]) -> torch.Tensor:
        """Return the loss: the KL divergence from the targets, and for known meanings the angle to their vectors."""
        loss = torch.zeros(())
        for bank, targets in self._parts:
            target, known = targets(places)
            scores = (MEANING_SCALE * vectors @ bank.T).log_softmax(1)
            loss = loss + functional.kl_div(scores, target, reduction="batchmean")
            if known.any():
                meant = functional.normalize(target[known] @ bank, dim=-1)
                loss = loss + (1 - (vectors[known] * meant).sum(1)).sum() / len(vectors)
        return loss

    def fitted(self, states: torch.Tensor, places: Sequence[int]) -> torch.Tensor:
        """Return the projection (d, width) from pooled states to their meanings, by ridge regression."""
        wanted = sum(known[:, None] * (target @ bank) for bank, of in self._parts for target, known in [of(places)])
        assert isinstance(wanted, torch.Tensor)
        square = states.T @ states + RIDGE * torch.eye(states.shape[1])
        return torch.linalg.solve(square, states.T @ functional.normalize(wanted, dim=-1)).T.contiguous()


def learn(
    tower: BertModel,
    projection: nn.Linear,
    tokenizer: BertTokenizerFast,
    texts: Sequence[str],
    objective: Likeness | Meaning,
    groups: Sequence[tuple[Sequence[int], float]],
    schedule: Schedule,
    checkpoint: Path,
    made_from: str,
) -> None:
    """Train tower and projection in place; resume from the checkpoint if there is one.

    Args:
        tower: the text tower.
        projection: from the tower's width to that of the target vectors.
        tokenizer: the tower's tokenizer.
        texts: all texts.
        objective: the loss for the unit vectors of some texts.
        groups: groups of texts, as indices, and the share of each group in a batch.
        schedule: duration and learning rate.
        checkpoint: the file in which the state is stored regularly.
        made_from: fingerprint of the inputs.
    """
    parts = [(tower, 1.0), (projection, PROJECTION_RATE)]
    loop = TrainingLoop(f"text, {type(objective).__name__.lower()}", parts, schedule, checkpoint, made_from)
    batches = _batches(texts, groups, schedule.batch, random.Random(f"{schedule.seed} {loop.step}"))
    tower.train()
    for _ in loop:
        places = next(batches)
        with backbone.mixed():
            vectors = embed(tower, projection, tokenizer, [texts[place] for place in places])
        loop.learn(objective(vectors, places))
    tower.eval()


def _batches(
    texts: Sequence[str], groups: Sequence[tuple[Sequence[int], float]], batch: int, draw: random.Random
) -> Iterator[list[int]]:
    """Yield batches of indices without end; texts of a batch have similar lengths, which reduces padding."""
    while True:
        chosen = [draw.choice(places) for places, share in groups for _ in range(round(TOGETHER * batch * share))]
        chosen.sort(key=lambda place: len(texts[place]))
        starts = list(range(0, len(chosen) - batch // 2, batch))
        for start in draw.sample(starts, len(starts)):
            yield chosen[start : start + batch]


def pooled(tower: BertModel, tokenizer: BertTokenizerFast, texts: Sequence[str]) -> torch.Tensor:
    """Return the input of the projection for n texts, shape (n, width)."""
    parts = []
    with torch.inference_mode():
        for start in range(0, len(texts), PASS):
            some = list(texts[start : start + PASS])
            given = tokenizer(some, padding=True, truncation=True, max_length=LENGTH, return_tensors="pt")
            parts.append(tower(**given).pooler_output)
    return torch.cat(parts).clone()


def embed(tower: BertModel, projection: nn.Linear, tokenizer: BertTokenizerFast, texts: Sequence[str]) -> torch.Tensor:
    """Return texts as unit vectors (n, d), float32."""
    given = tokenizer(list(texts), padding=True, truncation=True, max_length=LENGTH, return_tensors="pt")
    return functional.normalize(projection(tower(**given).pooler_output).float(), dim=-1)


def vocabulary(teacher: Teacher, texts: Sequence[str], extra: Sequence[str]) -> list[str]:
    """Return word pieces of the teacher, in its order: all of `texts`, and the most frequent ones of `extra`."""
    pieces = teacher.tokenizer.convert_ids_to_tokens(range(teacher.tokenizer.vocab_size))
    kept = {
        place
        for place, piece in enumerate(pieces)
        if piece in SPECIAL or (len(piece.replace("##", "")) == 1 and piece.isascii())
    }
    for one in teacher.tokenizer(list(texts), add_special_tokens=False)["input_ids"]:
        kept.update(one)
    counted = Counter(
        each for one in teacher.tokenizer(list(extra), add_special_tokens=False)["input_ids"] for each in one
    )
    for place, _ in counted.most_common():
        if len(kept) >= PIECES:
            break
        kept.add(place)
    return [pieces[place] for place in sorted(kept)]


def tokenizer_of(pieces: Sequence[str]) -> BertTokenizerFast:
    """Return a tokenizer for the given word pieces."""
    vocabulary = {piece: place for place, piece in enumerate(pieces)}
    return BertTokenizerFast(vocab=vocabulary, do_lower_case=True, model_max_length=LENGTH)


def cut_down(teacher: Teacher, pieces: Sequence[str]) -> BertModel:
    """Return a model of the teacher's layers `LAYERS` with the embeddings of the given word pieces."""
    tower = BertModel(
        BertConfig(
            vocab_size=len(pieces),
            hidden_size=WIDTH,
            num_hidden_layers=len(LAYERS),
            num_attention_heads=12,
            intermediate_size=4 * WIDTH,
            max_position_embeddings=LENGTH,
        )
    )
    whole, state = teacher.model.state_dict(), tower.state_dict()
    for name in state:
        source = whole.get(name)
        if name.startswith("encoder.layer."):
            number = int(name.split(".")[2])
            source = whole[name.replace(f"layer.{number}.", f"layer.{LAYERS[number]}.")]
        elif name == "embeddings.word_embeddings.weight":
            source = whole[name][teacher.tokenizer.convert_tokens_to_ids(list(pieces))]
        elif name == "embeddings.position_embeddings.weight":
            source = whole[name][:LENGTH]
        if source is not None and source.shape == state[name].shape:
            state[name] = source.clone()
    tower.load_state_dict(state)
    return tower
