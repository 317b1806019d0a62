"""The text tower: three of MiniLM's layers, taught what each text means among the pictures of the icons and classes.

A text's target is a distribution over the bank: all icons and, apart from them, all ImageNet classes. It is what the
text is known to mean, mixed with what the teacher, MiniLM, finds near by the bank's captions. The tower learns to have
the same distribution of cosines with the bank's vectors, which are pictures' vectors and stay as they are.
"""

import math
import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional
from transformers import AutoModel, AutoTokenizer, BertConfig, BertModel, BertTokenizerFast

LAYERS = (0, 2, 5)  # of MiniLM's six
WIDTH = 384
LENGTH = 40
PIECES = 9000
TEACHER_SCALE = 18.0  # what turns the teacher's cosines into its distribution
KNOWN = 0.9  # how much of a target is what the text is known to mean
SCALES = (30.0, 30.0)  # what turns cosines with icons and with classes into distributions
NEARNESS = 1.0
WARM = 40  # steps until the full rate
SAVE_EVERY = 120.0  # seconds
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


class Teacher:
    """MiniLM, whole: texts as unit vectors."""

    def __init__(self, folder: Path) -> None:
        """Load it from the folder of its package."""
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModel.from_pretrained(folder).eval()

    def __call__(self, texts: Sequence[str], batch: int = 256) -> torch.Tensor:
        """Return unit vectors of shape (n, 384), float16: the mean over the tokens, as MiniLM was trained."""
        result = torch.empty(len(texts), WIDTH, dtype=torch.float16)
        order = sorted(range(len(texts)), key=lambda place: len(texts[place]))
        with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
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
    """What texts are compared with: unit vectors of icons (n, d) and of classes (m, d), and the teacher's of captions."""

    icons: torch.Tensor
    classes: torch.Tensor
    icon_captions: torch.Tensor
    class_captions: torch.Tensor


@dataclass(frozen=True)
class Schedule:
    """How long and how fast the tower learns; it ends at whichever of steps and minutes comes first."""

    steps: int = 2400
    minutes: float = 100.0
    batch: int = 192
    rate: float = 3e-4
    seed: int = 0


class Targets:
    """What each text means, as distributions over a part of the bank."""

    def __init__(self, meanings: Sequence[set[int]], texts: torch.Tensor, captions: torch.Tensor) -> None:
        """Take the places that each text means, none if not known, and the teacher's vectors of texts and captions."""
        self._meanings, self._texts, self._captions = meanings, texts, captions.float()

    def __call__(self, places: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the distributions (n, bank) of texts, and which of the texts have a known meaning (n,)."""
        near = (TEACHER_SCALE * self._texts[list(places)].float() @ self._captions.T).softmax(1)
        known = torch.zeros(len(places), dtype=torch.bool)
        for row, place in enumerate(places):
            if meant := self._meanings[place]:
                known[row] = True
                # Among several that are meant equally, the teacher says which are meant most.
                chosen = torch.zeros_like(near[row])
                index = torch.tensor(sorted(meant))
                chosen[index] = 1 / len(meant)
                near[row] = KNOWN * chosen + (1 - KNOWN) * near[row]
        return near, known


def learn(
    tower: BertModel,
    projection: nn.Linear,
    tokenizer: BertTokenizerFast,
    texts: Sequence[str],
    targets: tuple[Targets, Targets],
    groups: Sequence[tuple[Sequence[int], float]],
    bank: Bank,
    schedule: Schedule,
    checkpoint: Path,
) -> None:
    """Train tower and projection in place, from the checkpoint where there is one.

    Args:
        tower: the text tower.
        projection: from its width to that of the bank.
        tokenizer: of the tower.
        texts: all texts.
        targets: of the texts, among icons and among classes.
        groups: places of texts, and how often a text is drawn from among them.
        bank: what they are compared with.
        schedule: how long.
        checkpoint: file that holds the state every so many steps.
    """
    draw = random.Random(schedule.seed)
    parameters = [
        {"params": tower.parameters(), "lr": schedule.rate},
        {"params": projection.parameters(), "lr": 3 * schedule.rate},
    ]
    optimiser = torch.optim.AdamW(parameters, weight_decay=0.01, fused=True)
    step, spent = 0, 0.0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        tower.load_state_dict(state["tower"])
        projection.load_state_dict(state["projection"])
        optimiser.load_state_dict(state["optimiser"])
        step, spent = state["step"], state["spent"]
        draw.seed(f"{schedule.seed} {step}")
    rates = [group["lr"] for group in ({"lr": schedule.rate}, {"lr": 3 * schedule.rate})]
    tower.train()
    started = time.monotonic() - spent
    saved = time.monotonic()
    shown = [0.0, 0.0]
    while True:
        passed = max(step / schedule.steps, (time.monotonic() - started) / 60 / schedule.minutes)
        speed = min(1.0, (step + 1) / WARM) * 0.5 * (1 + math.cos(math.pi * min(1.0, passed)))
        for group, rate in zip(optimiser.param_groups, rates, strict=True):
            group["lr"] = rate * speed
        if passed >= 1 or time.monotonic() - saved > SAVE_EVERY:
            state = {"tower": tower.state_dict(), "projection": projection.state_dict()}
            state |= {"optimiser": optimiser.state_dict(), "step": step, "spent": time.monotonic() - started}
            torch.save(state, checkpoint.with_suffix(".part"))
            checkpoint.with_suffix(".part").rename(checkpoint)
            saved = time.monotonic()
        if passed >= 1:
            break
        # Texts of about the same length together, so that little is padding.
        chosen = [draw.choice(places) for places, share in groups for _ in range(round(4 * schedule.batch * share))]
        chosen.sort(key=lambda place: len(texts[place]))
        for start in draw.sample(range(0, len(chosen) - schedule.batch // 2, schedule.batch), 4):
            places = chosen[start : start + schedule.batch]
            with torch.autocast("cpu", dtype=torch.bfloat16):
                vectors = embed(tower, projection, tokenizer, [texts[place] for place in places])
            losses = [
                _loss(vectors, vectors_of, *of_part(places), scale)
                for of_part, vectors_of, scale in zip(targets, (bank.icons, bank.classes), SCALES, strict=True)
            ]
            optimiser.zero_grad()
            sum(losses).backward()
            nn.utils.clip_grad_norm_(tower.parameters(), 1.0)
            optimiser.step()
            step += 1
            shown = [0.95 * old + 0.05 * new.item() for old, new in zip(shown, losses, strict=True)]
        if step % 20 == 0:
            print(f"text: step {step}, {passed:.0%}, icons {shown[0]:.3f}, classes {shown[1]:.3f}", flush=True)
    tower.eval()


def embed(tower: BertModel, projection: nn.Linear, tokenizer: BertTokenizerFast, texts: Sequence[str]) -> torch.Tensor:
    """Return texts as unit vectors (n, d), float32."""
    given = tokenizer(list(texts), padding=True, truncation=True, max_length=LENGTH, return_tensors="pt")
    return functional.normalize(projection(tower(**given).pooler_output).float(), dim=-1)


def vocabulary(teacher: Teacher, texts: Sequence[str], extra: Sequence[str]) -> list[str]:
    """Return word pieces of the teacher in its order: those of `texts`, and the most frequent of `extra`."""
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
    """Return a tokenizer of these word pieces."""
    vocabulary = {piece: place for place, piece in enumerate(pieces)}
    return BertTokenizerFast(vocab=vocabulary, do_lower_case=True, model_max_length=LENGTH)


def cut_down(teacher: Teacher, pieces: Sequence[str]) -> BertModel:
    """Return some of the teacher's layers with some of its word pieces."""
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


def _loss(
    vectors: torch.Tensor, bank: torch.Tensor, target: torch.Tensor, known: torch.Tensor, scale: float
) -> torch.Tensor:
    """KL divergence of the cosines with the bank, and for known meanings the distance from what is meant."""
    loss = functional.kl_div((scale * vectors @ bank.T).log_softmax(1), target, reduction="batchmean")
    if known.any():
        meant = functional.normalize(target[known] @ bank, dim=-1)
        loss = loss + NEARNESS * (1 - (vectors[known] * meant).sum(1)).sum() / len(vectors)
    return loss
