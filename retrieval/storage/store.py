"""ChromaDB: one collection for each pair of features and view, under stable ids; in a folder, owned by one process."""

import errno
import logging
import os
import shutil
import weakref
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from typing import Any

import chromadb
import numpy as np
import numpy.typing as npt
from chromadb.api.shared_system_client import SharedSystemClient
from chromadb.config import Settings as ChromaSettings
from chromadb.errors import ChromaError
from filelock import FileLock

from retrieval.engines.checksums import CHROMA, WHOLE, check, is_whole, note_whole
from retrieval.engines.checksums import FILE as CHECKSUMS
from retrieval.engines.lock import own
from retrieval.errors import IndexingError, cannot_write
from retrieval.features import Features, Vectors
from retrieval.metrics import View, view_of
from retrieval.storage.batches import Batch, Batches, Kept
from retrieval.storage.manifest import Skipped, rebuild_command, thumbnail_path

log = logging.getLogger(__name__)

# CLIP vectors have unit length, so their plain and unit views are one collection.
COLLECTIONS = (
    (Features.PIXELS, View.PLAIN),
    (Features.PIXELS, View.UNIT),
    (Features.PIXELS, View.CENTRED),
    (Features.CLIP, View.PLAIN),
    (Features.CLIP, View.CENTRED),
)

# By benchmarks/hnsw.py: recall@10 of 0.997 in 1.5 ms on 100,000 clustered vectors, as with an ef_construction of 200,
# which takes twice the time to build. Chroma's defaults (100, 16, 100) reach 0.983 there, and find a third of what 32
# neighbours do where vectors do not cluster (which is little either way). With 32, a search for all icons by pixels
# missed some that no link leads to; 48 cost no time.
# ChromaDB writes its graph to disk every `sync_threshold` records (by default 1,000), and whoever opens a collection
# inserts again what came after: 2 s of a core for 852 pictures by pixels. A batch is 64.
GRAPH = {"ef_construction": 100, "max_neighbors": 48, "ef_search": 200, "sync_threshold": 64, "batch_size": 64}
TOGETHER = 4  # batches inserted at once: ChromaDB takes two thirds of the time that it takes for each of its own
READ_ROWS = 256  # rows fetched at once; 256 pixel vectors are 3 MB, and Chroma Cloud answers with 300 rows at most

# How SQLite and Rust say that the disk is full; on one with less room they may say anything.
NO_ROOM = ("disk is full", "no space left")
ROOM = 16 * 2**20  # bytes
# A damaged file shows as an InternalError of Chroma, as a RuntimeError, or as a panic of its Rust part.
STORE_ERRORS = (ChromaError, OSError, ValueError, RuntimeError, KeyError)


@dataclass
class _Chroma:
    """ChromaDB in the folder `chroma` of a build, and what becomes of it."""

    build: Path
    client: Any = None
    sound: bool = False  # everything that was begun to be written is written

    @property
    def folder(self) -> Path:
        return self.build / CHROMA

    def give_back(self) -> None:
        if self.client is None:
            return
        self.client.close()
        if self.sound:
            try:
                note_whole(self.build)
            except (OSError, ValueError) as error:
                log.warning("ChromaDB's files in %s will be written anew: %s", self.folder, error)


def _client(folder: str) -> Any:
    try:
        return chromadb.PersistentClient(folder, settings=ChromaSettings(anonymized_telemetry=False))
    except BaseException:
        # It would keep what it has half opened, and hand that to who tries again.
        SharedSystemClient._identifier_to_system.pop(folder, None)
        SharedSystemClient._identifier_to_refcount.pop(folder, None)
        raise


def _give_back(chroma: _Chroma, lock: FileLock, aside: TemporaryDirectory[str] | None) -> None:
    try:
        chroma.give_back()
    finally:
        lock.release()
        if aside:
            aside.cleanup()


def _aside(folder: Path) -> TemporaryDirectory[str]:
    """Return a copy of ChromaDB's files and their checksums, since it opens nothing where it cannot write.

    Raises:
        IndexingError: there is no room for it.
    """
    log.warning("%s is read-only: ChromaDB works on a copy below %s.", folder, gettempdir())
    try:
        aside = TemporaryDirectory(prefix="lookalike-")
        for path in (folder / CHECKSUMS, *(folder / CHROMA).rglob("*")):
            if path.is_file():
                copy = Path(aside.name) / path.relative_to(folder)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, copy)  # without its mode, by which it may be read-only
    except OSError as error:
        raise IndexingError(
            f"{folder} is read-only, and the copy that ChromaDB needs cannot be made below {gettempdir()}: "
            f"{error.strerror or error}. Make room there, or name another folder by TMPDIR; the exact scan needs none."
        ) from error
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
        folder: where the files for readers are made, see `retrieval.storage.export`.
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
    def complete(self) -> set[int]:
        """Return the first rows of the batches that need not be written again."""

    @abstractmethod
    def write(self, batch: Batch) -> None:
        """Write a batch, of which nothing needs to be embedded again from then on.

        Raises:
            IndexingError: it, or one before it, cannot be written.
        """

    def flush(self) -> None:  # noqa: B027  # most stores hold nothing back
        """Write what is held back. `close` does so too, but then a failure is no error.

        Raises:
            IndexingError: it cannot be written.
        """

    @abstractmethod
    def settle(self) -> None:
        """See that ChromaDB has what the complete batches have, and nothing else, whatever was interrupted."""

    @abstractmethod
    def read(self, rows: npt.NDArray[np.int64], features: Features) -> Iterator[tuple[Vectors, list[dict[str, str]]]]:
        """Yield the plain vectors, shape (m, d), and the metadata of rows, which ascend, in pieces."""

    def upsert(
        self, rows: Sequence[int], metadata: Sequence[Mapping[str, str]], vectors: Mapping[Features, Vectors]
    ) -> None:
        """Write every view of the feature vectors of n rows, for each features of shape (n, d)."""
        self._insert(self._collections, rows, metadata, vectors)

    def _insert(
        self,
        collections: Mapping[tuple[Features, View], chromadb.Collection],
        rows: Sequence[int],
        metadata: Sequence[Mapping[str, str]],
        vectors: Mapping[Features, Vectors],
    ) -> None:
        ids = [row_key(row) for row in rows]
        # Read back from the plain collections alone; the label filters in all of them.
        whole: list[Any] = [dict(each) for each in metadata]
        labels: list[Any] = [{"label": each["label"]} for each in metadata]
        with self._worded():
            for (features, view), collection in collections.items():
                # The view is taken in float64, so that rounding does not turn a flat picture into noise.
                seen = view_of(view, vectors[features].astype(np.float64)).astype(np.float32)
                collection.upsert(ids=ids, embeddings=seen, metadatas=whole if view is View.PLAIN else labels)

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
    """A build in an embedded ChromaDB, its thumbnails and batches as files beside it.

    ChromaDB's files are trusted only if they were given back after the last write. After a kill they are deleted and
    made anew from the batches, which takes some milliseconds a picture and embeds nothing again.
    """

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
        self._batches = Batches(folder)
        self._waiting: list[Kept] = []  # batches that ChromaDB has not yet
        if remedy and not folder.is_dir():
            raise self._gone()
        aside = _aside(folder) if remedy and not os.access(folder, os.W_OK) else None
        where = Path(aside.name) if aside else folder
        self._chroma = _Chroma(where)
        try:
            self._lock = own(where, make=not remedy)
        except IndexingError as error:
            if remedy and not folder.is_dir():
                raise self._gone() from error
            raise
        # Also when nobody refers to the store any more: then the last search in it has ended.
        self._give_back = weakref.finalize(self, _give_back, self._chroma, self._lock, aside)
        if remedy:
            try:
                with self._worded():
                    check(where, CHROMA)  # not before it is owned: until then somebody may sweep it away
                len(self._collections)  # whoever reads is told at once
            except BaseException:
                self.close()
                raise

    def _gone(self) -> IndexingError:
        return IndexingError(
            f"The index in {self.folder} is not there any more: the gallery was built anew, or deleted. Try again; if "
            f"that does not help: {self._remedy}"
        )

    @cached_property
    def _collections(self) -> dict[tuple[Features, View], chromadb.Collection]:  # type: ignore[override]
        """ChromaDB's, opened when they are needed, and made anew if they cannot be trusted."""
        chroma = self._chroma
        batches = [] if self._remedy else self._batches.all
        trusted = bool(self._remedy) or (bool(batches) and is_whole(chroma.build))
        with self._worded():
            if not trusted and chroma.folder.exists():
                shutil.rmtree(chroma.folder)
            if not self._remedy:
                (chroma.build / WHOLE).unlink(missing_ok=True)
            chroma.client = _client(str(chroma.folder))
            collections = {key: self._collection(*key) for key in COLLECTIONS}
        if not trusted and batches:
            log.warning("The builder was killed: ChromaDB's files in %s are written anew.", chroma.folder)
            for start in range(0, len(batches), TOGETHER):
                self._fill(collections, batches[start : start + TOGETHER])
        chroma.sound = not self._remedy
        return collections

    def _collection(self, features: Features, view: View) -> chromadb.Collection:
        name, client = f"{features}-{view}", self._chroma.client
        collection: chromadb.Collection = (
            client.get_collection(name, embedding_function=None)
            if self._remedy
            else client.get_or_create_collection(name, configuration=configuration_of(view), embedding_function=None)
        )
        return collection

    def close(self) -> None:
        """Give the store back; other processes may open it afterwards."""
        try:
            self.flush()
        except IndexingError as error:  # of one who stops for another reason; who is done has called `flush`
            log.warning("ChromaDB's files in %s will be written anew: %s", self._chroma.folder, error)
        finally:
            self._give_back()

    def rows(self) -> npt.NDArray[np.int64]:
        """See `Store`, like the rest."""
        return np.concatenate([np.empty(0, np.int64), *(batch.rows for batch in self._batches.all)])

    def skipped(self) -> list[Skipped]:
        """See `Store`."""
        return [each for batch in self._batches.all for each in batch.skipped]

    def complete(self) -> set[int]:
        """See `Store`."""
        return {batch.start for batch in self._batches.all}

    def write(self, batch: Batch) -> None:
        """See `Store`; ChromaDB gets some batches at a time, the last ones by `close`."""
        len(self._collections)  # what is made anew has no part of this batch
        self._chroma.sound = False
        try:
            write_thumbnails(self.folder, batch.thumbnails_by_row)
            self._waiting.append(self._batches.keep(batch))
            if len(self._waiting) == TOGETHER:
                self.flush()
        except BaseException as error:
            self._waiting.clear()  # perhaps not all that is kept: no `flush` may call ChromaDB's files sound any more
            if isinstance(error, OSError):
                raise cannot_write(self.folder, error) from error
            raise

    def flush(self) -> None:
        """See `Store`."""
        if self._waiting:
            waiting, self._waiting = self._waiting, []
            self._fill(self._collections, waiting)
            self._chroma.sound = True

    def _fill(self, collections: Mapping[tuple[Features, View], chromadb.Collection], batches: list[Kept]) -> None:
        with self._worded():
            if batches := [batch for batch in batches if len(batch.rows)]:
                rows = np.concatenate([batch.rows for batch in batches]).tolist()
                metadata = [each for batch in batches for each in batch.metadata()]
                vectors = {each: np.concatenate([batch.vectors(each) for batch in batches]) for each in Features}
                self._insert(collections, rows, metadata, vectors)

    def settle(self) -> None:
        """See `Store`."""
        if not is_whole(self.folder):
            len(self._collections)

    def read(self, rows: npt.NDArray[np.int64], features: Features) -> Iterator[tuple[Vectors, list[dict[str, str]]]]:
        """See `Store`."""
        for batch in self._batches.all:
            place = np.searchsorted(rows, batch.rows)
            wanted = np.flatnonzero(rows[np.minimum(place, len(rows) - 1)] == batch.rows)
            if len(wanted):
                metadata = batch.metadata()
                yield batch.vectors(features)[wanted], [metadata[each] for each in wanted]

    def _failure(self, reason: object) -> IndexingError:
        text = (str(reason).strip().splitlines() or ["unknown error"])[0][:300]
        full = self.folder.is_dir() and shutil.disk_usage(self.folder).free < ROOM
        if not self._remedy and (full or any(each in text.lower() for each in NO_ROOM)):  # a reader writes nothing
            return cannot_write(self.folder, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
        remedy = self._remedy or f"Build it again: {rebuild_command(self.folder.parent)}"
        return IndexingError(
            f"ChromaDB cannot use {self.folder}: {text}. If the disk is not full or read-only, the index is damaged. "
            f"{remedy}"
        )
