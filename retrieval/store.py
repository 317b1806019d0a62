"""ChromaDB: one collection for each pair of features and view, under stable ids, owned by one process at a time."""

import weakref
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import chromadb
import numpy as np
import numpy.typing as npt
from chromadb.config import Settings as ChromaSettings
from chromadb.errors import ChromaError
from filelock import FileLock, Timeout

from retrieval.errors import IndexingError
from retrieval.features import Features, Vectors
from retrieval.gallery import Item
from retrieval.metrics import View, view_of

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
READ_ROWS = 512  # rows fetched at once; 512 pixel vectors are 6 MB

# A damaged file shows as an InternalError of Chroma, as a RuntimeError, or as a panic of its Rust part.
STORE_ERRORS = (ChromaError, OSError, ValueError, RuntimeError, KeyError)


class IndexInUse(IndexingError):
    """Another process owns the build."""


def own(build: Path) -> FileLock:
    """Take a build's folder for this process alone, making it if need be; the lock ends with the process.

    Raises:
        IndexInUse: another process has it.
        IndexingError: the folder cannot be written.
    """
    lock = FileLock(build / "lock", timeout=0)
    try:
        build.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout as error:
        raise IndexInUse(
            f"The index in {build} is in use by another process (a running app or builder). Stop that one "
            "first, or search with --engine exact (compare with --exact-only), which any number of processes can do."
        ) from error
    except OSError as error:
        raise IndexingError(f"The index folder {build} cannot be written: {error.strerror or error}.") from error
    return lock


def _give_back(client: Any, lock: FileLock) -> None:
    client.close()
    lock.release()


def row_key(row: int) -> str:
    """Return the id of a row in Chroma; sorted as text, ids are in gallery order."""
    return f"{row:012d}"


def collection_of(features: Features, view: View) -> tuple[Features, View]:
    """Return the collection that holds a view of features."""
    if features is Features.CLIP and view is View.UNIT:
        return (features, View.PLAIN)
    return (features, view)


class Store:
    """The vectors of one build in an embedded ChromaDB."""

    def __init__(self, folder: Path) -> None:
        """Open (or make) the store in a build's folder and own it until `close`.

        Raises:
            IndexingError: another process has it open, or it is damaged or not accessible.
        """
        self.folder = folder
        self._lock = own(folder)
        try:
            with self._worded():
                self._client: Any = chromadb.PersistentClient(
                    str(folder / "chroma"), settings=ChromaSettings(anonymized_telemetry=False)
                )
                self._collections: dict[tuple[Features, View], chromadb.Collection] = {
                    key: self._collection(*key) for key in COLLECTIONS
                }
        except IndexingError:
            self._lock.release()
            raise
        # Also when nobody refers to the store any more: then the last search in it has ended.
        self._give_back = weakref.finalize(self, _give_back, self._client, self._lock)

    def _collection(self, features: Features, view: View) -> chromadb.Collection:
        configuration: Any = {"hnsw": {"space": "l2" if view is View.PLAIN else "ip", **GRAPH}}
        collection: chromadb.Collection = self._client.get_or_create_collection(
            f"{features}-{view}", configuration=configuration, embedding_function=None
        )
        return collection

    def close(self) -> None:
        """Give the store back; other processes may open it afterwards."""
        self._give_back()

    def rows(self) -> npt.NDArray[np.int64]:
        """Return the rows whose batch was written completely, ascending."""
        with self._worded():
            ids = self._collections[MARKER].get(include=[])["ids"]
        return np.sort(np.array(ids, dtype=np.int64))

    def write(self, items: Sequence[Item], vectors: dict[Features, Vectors]) -> None:
        """Write a batch: every view of every feature vector, the marker collection last.

        Args:
            items: n items.
            vectors: for each features an array of shape (n, d).
        """
        ids = [row_key(item.row) for item in items]
        metadata: list[Any] = [{"id": i.id, "label": i.label, "caption": i.caption} for i in items]
        with self._worded():
            for (features, view), collection in self._collections.items():
                # The view is taken in float64, so that rounding does not turn a flat picture into noise.
                seen = view_of(view, vectors[features].astype(np.float64)).astype(np.float32)
                collection.upsert(ids=ids, embeddings=seen, metadatas=metadata)

    def drop_rows_except(self, rows: npt.NDArray[np.int64]) -> None:
        """Remove what an interrupted batch left in other collections and no later batch replaced."""
        keep = {row_key(int(row)) for row in rows}
        with self._worded():
            for collection in self._collections.values():
                if collection.count() != len(keep):
                    extra = [each for each in collection.get(include=[])["ids"] if each not in keep]
                    for start in range(0, len(extra), READ_ROWS):
                        collection.delete(ids=extra[start : start + READ_ROWS])

    def read(self, rows: npt.NDArray[np.int64], features: Features) -> Iterator[tuple[Vectors, list[dict[str, str]]]]:
        """Yield the plain vectors, shape (m, d), and the metadata of rows, in the order asked for, in pieces."""
        collection = self._collections[(features, View.PLAIN)]
        for start in range(0, len(rows), READ_ROWS):
            keys = [row_key(int(row)) for row in rows[start : start + READ_ROWS]]
            with self._worded():
                found = collection.get(ids=keys, include=["embeddings", "metadatas"])
            place = {key: i for i, key in enumerate(found["ids"])}
            if missing := [key for key in keys if key not in place]:
                raise self._damaged(f"{len(missing)} of its vectors are missing")
            order = [place[key] for key in keys]
            metadata: Any = found["metadatas"]
            yield np.asarray(found["embeddings"], np.float32)[order], [dict(metadata[i]) for i in order]

    def nearest(
        self, features: Features, view: View, vector: Vectors, count: int, labels: Collection[str] = ()
    ) -> npt.NDArray[np.int64]:
        """Return the rows of about `count` nearest neighbours of a vector, shape (d,), in a view; unordered.

        With labels, only rows that have one of them.

        HNSW is approximate: it may miss some, and returns fewer where its graph ends.
        """
        seen = view_of(view, vector.astype(np.float64)[None]).astype(np.float32)
        where: Any = {"label": {"$in": list(labels)}} if labels else None
        with self._worded():
            found = self._collections[collection_of(features, view)].query(
                query_embeddings=seen, n_results=count, include=[], where=where
            )
        return np.array(found["ids"][0], dtype=np.int64)

    @contextmanager
    def _worded(self) -> Iterator[None]:
        try:
            yield
        except IndexingError:
            raise
        except STORE_ERRORS as error:
            raise self._damaged(str(error)) from error
        except BaseException as error:
            if type(error).__name__ != "PanicException":  # of Chroma's Rust part; it derives from BaseException
                raise
            raise self._damaged(str(error)) from error

    def _damaged(self, reason: str) -> IndexingError:
        reason = (reason.strip().splitlines() or ["unknown error"])[0][:300]
        return IndexingError(
            f"ChromaDB cannot use {self.folder}: {reason}. If the disk is not full or read-only, the index is "
            "damaged; build it again with index_builder.py --rebuild."
        )
