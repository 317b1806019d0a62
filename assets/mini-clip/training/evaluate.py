"""Print all figures of the model card for a model: photos, text against photos, icons of another style, requests.

    python assets/mini-clip/training/evaluate.py                          the bundled model, without external data
    python assets/mini-clip/training/evaluate.py --model FOLDER --photos PHOTOS --noto NOTO

PHOTOS contains the folders `train` (gallery) and `test` (queries) with one folder per class. NOTO contains images named
by code point, like img/google/64 in npm's emoji-datasource-google. The metric is the cosine.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

ROOT = Path(__file__).resolve().parents[3]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import torch  # this import and those below need the path above
from datasets import load_dataset
from icons import spellings
from PIL import Image
from report import median_ms, report

from retrieval.features.base import DTYPES
from retrieval.features.encoder import ClipEncoder
from retrieval.features.models import choose_model
from retrieval.memory import keep_freed
from retrieval.pictures.loading import load_picture

REQUESTS = Path(__file__).with_name("requests.txt")
BATCH = 32
HARDEST = 5  # classes shown
MARKS = ("figures", "requests", "hardest")  # comments in the model card that enclose its tables
SIZED = {".safetensors", ".json", ".txt"}
ALIASES = {"orange easy": "orange"}  # a folder of photos whose name is not that of its class

Vectors = npt.NDArray[np.float32]
Matrix = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Gallery:
    """The bundled icons with their vectors."""

    codes: list[str]
    names: list[str]
    groups: list[str]
    words: list[set[str]]
    vectors: Vectors


@dataclass(frozen=True)
class Hard:
    """A class with a low precision: the most frequent wrong classes among its hits, and the number of hits."""

    name: str
    precision: float
    taken: list[tuple[str, int]]
    hits: int


@dataclass(frozen=True)
class Answer:
    """The first five icons for a request, wrong ones in italics, and the share of correct ones."""

    request: str
    precision: float
    hits: str


def main(arguments: Sequence[str] | None = None) -> list[dict[str, object]]:
    """Compute, print and return the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mini", help="mini, a folder or a Hub id (default: %(default)s)")
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="default: %(default)s")
    parser.add_argument("--photos", type=Path, help="folder with train/CLASS/ and test/CLASS/")
    parser.add_argument("--noto", type=Path, help="folder of Noto Emoji images, CODE.png")
    parser.add_argument("--card", type=Path, help="model card to update between its marks")
    flags = parser.parse_args(arguments)
    if flags.card:
        check(flags.card)
    check_pictures(flags.photos, flags.noto)
    keep_freed()  # as the app does
    choice = choose_model(flags.model)
    encoder = ClipEncoder(choice, flags.dtype)
    gallery = _gallery(encoder)
    rows: list[dict[str, object]] = []
    hardest: list[Hard] = []
    if flags.photos:
        found_photos, hardest = photos(encoder, flags.photos)
        rows += found_photos
    if flags.noto:
        rows += other_style(encoder, gallery, flags.noto)
    rows += names(encoder, gallery)
    answers = requests(encoder, gallery)
    rows.append(_row("request -> icons, P@5", len(answers), float(np.mean([answer.precision for answer in answers]))))
    rows += cost(encoder, choice.folder)
    report("figures", rows, model=encoder.identity.title, dtype=flags.dtype, dimensions=encoder.identity.dimensions)
    if flags.card:
        write(flags.card, rows, answers, hardest)
    return rows


def photos(encoder: ClipEncoder, folder: Path) -> tuple[list[dict[str, object]], list[Hard]]:
    """Return precision and mAP of photo queries and of class names as text queries, and the hardest classes."""
    (gallery, labels), (queries, wanted) = (_labelled(encoder, folder / part) for part in ("train", "test"))
    by_query = queries @ gallery.T, wanted[:, None] == labels
    others = ~np.eye(len(labels), dtype=bool)
    alone = gallery @ gallery.T
    by_each = alone[others].reshape(len(labels), -1), (labels[:, None] == labels)[others].reshape(len(labels), -1)
    rows = [
        _row("photo -> photo, P@5", len(queries), precision(*by_query, 5)),
        _row("photo -> photo, mAP", len(queries), mean_average_precision(*by_query)),
        _row("photo -> photo, leave-one-out, P@5", len(gallery), precision(*by_each, 5)),
        _row("photo -> photo, leave-one-out, mAP", len(gallery), mean_average_precision(*by_each)),
    ]
    classes = np.array(sorted(set(labels)))
    spoken = [ALIASES.get(name, name) for name in (each.replace("_", " ").lower() for each in classes)]
    for form in ("{}", "a photo of a {}"):
        scores = encoder.embed_texts([form.format(name) for name in spoken]) @ gallery.T
        relevant = classes[:, None] == labels
        rows.append(_row(f"{form.format('CLASS')} -> photo, P@5", len(classes), precision(scores, relevant, 5)))
    np.fill_diagonal(alone, -np.inf)
    return rows, hardest_classes(alone, labels)


def hardest_classes(scores: Vectors, labels: npt.NDArray[np.str_]) -> list[Hard]:
    """Return the classes with the lowest P@5; the scores (n, n) must not let a photo find itself."""
    first = labels[np.argsort(-scores, axis=1, kind="stable")[:, :5]]
    found_of = []
    for name in np.unique(labels):
        hits = first[labels == name].ravel()
        wrong = Counter(hits[hits != name].tolist()).most_common(2)
        found_of.append(Hard(str(name), float((hits == name).mean()), wrong, len(hits)))
    return sorted(found_of, key=lambda one: one.precision)[:HARDEST]


def other_style(encoder: ClipEncoder, gallery: Gallery, folder: Path) -> list[dict[str, object]]:
    """Return how often an icon of another style finds its gallery icon; flags have the same drawing in both styles."""
    files = {place: file for place, code in enumerate(gallery.codes) if (file := noto_file(folder, code))}
    vectors = _embedded(encoder, [load_picture(file) for file in files.values()])
    scores = vectors @ gallery.vectors.T
    relevant = np.array(list(files))[:, None] == np.arange(len(gallery.codes))
    groups = np.array([gallery.groups[place] for place in files])
    parts = [("", np.ones(len(groups), bool), (1, 5)), (" without flags", groups != "flags", (1, 5))]
    parts += [(f", {name}", groups == name, (1,)) for name in sorted(set(groups))]
    return [
        _row(f"Noto -> its icon{suffix}, top-{k}", len(relevant[chosen]), found(scores[chosen], relevant[chosen], k))
        for suffix, chosen, ks in parts
        for k in ks
    ]


def names(encoder: ClipEncoder, gallery: Gallery) -> list[dict[str, object]]:
    """Return how often the name of an icon finds the icon."""
    relevant = np.eye(len(gallery.names), dtype=bool)
    rows = []
    for form in ("{}", "an icon of {}"):
        scores = _texts(encoder, [form.format(name) for name in gallery.names]) @ gallery.vectors.T
        rows += [
            _row(f"{form.format('NAME')} -> its icon, top-{k}", len(relevant), found(scores, relevant, k))
            for k in (1, 5)
        ]
    return rows


def requests(encoder: ClipEncoder, gallery: Gallery) -> list[Answer]:
    """Return the results of everyday requests; an icon is correct by its subgroup, name or tags."""
    lines = [line for line in REQUESTS.read_text().splitlines() if line and not line.startswith("#")]
    asked = [line.split(":")[0] for line in lines]
    scores = _texts(encoder, asked) @ gallery.vectors.T
    answers = []
    for request, line, row in zip(asked, lines, scores, strict=True):
        wanted = set(line.split(":")[1].split())
        first = np.argsort(-row, kind="stable")[:5]
        right = [bool(wanted & gallery.words[place]) for place in first]
        hits = [
            gallery.names[place] if ok else f"*{gallery.names[place]}*" for place, ok in zip(first, right, strict=True)
        ]
        answers.append(Answer(request, float(np.mean(right)), ", ".join(hits)))
    return answers


def cost(encoder: ClipEncoder, folder: Path) -> list[dict[str, object]]:
    """Return the size on disk, and the time to embed one image with two threads and the app's settings."""
    size = sum(file.stat().st_size for file in folder.iterdir() if file.suffix in SIZED)
    torch.set_num_threads(2)
    fast = ClipEncoder(encoder.choice)
    picture = Image.open(ROOT / "assets" / "gallery" / "queries" / "guitar.png").convert("RGB")
    spent = median_ms(lambda: fast.embed_query([picture]), repeat=30, warm=5)
    return [
        {"figure": "size, MB", "of": 1, "value": round(size / 1e6, 1)},
        {"figure": f"one image, ms, {fast.dtype}", "of": 30, "value": round(spent, 1)},
    ]


def check(card: Path) -> None:
    """Check that a model card has the marks between which figures are written.

    Raises:
        ValueError: a mark is missing.
    """
    text = card.read_text() if card.is_file() else ""
    for mark in MARKS:
        if not text.split(f"<!-- {mark} -->")[-1].count(f"<!-- end of {mark} -->"):
            raise ValueError(f"{card} has no lines <!-- {mark} --> and <!-- end of {mark} --> to write between.")


def check_pictures(photos: Path | None, noto: Path | None) -> None:
    """Check that the given folders contain images.

    Raises:
        ValueError: a folder has none.
    """
    for folder, pattern in ((photos, "train/*/*"), (photos, "test/*/*"), (noto, "*.png")):
        if folder and not any(folder.glob(pattern)):
            raise ValueError(f"No file matches {folder / pattern}. Name another folder.")


def write(card: Path, rows: Sequence[dict[str, object]], answers: Sequence[Answer], hardest: Sequence[Hard]) -> None:
    """Replace the tables between the marks of a model card: figures, requests and the hardest classes."""
    figures = [
        "| figure | of | value |",
        "|---|---|---|",
        *(f"| {r['figure']} | {r['of']} | {r['value']} |" for r in rows),
    ]
    asked = ["| request | P@5 | first five icons, wrong ones in italics |", "|---|---|---|"]
    asked += [f"| {one.request} | {one.precision:.1f} | {one.hits} |" for one in answers]
    hard = ["| class | P@5 | hits | wrong ones, most frequent first |", "|---|---|---|---|"]
    for one in hardest:
        taken = ", ".join(f"{name.replace('_', ' ')} ({count})" for name, count in one.taken)
        hard.append(f"| {one.name.replace('_', ' ')} | {one.precision:.2f} | {one.hits} | {taken} |")
    text = card.read_text()
    for mark, lines in zip(MARKS, (figures, asked, hard), strict=True):
        if lines is hard and not hardest:
            continue  # without photos, keep the existing table
        before, after = text.split(f"<!-- {mark} -->")[0], text.split(f"<!-- end of {mark} -->")[1]
        text = "\n".join([f"{before}<!-- {mark} -->", *lines, f"<!-- end of {mark} -->{after}"])
    card.write_text(text)


def ranked(scores: Vectors, relevant: Matrix) -> Matrix:
    """Sort relevance (queries, gallery) by descending scores."""
    return np.take_along_axis(relevant, np.argsort(-scores, axis=1, kind="stable"), axis=1)


def precision(scores: Vectors, relevant: Matrix, k: int) -> float:
    """Return the mean share of relevant images among the first k."""
    return float(ranked(scores, relevant)[:, :k].mean())


def found(scores: Vectors, relevant: Matrix, k: int) -> float:
    """Return the share of queries with a relevant image among the first k."""
    return float(ranked(scores, relevant)[:, :k].any(axis=1).mean())


def average_precision(hits: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """Return the average precision of each row of relevance by rank, shape (m, n); NaN for a row without a hit."""
    found = np.cumsum(hits, axis=1)
    precision = np.where(hits, found / np.arange(1, hits.shape[1] + 1), 0.0)
    with np.errstate(invalid="ignore"):
        return np.asarray(precision.sum(axis=1) / found[:, -1], np.float64)


def mean_average_precision(scores: Vectors, relevant: Matrix) -> float:
    """Return the mean average precision over all queries."""
    return float(average_precision(ranked(scores, relevant)).mean())


def _gallery(encoder: ClipEncoder) -> Gallery:
    data = load_dataset(str(ROOT / "assets" / "gallery"), split="train")
    groups, subgroups = data.features["group"], data.features["label"]
    words = []
    for name, tags, subgroup in zip(data["name"], data["tags"], data["label"], strict=True):
        spoken = " ".join([name, *tags]).lower().replace(":", " ").replace(",", " ").split()
        words.append({*spoken, subgroups.int2str(subgroup)})
    return Gallery(
        codes=list(data["id"]),
        names=list(data["name"]),
        groups=[groups.int2str(group) for group in data["group"]],
        words=words,
        vectors=_embedded(encoder, [picture.convert("RGB") for picture in data["image"]]),
    )


def _labelled(encoder: ClipEncoder, folder: Path) -> tuple[Vectors, npt.NDArray[np.str_]]:
    files = sorted(file for file in folder.glob("*/*") if file.is_file())
    vectors = _embedded(encoder, [Image.open(file).convert("RGB") for file in files])
    return vectors, np.array([file.parent.name for file in files])


def _embedded(encoder: ClipEncoder, pictures: Sequence[Image.Image]) -> Vectors:
    starts = range(0, len(pictures), BATCH)
    return np.concatenate([encoder.embed_query(pictures[start : start + BATCH]) for start in starts])


def _texts(encoder: ClipEncoder, texts: Sequence[str]) -> Vectors:
    starts = range(0, len(texts), BATCH)
    return np.concatenate([encoder.embed_texts(texts[start : start + BATCH]) for start in starts])


def noto_file(folder: Path, code: str) -> Path | None:
    """Return the file of an icon in a folder of Noto Emoji, or None."""
    return next((file for each in spellings(code) if (file := folder / f"{each}.png").exists()), None)


def _row(figure: str, count: int, value: float) -> dict[str, object]:
    return {"figure": figure, "of": count, "value": round(value, 3)}


if __name__ == "__main__":
    main()
