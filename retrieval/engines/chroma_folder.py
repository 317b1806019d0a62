"""ChromaDB's files in the folder of an index: one collection per feature type and view, owned by one process."""

import errno
import logging
import os
import shutil
import time
import weakref
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from typing import Any

import chromadb
import numpy as np
from chromadb.api.shared_system_client import SharedSystemClient
from chromadb.config import Settings as ChromaSettings
from chromadb.errors import ChromaError
from filelock import FileLock

from retrieval.engines.chroma_digests import CHROMA, DIGESTS, copy_chroma, delete_chroma, write_chroma_digests
from retrieval.engines.item_ids import Ids, as_hex, id_array
from retrieval.engines.lock import acquire_lock
from retrieval.errors import IndexingError, cannot_write
from retrieval.features import FEATURES, Vectors
from retrieval.installation import BUILDER
from retrieval.metrics import View, view_of

log = logging.getLogger(__name__)

# Measured by benchmarks/hnsw.py: recall@10 of 0.997 on 100,000 clustered vectors. Fewer than 48 neighbours leave some
# images that no link of the graph leads to. ChromaDB writes its graph to disk every `sync_threshold` records, and
# inserts later records again whenever a collection is opened; 64 is one batch of the builder.
GRAPH = {"ef_construction": 100, "max_neighbors": 48, "ef_search": 200, "sync_threshold": 64, "batch_size": 64}
NAMED_MAX = 20_000  # ids that a query lists one by one; a filter by label is slower for fewer than this
DELETED_AT_ONCE = 1000  # SQLite limits the ids in one statement

# A damaged file shows as an InternalError of ChromaDB, as a RuntimeError, or as a panic of its Rust part.
CHROMA_ERRORS = (ChromaError, OSError, ValueError, RuntimeError, KeyError)

# How SQLite and Rust report a full disk; with less free space than ROOM, any of their messages can mean it.
NO_ROOM = ("disk is full", "no space left")
ROOM = 16 * 2**20  # bytes
ORPHAN = 2.0  # seconds within which a process that writes for a killed builder ends
LOCKED_TRIES, LOCKED_PAUSE = 100, 0.1  # seconds between two attempts to write

Key = tuple[str, View]


def views_of(features: str) -> tuple[View, ...]:
    """Return the views of a feature type that have a collection: unit vectors are their own unit view."""
    return (View.PLAIN, View.CENTRED) if FEATURES[features].unit_length else tuple(View)


def keys_of(features: Collection[str]) -> list[Key]:
    """Return the keys of the collections of some feature types."""
    return [(each, view) for each in features for view in views_of(each)]


def key_of(features: str, view: View) -> Key:
    """Return the key of the collection to search for a view."""
    return (features, view if view in views_of(features) else View.PLAIN)


def configuration_of(view: View, graph: Mapping[str, int] = GRAPH) -> Any:
    """Return the configuration of the collection of a view; `graph` has parameters that are not the usual ones."""
    return {"hnsw": {"space": "l2" if view is View.PLAIN else "ip", **GRAPH, **graph}}


@contextmanager
def chroma_errors(explain: Callable[[object], Exception]) -> Iterator[None]:
    """Turn whatever ChromaDB raises into the exception that `explain` returns for it."""
    try:
        yield
    except IndexingError:
        raise
    except CHROMA_ERRORS as error:
        raise explain(error) from error
    except AttributeError as error:  # raised by ChromaDB when it closes a client that it could not open
        raise explain(error.__context__ or error) from error
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # of ChromaDB's Rust part; it derives from BaseException
            raise
        raise explain(error) from error


@dataclass(frozen=True)
class Collections:
    """The collections of one build."""

    by_key: Mapping[Key, chromadb.Collection]
    errors: Callable[[], AbstractContextManager[None]]  # a context that translates ChromaDB's errors
    named_max: int = NAMED_MAX  # ids that one query lists at most

    def insert(self, key: Key, ids: Ids, labels: Sequence[str], vectors: Vectors) -> None:
        """Insert or replace n images, given their plain vectors, shape (n, d)."""
        # In float64, so that rounding does not turn a flat image into noise.
        viewed = view_of(key[1], vectors.astype(np.float64)).astype(np.float32)
        about: list[Any] = [{"label": label} for label in labels]
        with self.errors():
            self.by_key[key].upsert(ids=as_hex(ids), embeddings=viewed, metadatas=about)

    def delete(self, key: Key, ids: Ids) -> None:
        """Delete images."""
        with self.errors():
            for start in range(0, len(ids), DELETED_AT_ONCE):
                self.by_key[key].delete(ids=as_hex(ids[start : start + DELETED_AT_ONCE]))

    def nearest(self, key: Key, vectors: Vectors, count: int, ids: Ids | None, labels: Collection[str]) -> list[Ids]:
        """Return the ids of about `count` nearest neighbours of each of m vectors, shape (m, d).

        They are sorted, closest first, by ChromaDB's own float32 distances.

        HNSW is approximate: it may miss some, and returns fewer where its graph ends. `ids` are the only ones allowed
        (None: all); their `labels` are the filter if there are too many of them to list.
        """
        viewed = view_of(key[1], vectors.astype(np.float64)).astype(np.float32)
        allowed: dict[str, Any] = {}
        if ids is not None and len(ids) <= self.named_max:
            allowed = {"ids": as_hex(ids)}
        elif ids is not None:
            allowed = {"where": {"label": {"$in": list(labels)}}}
        with self.errors():
            found = self.by_key[key_of(*key)].query(query_embeddings=viewed, n_results=count, include=[], **allowed)
            return [id_array(bytes.fromhex(id) for id in each) for each in found["ids"]]


@dataclass
class _Client:
    """ChromaDB's client for a folder, kept apart from `ChromaFolder` so that it can be closed after it."""

    build: Path
    chroma: Any = None
    sound: bool = False  # every write that began has ended

    def close(self) -> None:
        if self.chroma is None:
            return
        self.chroma.close()
        if self.sound:
            try:
                write_chroma_digests(self.build)
            except (OSError, ValueError) as error:
                log.warning("ChromaDB's files in %s will be rebuilt: %s", self.build / CHROMA, error)


class ChromaFolder:
    """ChromaDB's files in the folder of one build, owned by this process until `close`.

    They are trusted only if they are unchanged since ChromaDB was closed after its last write.

    Attributes:
        build: the folder that is used: the build's, or a copy if that one is read-only.
    """

    def __init__(self, build: Path, *, reading: bool) -> None:
        """Take the folder for this process; ChromaDB is not opened yet.

        With `reading`, nothing is created in it, and if it is read-only a copy is used.

        Raises:
            IndexingError: another process owns it, or it cannot be used.
        """
        self.explain = partial(_explain, build / CHROMA)  # no reference to self, see `_release`
        self._reading = reading
        if reading and not build.is_dir():
            raise _gone(build)
        aside = _copy_aside(build) if reading and not os.access(build, os.W_OK) else None
        self.build = Path(aside.name) if aside else build
        self._client = _Client(self.build)
        try:
            lock = acquire_lock(self.build, ORPHAN if reading else 0, create=not reading)
        except IndexingError as error:
            if reading and not build.is_dir():
                raise _gone(build) from error
            raise
        # Also runs when nothing refers to this object any more: then the last search in it has ended.
        self._release = weakref.finalize(self, _release, self._client, lock, aside)

    @property
    def sound(self) -> bool:
        """Whether every write that began has ended; if so, `close` records that the files can be trusted."""
        return self._client.sound

    @sound.setter
    def sound(self, sound: bool) -> None:
        self._client.sound = sound

    def delete(self) -> None:
        """Delete ChromaDB's files."""
        with chroma_errors(self.explain):
            if self._client.chroma is not None:
                self._client.chroma.close()
                self._client.chroma = None
            delete_chroma(self.build)

    def copy(self, build: Path) -> bool:
        """Copy ChromaDB's files from the folder of another build; return False if they are not as they were written."""
        with chroma_errors(self.explain):
            return copy_chroma(build, self.build)

    def open(
        self, keys: Collection[Key], graph: Mapping[str, int] = GRAPH, kept: Collection[Key] | None = None
    ) -> Collections:
        """Open the collections, or create them, with some parameters of the graph, if this is not for reading.

        First delete those that are not among the `kept` ones (None: keep all).
        """
        with chroma_errors(self.explain):
            if not self._reading:
                (self.build / DIGESTS).unlink(missing_ok=True)
            self._client.chroma = client = _open_client(str(self.build / CHROMA))
            names = {_name(*key) for key in kept or ()}
            for other in client.list_collections() if kept is not None else ():
                if other.name not in names:
                    client.delete_collection(other.name)
            opened = {key: self._collection(*key, graph) for key in keys}
            return Collections(opened, partial(chroma_errors, self.explain))

    def reopen(self, keys: Collection[Key], ef_search: Mapping[Key, int]) -> Collections:
        """Set `ef_search` of some collections, which takes effect when they are opened, and open all of them again."""
        with chroma_errors(self.explain):
            for key, value in ef_search.items():
                _unlocked(partial(self._collection(*key).modify, configuration={"hnsw": {"ef_search": value}}))
            self._client.chroma.close()
        return self.open(keys)

    def close(self) -> None:
        """Close ChromaDB and give the folder back; other processes may use it afterwards."""
        self._release()

    def _collection(self, features: str, view: View, graph: Mapping[str, int] = GRAPH) -> chromadb.Collection:
        name, client, wanted = _name(features, view), self._client.chroma, configuration_of(view, graph)
        collection: chromadb.Collection = (
            client.get_collection(name, embedding_function=None)
            if self._reading
            else client.get_or_create_collection(name, configuration=wanted, embedding_function=None)
        )
        return collection


def _name(features: str, view: View) -> str:
    return f"{features}-{view}"


def _explain(folder: Path, reason: object) -> IndexingError:
    text = (str(reason).strip().splitlines() or ["unknown error"])[0][:300]
    full = folder.parent.is_dir() and shutil.disk_usage(folder.parent).free < ROOM
    if full or any(each in text.lower() for each in NO_ROOM):
        return cannot_write(folder.parent, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    return IndexingError(
        f"ChromaDB cannot use `{folder}`: {text}. If the disk is neither full nor read-only, delete "
        f"that folder: it is rebuilt at the next start. Or rebuild the index: `{BUILDER} --rebuild`."
    )


def _unlocked(write: Callable[[], object]) -> None:
    """Call a function that writes to ChromaDB's database; while ChromaDB itself is still writing, call it again."""
    for _ in range(LOCKED_TRIES):
        try:
            write()
            return
        except ChromaError as error:
            if "database is locked" not in str(error):
                raise
        time.sleep(LOCKED_PAUSE)
    write()


def _open_client(folder: str) -> Any:
    try:
        return chromadb.PersistentClient(folder, settings=ChromaSettings(anonymized_telemetry=False))
    except BaseException:
        # ChromaDB would keep the half-opened system and return it at the next attempt.
        SharedSystemClient._identifier_to_system.pop(folder, None)
        SharedSystemClient._identifier_to_refcount.pop(folder, None)
        raise


def _release(client: _Client, lock: FileLock, aside: TemporaryDirectory[str] | None) -> None:
    try:
        client.close()
    finally:
        lock.release()
        if aside:
            aside.cleanup()


def _gone(build: Path) -> IndexingError:
    return IndexingError(
        f"The index in `{build}` is gone: the gallery was rebuilt or deleted. Try again; if that does not help, "
        f"rebuild it: `{BUILDER} --rebuild`."
    )


def _copy_aside(build: Path) -> TemporaryDirectory[str]:
    """Return a copy of ChromaDB's files, because it opens nothing where it cannot write.

    Raises:
        IndexingError: there is no room for the copy.
    """
    log.warning("%s is read-only: ChromaDB uses a copy below %s.", build, gettempdir())
    try:
        aside = TemporaryDirectory(prefix="lookalike-")
        for path in (build / CHROMA).rglob("*"):
            if path.is_file():
                copy = Path(aside.name) / path.relative_to(build)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, copy)  # without its mode, which may be read-only
    except OSError as error:
        raise IndexingError(
            f"`{build}` is read-only, and the copy that ChromaDB needs cannot be made below `{gettempdir()}`: "
            f"{error.strerror or error}. Free some space there, set TMPDIR to another folder, or use the exact scan."
        ) from error
    return aside
