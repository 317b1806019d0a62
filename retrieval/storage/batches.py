"""The batches that a builder has finished so far: one file each, written atomically and never changed.

A build is resumed from these files, and the files for readers are derived from them. ChromaDB cannot serve as that
record, because it overwrites its files: a kill during a write leaves a collection that cannot be opened or that lacks
vectors without an error.
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
# Raised by numpy and zipfile for an incomplete or damaged file.
DAMAGE_ERRORS = (BadZipFile, ValueError, KeyError, EOFError, NotImplementedError, RuntimeError)


@dataclass(frozen=True)
class Batch:
    """The results for `rows` consecutive rows, beginning with row `start`."""

    start: int
    rows: int
    items: tuple[Item, ...]  # the rows whose images could be used, without their encoded bytes
    thumbnails: tuple[bytes, ...]  # JPEG, one for each item
    vectors: dict[str, Vectors]  # for each feature type, shape (len(items), d)
    skipped: tuple[Skipped, ...]  # the other rows

    @property
    def thumbnails_by_row(self) -> dict[int, bytes]:
        """The thumbnails, by row."""
        return {item.row: each for item, each in zip(self.items, self.thumbnails, strict=True)}


@dataclass(frozen=True)
class StoredBatch:
    """A batch in its file, from which vectors and metadata are read on demand."""

    start: int
    rows: npt.NDArray[np.int64]  # of the n images that could be used, ascending, shape (n,)
    skipped: list[Skipped]
    path: Path

    def vectors(self, features: str) -> Vectors:
        """Return the vectors of the n images, shape (n, d); raise IndexingError if the file cannot be read."""
        vectors: Vectors = self._array(features)
        return vectors

    def metadata(self) -> list[dict[str, str]]:
        """Return id, label and caption of each image; raise IndexingError if the file cannot be read."""
        return [dict(zip(NAMES, each, strict=True)) for each in json.loads(self._array("metadata").tobytes())]

    def _array(self, name: str) -> npt.NDArray[Any]:
        try:
            with np.load(self.path, allow_pickle=False) as file:
                array: npt.NDArray[Any] = file[name]
                return array
        except (OSError, *DAMAGE_ERRORS) as error:
            raise _unreadable(self.path, error) from error


class Batches:
    """The stored batches of one build, in a folder inside the build's folder."""

    def __init__(self, build: Path) -> None:
        self.folder = build / FOLDER
        self._all: list[StoredBatch] | None = None  # cached until another batch is added

    def add(self, batch: Batch) -> StoredBatch:
        """Write a batch to its file; raise IndexingError if that fails."""
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
        """The complete batches in order; a damaged one counts as missing, an unreadable one raises IndexingError."""
        if self._all is None:
            self._all = list(self._read())
        return self._all

    def _read(self) -> Iterator[StoredBatch]:
        for path in sorted(self.folder.glob("*.npz")):
            try:
                with np.load(path, allow_pickle=False) as file:
                    rows, skipped = file["rows"], json.loads(file["skipped"].tobytes())
            except DAMAGE_ERRORS as error:  # possible after a power failure
                log.warning("`%s` is damaged (%s). Its images will be embedded again.", path, error)
                continue
            except OSError as error:
                raise _unreadable(path, error) from error
            yield StoredBatch(int(path.stem), rows, [Skipped(*each) for each in skipped], path)


def _unreadable(path: Path, error: Exception) -> IndexingError:
    return IndexingError(
        f"`{path}` cannot be read: {error}. If it is damaged, delete it and run the same command again; its images "
        "will be embedded again."
    )


def _as_bytes(values: list[Any]) -> npt.NDArray[np.uint8]:
    return np.frombuffer(json.dumps(values).encode(), np.uint8)
