"""ChromaDB: one collection for each pair of features and view, under stable ids; in a folder, owned by one process."""

import errno
import json
import logging
import os
import shutil
import weakref
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from typing import TYPE_CHECKING, Any

import chromadb
import numpy as np
import numpy.typing as npt
from chromadb.config import Settings as ChromaSettings
from chromadb.errors import ChromaError
from filelock import FileLock

from retrieval.checksums import check
from retrieval.errors import IndexingError, cannot_write
from retrieval.features import Features, Vectors
from retrieval.manifest import Skipped, rebuild_command, thumbnail_path
from retrieval.metrics import View, view_of
from retrieval.ownership import own

if TYPE_CHECKING:
    from retrieval.gallery import Item

log = logging.getLogger(__name__)

# CLIP vectors have unit length, so their plain and unit views are one collection. The last collection marks a
# batch as complete: it is written after all others.
COLLECTIONS = (
    (Features.PIXELS, View.PLAIN),
    (Features.PIXELS, View.UNIT),
    (Features.PIXELS, View.CENTRED),
    (Features.CLIP, View.PLAIN),
    (Features.CLIP, View.CENTRED),
)
MARKER = COLLECTIONS[-1]

# By benchmarks/hnsw.py: recall@10 of 1.0 on 100,000 clustered vectors. Chroma's defaults (100, 16, 100) reach 0.994
# there and find a third as much as this where vectors do not cluster (which is little either way); with (100, 16, 200)
# a search for all icons by pixels no longer reaches all of them.
GRAPH = {"ef_construction": 200, "max_neighbors": 32, "ef_search": 200}
READ_ROWS = 256  # rows fetched at once; 256 pixel vectors are 3 MB, and Chroma Cloud answers with 300 rows at most

SKIPPED_FILE = "skipped.jsonl"

# A damaged file shows as an InternalError of Chroma, as a RuntimeError, or as a panic of its Rust part.
# How SQLite and Rust say that the disk is full; on one with less room they may say anything.
NO_ROOM = ("disk is full", "no space left")
ROOM = 16 * 2**20  # bytes
STORE_ERRORS = (ChromaError, OSError, ValueError, RuntimeError, KeyError)


def _give_back(client: Any, lock: FileLock, aside: TemporaryDirectory[str] | None) -> None:
    client.close()
    lock.release()
    if aside:
        aside.cleanup()


def _aside(folder: Path) -> TemporaryDirectory[str]:
    """Return a copy of ChromaDB's files, which it cannot open where it cannot write."""
    log.warning("%s is read-only: ChromaDB works on a copy below %s.", folder, gettempdir())
    aside = TemporaryDirectory(prefix="lookalike-")
    for path in (folder / "chroma").rglob("*"):
        if path.is_file():
            copy = Path(aside.name) / path.relative_to(folder)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)  # without its mode, by which it may be read-only
    return aside


def row_key(row: int) -> str:
    """Return the id of a row in Chroma; sorted as text, ids are in gallery order."""
    return f"{row:012d}"


def collection_of(features: Features, view: View) -> tuple[Features, View]:
    """Return the collection that holds a view of features."""
    if features is Features.CLIP and view is View.UNIT:
        return (features, View.PLAIN)
    return (features, view)


def configuration_of(view: View) -> Any:
    """Return what ChromaDB is told when it makes the collection of a view."""
    return {"hnsw": {"space": "l2" if view is View.PLAIN else "ip", **GRAPH}}


def write_thumbnails(build: Path, thumbnails: Mapping[int, bytes]) -> None:
    """Write thumbnails, encoded, by row, to where readers look for them.

    Raises:
        OSError: the folder cannot be written.
    """
    for row, content in thumbnails.items():
        path = thumbnail_path(build, row)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


class Store(ABC):
    """The vectors of one build, and what else a build keeps; `FolderStore` and `ServerStore` say where.

    Attributes:
        folder: where the files for readers are made, see `retrieval.export`.
        results_max: neighbours that a query is answered with at most; None for as many as are asked for.
        named_max: rows that a query names one by one at most.
    """

    folder: Path
    results_max: int | None = None
    named_max = 20_000  # ChromaDB takes 5 ms for 2,000, by their metadata 20 ms
    _collections: dict[tuple[Features, View], chromadb.Collection]

    @abstractmethod
    def close(self) -> None:
        """Give the store back."""

    @abstractmethod
    def rows(self) -> npt.NDArray[np.int64]:
        """Return the indexed rows of all batches that were written completely, ascending."""

    @abstractmethod
    def skipped(self) -> list[Skipped]:
        """Return what was skipped so far, by row; a row that was tried again counts once."""

    @abstractmethod
    def complete(self, size: int) -> set[int]:
        """Return the first rows of the batches of `size` rows that need not be written again."""

    @abstractmethod
    def keep(self, thumbnails: Mapping[int, bytes], skipped: Sequence[Skipped]) -> None:
        """Keep a batch's thumbnails, by row, and what was skipped of it; before its vectors are written."""

    @abstractmethod
    def commit(self, start: int, rows: int, skipped: Sequence[Skipped]) -> None:
        """Mark the batch that starts at a row as complete; everything else of it is written."""

    @abstractmethod
    def drop_rows_except(self, rows: npt.NDArray[np.int64]) -> None:
        """Remove what an interrupted batch left in collections and no later batch replaced."""

    def write(self, items: Sequence["Item"], vectors: dict[Features, Vectors]) -> None:
        """Write a batch: every view of every feature vector, the marker collection last.

        Args:
            items: n items.
            vectors: for each features an array of shape (n, d).
        """
        ids = [row_key(item.row) for item in items]
        # Read back from the plain collections alone; the label filters in all of them.
        labels: list[Any] = [{"label": i.label} for i in items]
        whole: list[Any] = [{"id": i.id, "label": i.label, "caption": i.caption} for i in items]
        with self._worded():
            for (features, view), collection in self._collections.items():
                # The view is taken in float64, so that rounding does not turn a flat picture into noise.
                seen = view_of(view, vectors[features].astype(np.float64)).astype(np.float32)
                metadata = whole if view is View.PLAIN else labels
                collection.upsert(ids=ids, embeddings=seen, metadatas=metadata)

    def read(self, rows: npt.NDArray[np.int64], features: Features) -> Iterator[tuple[Vectors, list[dict[str, str]]]]:
        """Yield the plain vectors, shape (m, d), and the metadata of rows, in the order asked for, in pieces."""
        collection = self._collections[(features, View.PLAIN)]
        for start in range(0, len(rows), READ_ROWS):
            keys = [row_key(int(row)) for row in rows[start : start + READ_ROWS]]
            with self._worded():
                found = collection.get(ids=keys, include=["embeddings", "metadatas"])
            place = {key: i for i, key in enumerate(found["ids"])}
            if missing := [key for key in keys if key not in place]:
                raise self._failure(f"{len(missing)} of its vectors are missing")
            order = [place[key] for key in keys]
            metadata: Any = found["metadatas"]
            yield np.asarray(found["embeddings"], np.float32)[order], [dict(metadata[i]) for i in order]

    def nearest(
        self,
        features: Features,
        view: View,
        vector: Vectors,
        count: int,
        labels: Collection[str] = (),
        labelled: npt.NDArray[np.int64] | None = None,
    ) -> npt.NDArray[np.int64]:
        """Return the rows of about `count` nearest neighbours of a vector, shape (d,), in a view, closest first.

        The order is that of Chroma's distances, in float32.

        HNSW is approximate: it may miss some, and returns fewer where its graph ends.

        Args:
            features: what is compared.
            view: how the vectors are looked at.
            vector: the query's plain vector.
            count: how many are wanted.
            labels: only rows that have one of them; empty keeps all.
            labelled: those rows; the answer is the same, and comes sooner.
        """
        seen = view_of(view, vector.astype(np.float64)[None]).astype(np.float32)
        kept: dict[str, Any] = {"where": {"label": {"$in": list(labels)}}} if labels else {}
        if labelled is not None and len(labelled) <= self.named_max:
            kept = {"ids": [row_key(row) for row in labelled.tolist()]}
        with self._worded():
            found = self._collections[collection_of(features, view)].query(
                query_embeddings=seen, n_results=min(count, self.results_max or count), include=[], **kept
            )
            return np.array(found["ids"][0], dtype=np.int64)

    @contextmanager
    def _worded(self) -> Iterator[None]:
        try:
            yield
        except IndexingError:
            raise
        except STORE_ERRORS as error:
            raise self._failure(error) from error
        except AttributeError as error:  # ChromaDB's own, when it gives back what it could not open
            raise self._failure(error.__context__ or error) from error
        except BaseException as error:
            if type(error).__name__ != "PanicException":  # of Chroma's Rust part; it derives from BaseException
                raise
            raise self._failure(error) from error

    @abstractmethod
    def _failure(self, reason: object) -> IndexingError:
        """Return the worded form of a failure of ChromaDB."""


class FolderStore(Store):
    """A build in an embedded ChromaDB, its thumbnails and reasons as files beside it."""

    def __init__(self, folder: Path, remedy: str = "") -> None:
        """Open the store in a build's folder and own it until `close`.

        Args:
            folder: the build's.
            remedy: what to do if it is damaged, for who reads a finished build; of that nothing is made. Empty for who
                builds: what is not there is made.

        Raises:
            IndexingError: another process has it open, or it is damaged or not accessible.
        """
        self.folder = folder
        self._remedy = remedy
        if remedy and not folder.is_dir():
            raise IndexingError(
                f"The index in {folder} is not there any more: the gallery was built anew, or deleted. Try again; if "
                f"that does not help: {remedy}"
            )
        with self._worded():
            if remedy:
                check(folder, "chroma")
            aside = _aside(folder) if remedy and not os.access(folder, os.W_OK) else None
        where = Path(aside.name) if aside else folder
        self._lock = own(where)
        try:
            with self._worded():
                self._client: Any = chromadb.PersistentClient(
                    str(where / "chroma"), settings=ChromaSettings(anonymized_telemetry=False)
                )
                self._collections = {key: self._collection(*key) for key in COLLECTIONS}
        except BaseException:
            self._lock.release()
            raise
        # Also when nobody refers to the store any more: then the last search in it has ended.
        self._give_back = weakref.finalize(self, _give_back, self._client, self._lock, aside)

    def _collection(self, features: Features, view: View) -> chromadb.Collection:
        collection: chromadb.Collection = self._client.get_or_create_collection(
            f"{features}-{view}", configuration=configuration_of(view), embedding_function=None
        )
        return collection

    def close(self) -> None:
        """Give the store back; other processes may open it afterwards."""
        self._give_back()

    def rows(self) -> npt.NDArray[np.int64]:
        """See `Store`, like the rest."""
        with self._worded():
            ids = self._collections[MARKER].get(include=[])["ids"]
        return np.sort(np.array(ids, dtype=np.int64))

    def skipped(self) -> list[Skipped]:
        """See `Store`."""
        path = self.folder / SKIPPED_FILE
        found: dict[int, Skipped] = {}
        for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
            try:
                each = Skipped(**json.loads(line))
            except (ValueError, TypeError):
                continue  # a line cut off when the builder was killed; its batch was tried again
            found[each.row] = each
        return [found[row] for row in sorted(found)]

    def complete(self, size: int) -> set[int]:
        """See `Store`; a batch without a single good picture leaves no trace, and is tried again."""
        return {int(start) for start in np.unique(self.rows() // size) * size}

    def keep(self, thumbnails: Mapping[int, bytes], skipped: Sequence[Skipped]) -> None:
        """See `Store`."""
        try:
            if skipped:
                with (self.folder / SKIPPED_FILE).open("a", encoding="utf-8") as file:
                    file.writelines(f"\n{json.dumps(asdict(each))}" for each in skipped)  # a line cut off stays alone
            write_thumbnails(self.folder, thumbnails)
        except OSError as error:
            raise cannot_write(self.folder, error) from error

    def commit(self, start: int, rows: int, skipped: Sequence[Skipped]) -> None:
        """See `Store`; nothing to do, since the last collection that is written marks the rows."""

    def drop_rows_except(self, rows: npt.NDArray[np.int64]) -> None:
        """See `Store`."""
        keep = {row_key(int(row)) for row in rows}
        with self._worded():
            for collection in self._collections.values():
                if collection.count() != len(keep):
                    extra = [each for each in collection.get(include=[])["ids"] if each not in keep]
                    for start in range(0, len(extra), READ_ROWS):
                        collection.delete(ids=extra[start : start + READ_ROWS])

    def _failure(self, reason: object) -> IndexingError:
        text = (str(reason).strip().splitlines() or ["unknown error"])[0][:300]
        full = self.folder.is_dir() and shutil.disk_usage(self.folder).free < ROOM
        if full or any(each in text.lower() for each in NO_ROOM):
            return cannot_write(self.folder, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
        remedy = self._remedy or f"Build it again: {rebuild_command(self.folder.parent)}"
        return IndexingError(
            f"ChromaDB cannot use {self.folder}: {text}. If the disk is not full or read-only, the index is damaged. "
            f"{remedy}"
        )
