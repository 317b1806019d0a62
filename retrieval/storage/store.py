"""The store that a builder writes one build to: batches, thumbnails and ChromaDB collections."""

import errno
import logging
import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
from typing_extensions import override

from retrieval.engines.checksums import chroma_is_unchanged
from retrieval.engines.chroma_folder import ChromaFolder, Collections, chroma_errors
from retrieval.errors import IndexingError, cannot_write
from retrieval.features import Vectors
from retrieval.storage.batches import Batch, Batches, StoredBatch
from retrieval.storage.manifest import Skipped, rebuild_command, thumbnail_path

log = logging.getLogger(__name__)

BATCHES_PER_INSERT = 4  # ChromaDB inserts four batches in two thirds of the time of four single inserts

# How SQLite and Rust report a full disk; with less free space than ROOM, any of their messages can mean it.
NO_ROOM = ("disk is full", "no space left")
ROOM = 16 * 2**20  # bytes


def write_thumbnails(build: Path, thumbnails: Mapping[int, bytes]) -> None:
    """Write encoded thumbnails, by row, to the paths that readers expect."""
    for row, content in thumbnails.items():
        path = thumbnail_path(build, row)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


class Store(ABC):
    """The batches, thumbnails and ChromaDB collections of one build."""

    folder: Path  # for the exported files, see `retrieval.storage.export`
    features: tuple[str, ...]

    @abstractmethod
    def close(self) -> None:
        """Release the store; other processes may open it afterwards."""

    @abstractmethod
    def rows(self) -> npt.NDArray[np.int64]:
        """Return the indexed rows of all complete batches, ascending."""

    @abstractmethod
    def skipped(self) -> list[Skipped]:
        """Return the skipped rows in order, each once."""

    @abstractmethod
    def complete(self) -> set[int]:
        """Return the first row of each complete batch; a resumed build skips these batches."""

    @abstractmethod
    def write(self, batch: Batch) -> None:
        """Write a batch and mark it as complete; raise IndexingError if it or an earlier one cannot be written."""

    def flush(self) -> None:  # noqa: B027  # a store may write without a buffer
        """Write buffered batches; raise IndexingError if that fails, unlike `close`, which ignores failures."""

    @abstractmethod
    def reconcile(self) -> None:
        """Make ChromaDB hold exactly the complete batches, even after an interrupted write."""

    @abstractmethod
    def read(self, rows: npt.NDArray[np.int64], features: str) -> Iterator[tuple[Vectors, list[dict[str, str]]]]:
        """Yield the vectors, shape (m, d), and the metadata of ascending rows, in parts."""


class FolderStore(Store):
    """The store of a build in a folder, locked until `close`.

    After a kill, ChromaDB's files are not trusted. They are rebuilt from the batches, which takes milliseconds per
    image and needs no embedding.
    """

    def __init__(self, folder: Path, features: Collection[str]) -> None:
        self.folder = folder
        self.features = tuple(features)
        self._batches = Batches(folder)
        self._waiting: list[StoredBatch] = []  # batches that are not in ChromaDB yet
        self._chroma = ChromaFolder(folder, reading=False, explain=self._explain)
        self._opened: Collections | None = None

    def _collections(self) -> Collections:
        """Return ChromaDB's collections, opened on first use and rebuilt if they cannot be trusted."""
        if self._opened is None:
            self._opened = self._open()
        return self._opened

    def _open(self) -> Collections:
        batches = self._batches.all
        trusted = bool(batches) and chroma_is_unchanged(self.folder)
        if not trusted:
            self._chroma.delete()
        collections = self._chroma.open(self.features)
        if not trusted and batches:
            log.warning("The previous build was killed. Rebuilding ChromaDB's files in `%s`.", self.folder)
            for start in range(0, len(batches), BATCHES_PER_INSERT):
                self._fill(collections, batches[start : start + BATCHES_PER_INSERT])
        self._chroma.sound = True
        return collections

    @override
    def close(self) -> None:
        try:
            self.flush()
        except IndexingError as error:  # the build has failed already; a successful one has called `flush`
            log.warning("ChromaDB's files in `%s` will be rebuilt: %s", self.folder, error)
        finally:
            self._chroma.close()

    @override
    def rows(self) -> npt.NDArray[np.int64]:
        return np.concatenate([np.empty(0, np.int64), *(batch.rows for batch in self._batches.all)])

    @override
    def skipped(self) -> list[Skipped]:
        return [each for batch in self._batches.all for each in batch.skipped]

    @override
    def complete(self) -> set[int]:
        return {batch.start for batch in self._batches.all}

    @override
    def write(self, batch: Batch) -> None:
        collections = self._collections()  # opened first, so that a rebuild does not include this batch
        self._chroma.sound = False
        try:
            write_thumbnails(self.folder, batch.thumbnails_by_row)
            self._waiting.append(self._batches.add(batch))
            if len(self._waiting) == BATCHES_PER_INSERT:
                self._flush_into(collections)
        except BaseException as error:
            self._waiting.clear()  # this batch may be missing, so no later `flush` may mark ChromaDB's files as sound
            if isinstance(error, OSError):
                raise cannot_write(self.folder, error) from error
            raise

    @override
    def flush(self) -> None:
        if self._waiting:
            self._flush_into(self._collections())

    def _flush_into(self, collections: Collections) -> None:
        waiting, self._waiting = self._waiting, []
        self._fill(collections, waiting)
        self._chroma.sound = True

    def _fill(self, collections: Collections, batches: list[StoredBatch]) -> None:
        if batches := [batch for batch in batches if len(batch.rows)]:
            with chroma_errors(self._explain):  # damaged batches can have vectors of different lengths
                rows = np.concatenate([batch.rows for batch in batches]).tolist()
                metadata = [each for batch in batches for each in batch.metadata()]
                vectors = {each: np.concatenate([batch.vectors(each) for batch in batches]) for each in self.features}
                collections.insert(rows, metadata, vectors)

    @override
    def reconcile(self) -> None:
        if not chroma_is_unchanged(self.folder):
            self._collections()

    @override
    def read(self, rows: npt.NDArray[np.int64], features: str) -> Iterator[tuple[Vectors, list[dict[str, str]]]]:
        for batch in self._batches.all:
            place = np.searchsorted(rows, batch.rows)
            wanted = np.flatnonzero(rows[np.minimum(place, len(rows) - 1)] == batch.rows)
            if len(wanted):
                metadata = batch.metadata()
                yield batch.vectors(features)[wanted], [metadata[each] for each in wanted]

    def _explain(self, reason: object) -> IndexingError:
        text = (str(reason).strip().splitlines() or ["unknown error"])[0][:300]
        full = self.folder.is_dir() and shutil.disk_usage(self.folder).free < ROOM
        if full or any(each in text.lower() for each in NO_ROOM):
            return cannot_write(self.folder, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
        return IndexingError(
            f"ChromaDB cannot use `{self.folder}`: {text}. If the disk is neither full nor read-only, the index is "
            f"damaged. Rebuild it: `{rebuild_command(self.folder.parent)}`"
        )
