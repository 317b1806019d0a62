"""What a builder has made so far: a file for each batch, which is there as a whole or not at all.

A build goes on from these, and the files for readers are made of them. ChromaDB could not serve for that: it writes the
names and the graph of a collection over the old ones, so that one killed in that moment leaves a collection that
cannot be opened any more, or lacks vectors in silence. What is written here is never changed.
"""

import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from retrieval.errors import IndexingError, cannot_write
from retrieval.features import Vectors
from retrieval.gallery.source import Item
from retrieval.storage.manifest import Skipped

log = logging.getLogger(__name__)

FOLDER = "batches"
NAMES = ("id", "label", "caption")
# What numpy and zipfile say of a file that is not whole.
DAMAGE = (BadZipFile, ValueError, KeyError, EOFError, NotImplementedError, RuntimeError)


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
    vectors: dict[str, Vectors]
    skipped: tuple[Skipped, ...]

    @property
    def thumbnails_by_row(self) -> dict[int, bytes]:
        """The thumbnails, by row."""
        return {item.row: each for item, each in zip(self.items, self.thumbnails, strict=True)}


@dataclass(frozen=True)
class StoredBatch:
    """A batch as it was kept; what is large stays in its file until it is asked for.

    Attributes:
        start: the batch's first row, good or not.
        rows: rows of the n pictures that could be used, ascending, shape (n,).
        skipped: the other pictures.
        path: the file.
    """

    start: int
    rows: npt.NDArray[np.int64]
    skipped: list[Skipped]
    path: Path

    def vectors(self, features: str) -> Vectors:
        """Return the vectors of the pictures, shape (n, d).

        Raises:
            IndexingError: the file cannot be read.
        """
        vectors: Vectors = self._array(features)
        return vectors

    def metadata(self) -> list[dict[str, str]]:
        """Return id, label and caption of each picture.

        Raises:
            IndexingError: the file cannot be read.
        """
        return [dict(zip(NAMES, each, strict=True)) for each in json.loads(self._array("metadata").tobytes())]

    def _array(self, name: str) -> npt.NDArray[Any]:
        try:
            with np.load(self.path, allow_pickle=False) as file:
                array: npt.NDArray[Any] = file[name]
                return array
        except (OSError, *DAMAGE) as error:
            raise _unreadable(self.path, error) from error


class Batches:
    """The batches of one build, in a folder of it."""

    def __init__(self, build: Path) -> None:
        """Take the build's folder; nothing is read or made yet."""
        self.folder = build / FOLDER
        self._all: list[StoredBatch] | None = None  # read once, until another batch is kept

    def keep(self, batch: Batch) -> StoredBatch:
        """Keep a batch, and return it as it is kept.

        Raises:
            IndexingError: the folder cannot be written.
        """
        path = self.folder / f"{batch.start:012d}.npz"
        rows = np.array([item.row for item in batch.items], np.int64)
        arrays: dict[str, Any] = {
            "rows": rows,
            "metadata": _as_bytes([[getattr(item, name) for name in NAMES] for item in batch.items]),
            "skipped": _as_bytes([[each.row, each.id, each.reason] for each in batch.skipped]),
            **batch.vectors,
        }
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            temporary = path.with_suffix(".tmp")
            with temporary.open("wb") as file:
                np.savez(file, **arrays)
            temporary.replace(path)
        except OSError as error:
            raise cannot_write(self.folder.parent, error) from error
        self._all = None
        return StoredBatch(batch.start, rows, list(batch.skipped), path)

    @property
    def all(self) -> list[StoredBatch]:
        """The complete batches, by their first row; a damaged one counts as missing.

        Raises:
            IndexingError: one cannot be read.
        """
        if self._all is None:
            self._all = list(self._read())
        return self._all

    def _read(self) -> Iterator[StoredBatch]:
        for path in sorted(self.folder.glob("*.npz")):
            try:
                with np.load(path, allow_pickle=False) as file:
                    rows, skipped = file["rows"], json.loads(file["skipped"].tobytes())
            except DAMAGE as error:  # the machine lost its power in that moment
                log.warning("%s is damaged (%s); its pictures are embedded again.", path, error)
                continue
            except OSError as error:
                raise _unreadable(path, error) from error
            yield StoredBatch(int(path.stem), rows, [Skipped(*each) for each in skipped], path)


def _unreadable(path: Path, error: Exception) -> IndexingError:
    return IndexingError(
        f"{path} cannot be read: {error}. If it is damaged, delete it and run the same command again; its pictures are "
        "embedded again."
    )


def _as_bytes(values: list[Any]) -> npt.NDArray[np.uint8]:
    return np.frombuffer(json.dumps(values).encode(), np.uint8)
