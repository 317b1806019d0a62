"""Splits of a dataset: which folders and files are splits, and which rows a split or a slice of one selects."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import TypeVar

import datasets

from retrieval.errors import GalleryError
from retrieval.gallery.source import GallerySource
from retrieval.pictures.decoding import SUFFIXES

Row = TypeVar("Row")

SPLIT_FOLDERS = {"train", "test", "validation", "valid", "val", "dev"}
# A split's name as one word of a path, as datasets finds it in `data/train-00000-of-00001.parquet`.
SPLIT_WORD = re.compile(r"(?<![A-Za-z])(train|test|validation|valid|val|dev)(?![A-Za-z])")


def is_picture(file: str) -> bool:
    """Return whether a file is an image, judged by its suffix."""
    return PurePosixPath(file).suffix.lower() in SUFFIXES


def split_folders(files: Iterable[str]) -> dict[str, str]:
    """Return split -> subfolder ("" for the folder itself) of a folder of images, given the relative paths in it.

    By default datasets guesses splits from any part of a path: a class "bullet_train" becomes a split, and the other
    classes disappear. Here, only a folder whose name is exactly that of a split is a split.
    """
    paths = [PurePosixPath(file) for file in files if is_picture(file)]
    tops = {path.parts[0] if len(path.parts) > 1 else "" for path in paths if not path.parts[0].startswith(".")}
    return {top: top for top in sorted(tops)} if tops and tops <= SPLIT_FOLDERS else {"train": ""}


def split_of_file(path: str) -> str:
    """Return the split that the relative path of a Parquet file or archive names, `train` if it names none.

    With datasets, a file that names no split disappears as soon as another one does.
    """
    found = SPLIT_WORD.findall(path)
    return "train" if not found else "validation" if found[-1] in ("valid", "val", "dev") else found[-1]


def choose_split(source: GallerySource, splits: Sequence[str]) -> str:
    """Return the split to use: the requested one, otherwise `train`, or the first split if there is no `train`."""
    wanted = source.split
    if wanted is None:
        return "train" if "train" in splits or not splits else splits[0]
    base = re.split(r"[\[+]", wanted)[0]
    if splits and base not in splits and base != "all":
        raise GalleryError(f"The dataset {source.dataset!r} has no split {wanted!r}. It has: {', '.join(splits)}.")
    return wanted


def select(source: GallerySource, groups: Mapping[str, Sequence[Row]]) -> tuple[list[Row], list[str]]:
    """Return the rows of all splits that a source selects, and sentences about what it leaves out.

    Raise GalleryError if there is no such split or no row, ValueError if the specification of a slice is invalid.
    """
    wanted = choose_split(source, list(groups))
    sizes = {split: len(rows) for split, rows in groups.items()}
    spec = "+".join(sizes) if wanted == "all" else wanted
    parts = datasets.ReadInstruction.from_spec(spec).to_absolute(sizes)
    rows = [row for part in parts for row in groups[part.splitname][part.from_ : part.to]]
    if not rows:
        raise GalleryError(f"The dataset {source.dataset!r} has no images in split {wanted!r}.")
    chosen, total = rows[: source.limit], sum(sizes.values())
    part_of = [f"`--split` and `--limit` select {len(chosen):,} of {total:,} images."] if len(chosen) < total else []
    return chosen, [*left_out(wanted, sizes), *part_of]


def left_out(wanted: str, splits: Mapping[str, int | None]) -> list[str]:
    """Return a sentence about the splits of which a specification selects nothing, if there are any."""
    named = {re.split(r"\[", part)[0] for part in wanted.split("+")}
    others = {} if "all" in named else {split: size for split, size in splits.items() if split not in named}
    if not others:
        return []
    listed = ", ".join(split if size is None else f"{split} ({size:,})" for split, size in others.items())
    return [f"Left out, since the split is `{wanted}`: {listed}. Choose with `--split`."]
