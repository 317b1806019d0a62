"""Query images to try: those bundled with a gallery, or images of different classes of the gallery itself."""

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from retrieval.gallery.source import BUNDLED_GALLERIES
from retrieval.storage.reader import GalleryIndex

SHOWN = 16
NAMES = "metadata.csv"  # beside bundled query images: file_name, title, label, note; in the order to show


@dataclass(frozen=True)
class Example:
    """A query image.

    Attributes:
        name: what it shows.
        label: its class; empty if it is unknown.
        note: what it teaches; empty for most.
    """

    path: Path
    name: str
    label: str
    note: str = ""

    @property
    def key(self) -> str:
        """Its name in links."""
        return self.path.stem


def queries_folder(index: GalleryIndex) -> Path | None:
    """Return the folder of the query images bundled with a gallery, which are not in it; None if it has none."""
    bundled = index.manifest.source.bundled
    return BUNDLED_GALLERIES[bundled] / "queries" if bundled else None


def examples_of(index: GalleryIndex) -> list[Example]:
    """Return query images for a gallery, the most instructive first."""
    folder = queries_folder(index)
    if folder is None:
        return _of_classes(index)
    with (folder / NAMES).open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return [Example(folder / row["file_name"], row["title"], row["label"], row["note"]) for row in rows]


def _of_classes(index: GalleryIndex) -> list[Example]:
    """Return the first image of each class, or of classes evenly spread; images evenly spread if there are none."""
    if index.classes:
        firsts = [int(index.with_labels([index.classes[place]])[0]) for place in _spread(len(index.classes))]
    else:
        firsts = _spread(len(index))
    entries = [index.entry(position) for position in firsts]
    return [
        Example(index.thumbnail(each.position), each.caption or each.label or each.id, each.label) for each in entries
    ]


def _spread(count: int) -> list[int]:
    places: list[int] = np.linspace(0, count - 1, min(count, SHOWN)).astype(int).tolist()
    return places
