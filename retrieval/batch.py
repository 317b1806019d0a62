"""What goes from a gallery to an index: its rows, and what became of a run of them.

A module of its own, so that the process that writes loads neither torch nor datasets.
"""

from dataclasses import dataclass

from retrieval.errors import PictureError
from retrieval.features import Features, Vectors
from retrieval.manifest import Skipped


@dataclass(frozen=True)
class Item:
    """One row of a gallery; `picture` holds the encoded bytes, or the reason why there are none."""

    row: int
    id: str
    label: str
    caption: str
    picture: bytes | PictureError


@dataclass(frozen=True)
class Batch:
    """What became of a run of rows.

    Attributes:
        start: its first row.
        rows: how many rows it had.
        items: those whose pictures could be used, without their encoded bytes.
        thumbnails: JPEG, one for each item.
        vectors: for each features an array of shape (len(items), d).
        skipped: the others.
    """

    start: int
    rows: int
    items: tuple[Item, ...]
    thumbnails: tuple[bytes, ...]
    vectors: dict[Features, Vectors]
    skipped: tuple[Skipped, ...]

    @property
    def thumbnails_by_row(self) -> dict[int, bytes]:
        """The thumbnails, by row."""
        return {item.row: each for item, each in zip(self.items, self.thumbnails, strict=True)}
