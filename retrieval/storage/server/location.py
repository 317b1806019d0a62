"""Galleries on a ChromaDB server: the published builds, and the local copies that are searched."""

import hashlib
import json
import logging
import re
import shutil
import threading
import time
import uuid
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from chromadb.errors import NotFoundError
from filelock import FileLock
from typing_extensions import override

from retrieval.engines.base import GalleryVectors, OpenEngine
from retrieval.engines.checksums import write_checksums
from retrieval.engines.chroma import ChromaEngine, OpenChroma
from retrieval.errors import IndexingError, cannot_write
from retrieval.features import FEATURES
from retrieval.storage.export import export
from retrieval.storage.folder import open_engine
from retrieval.storage.location import Location, Published
from retrieval.storage.manifest import Manifest, from_json, to_json
from retrieval.storage.projection import Method, projection_path
from retrieval.storage.server.address import Server
from retrieval.storage.server.connection import FETCHING, NO_GRAPH, connect, records, server_errors
from retrieval.storage.server.store import FILES, LEDGER, LIFE, ServerStore
from retrieval.storage.store import Store, write_thumbnails

log = logging.getLogger(FETCHING)

PREFIX = "lookalike"
FRESH = 1.0  # seconds for which the list of published builds is cached
PAUSE = 30.0  # seconds until a server that has just failed is asked again
BUILD = "build-[0-9a-f]{16}(?:-again|-anew)?"  # the names that `build_name` returns
ABANDONED = 7 * 24 * 3600  # seconds without a new batch after which an unfinished build counts as abandoned
PUBLISHED = "published"  # the file that marks a build as having been published
PAGE = 100  # collections listed at once


@dataclass(frozen=True)
class Head:
    """The published version of a gallery, in one record, so that it changes in one step.

    The previous build stays on the server, for readers that still use it, until the next one is published.
    """

    gallery: str
    build: str
    previous: str
    version: str

    @staticmethod
    def read(about: Mapping[str, object]) -> "Head":
        """Parse a record; raise ValueError if it is invalid, because its build name becomes a path."""
        values = {name: value for name, value in about.items() if isinstance(value, str)}
        if set(about) != {field.name for field in fields(Head)} or len(values) < len(about):
            raise ValueError(f"it has the fields {', '.join(sorted(about))[:200]}")
        head = Head(**values)
        if not re.fullmatch(BUILD, head.build) or not re.fullmatch("[0-9a-f]{32}", head.version):
            raise ValueError(f"its build is {head.build[:80]!r} and its version {head.version[:80]!r}")
        return head


@dataclass(frozen=True)
class Publication:
    """The content of a published version: the manifest, the rows of its images, and the names of its maps."""

    manifest: Manifest
    rows: npt.NDArray[np.int64]
    maps: tuple[str, ...]

    def pack(self) -> bytes:
        """Encode it as bytes; rows are stored as the start and length of each run."""
        breaks = np.flatnonzero(np.diff(self.rows) != 1) + 1
        runs = [[int(run[0]), len(run)] for run in np.split(self.rows, breaks)]
        about = {"manifest": json.loads(to_json(self.manifest)), "runs": runs, "maps": self.maps}
        return zlib.compress(json.dumps(about).encode())

    @staticmethod
    def unpack(content: bytes) -> "Publication":
        """Decode the result of `pack`; raise IndexingError for another format, ValueError for damaged content."""
        try:
            about = json.loads(zlib.decompress(content))
            rows = [np.arange(first, first + count) for first, count in about["runs"]]
            manifest = from_json(json.dumps(about["manifest"]))
            # The server is not trusted, so no file with another name is written.
            known = {path.name for path in _map_paths(Path())}
            return Publication(manifest, np.concatenate(rows), tuple(sorted(known & set(about["maps"]))))
        except (zlib.error, KeyError, TypeError) as error:
            raise ValueError(f"{type(error).__name__} {error}") from error

    @property
    def digest(self) -> str:
        """A digest that publications of the same vectors share, whatever their maps."""
        about = f"{self.manifest.build} {self.manifest.created}"  # names of builds are reused after some builds
        return hashlib.sha256(about.encode() + self.rows.tobytes()).hexdigest()[:16]


class ServerLocation(Location):
    """Galleries on a ChromaDB server; a published build is copied to this machine when it is first read."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self._client: Any = None
        self._lock = threading.Lock()
        self._heads: dict[str, Head] = {}
        self._asking = threading.Lock()
        self._ask_at = 0.0  # by the monotonic clock; 0 means that the cached heads must not be used
        self._publications: dict[str, tuple[str, Publication]] = {}

    @override
    def names(self) -> list[str]:
        return sorted(self._known())

    @override
    def version(self, name: str) -> str | None:
        head = self._known().get(name)
        return head.version if head else None

    @override
    def manifest(self, name: str) -> Manifest | None:
        head = self._known().get(name)
        return self._publication(head).manifest if head else None

    @override
    def is_local(self, name: str) -> bool:
        try:
            head = self._known().get(name)
            return head is None or not self._is_incomplete(head)
        except IndexingError as error:
            log.warning("%s", error)
            return False  # the download reports the failure; searches continue with the previous build

    @override
    def published(self, name: str) -> Published | None:
        if (head := self._known().get(name)) is None:
            return None
        publication, copy = self._publication(head), self._copy(head)
        if self._is_incomplete(head):
            self._fetch(head, publication, copy)
        return Published(
            publication.manifest,
            copy.resolve(),
            partial(self._open_engine, head),
            f"It is a copy from `{self.server}`. Delete that folder to download it again.",
        )

    @override
    def no_index_error(self) -> IndexingError:
        return IndexingError(
            f"There is no finished index on `{self.server}`. Build one: `python index_builder.py --index {self.server}`"
        )

    @override
    def refresh(self) -> None:
        self._ask_at = 0.0

    @override
    def close(self) -> None:
        with self._lock:
            if self._client is not None:
                self._client.close()
                self._client = None

    @property
    @override
    def local(self) -> bool:
        return False

    @contextmanager
    @override
    def claimed(self, name: str) -> Iterator[None]:
        self.refresh()
        yield

    @override
    def build_name(self, name: str, fingerprint: str) -> str:
        head = self._known().get(name)
        taken = (head.build, head.previous) if head else ()
        return next(each for turn in ("", "-again", "-anew") if (each := f"build-{fingerprint}{turn}") not in taken)

    @override
    def begin(self, name: str, build: str, features: Collection[str], rebuild: bool) -> Store:
        prefix = f"{self._prefix(name, build)}-"
        with server_errors(self.server):
            if rebuild and self._was_published(prefix):
                for part in (LEDGER, FILES):  # the rest is overwritten
                    self._delete(f"{prefix}{part}")
        return self._open(name, build, make=True)

    @contextmanager
    @override
    def exported(self, store: Store, rows: npt.NDArray[np.int64]) -> Iterator[None]:
        assert isinstance(store, ServerStore)
        with self._part() as part:
            self.refresh()  # another worker may have published in the meantime
            store.folder = part
            copy_files(store, rows)
            yield

    @override
    def publish(self, manifest: Manifest, store: Store, rows: npt.NDArray[np.int64]) -> None:
        assert isinstance(store, ServerStore)
        head = self._publish_head(manifest, store, rows, store.folder)
        store.folder.replace(self._copy(head))
        self._prune(head)
        self._sweep(head.gallery)

    @override
    def sweep(self, name: str, build: str) -> None:
        self._sweep(name)

    @override
    def missing_maps(self, manifest: Manifest, methods: Sequence[Method]) -> list[Method]:
        maps = self._publication(self._known()[manifest.gallery]).maps
        return [m for m in methods if any(projection_path(Path(), f, m).name not in maps for f in manifest.features)]

    @override
    def add_maps(self, manifest: Manifest, make: Callable[[Path], tuple[str, ...]]) -> tuple[str, ...]:
        published, head = self.published(manifest.gallery), self._known()[manifest.gallery]
        assert published is not None
        with self._part():  # one at a time
            made = make(published.files)
        store = self._open(head.gallery, head.build)
        self._publish_head(manifest, store, self._publication(head).rows, published.files)
        return made

    def _open_engine(self, head: Head, name: str, gallery: GalleryVectors) -> OpenEngine:
        if name == ChromaEngine.name:
            return OpenChroma(gallery, self._open(head.gallery, head.build).collections)
        return open_engine(self._copy(head), name, gallery)

    def _connected(self) -> Any:
        with self._lock:
            if self._client is None:
                self._client = connect(self.server)
            return self._client

    def _galleries(self) -> Any:
        return self._connected().get_or_create_collection(
            f"{PREFIX}-galleries", configuration=NO_GRAPH, embedding_function=None
        )

    def _known(self) -> dict[str, Head]:
        """Return the published heads; while the server fails, return the last known ones."""
        if time.monotonic() < self._ask_at or not self._asking.acquire(blocking=not self._ask_at):
            return self._heads  # only one search waits for a server that hangs
        try:
            if time.monotonic() >= self._ask_at:
                pause = FRESH
                try:
                    self._heads = self._fetch_heads()
                except IndexingError as error:
                    if not self._heads:
                        raise
                    log.warning("%s Searches continue with the builds known before.", error)
                    pause = PAUSE
                self._ask_at = time.monotonic() + pause
            return self._heads
        finally:
            self._asking.release()

    def _fetch_heads(self) -> dict[str, Head]:
        """Ask the server for the published heads; raise IndexingError if it fails."""
        with server_errors(self.server):
            found = list(records(self.server, self._galleries()))
        heads = {}
        for key, about in found:
            try:
                head = Head.read(about or {})
            except ValueError as error:
                log.warning("Ignoring the record %.80r of a gallery on `%s`: %s.", key, self.server, error)
            else:
                heads[head.gallery] = head
        return heads

    def _publication(self, head: Head) -> Publication:
        known = self._publications.get(head.gallery)
        if known and known[0] == head.version:
            return known[1]
        content = self._open(head.gallery, head.build).get_file(f"publication-{head.version}")
        try:
            publication = Publication.unpack(content or b"")
        except (ValueError, IndexingError) as error:
            raise IndexingError(
                f"The gallery {head.gallery!r} on `{self.server}` cannot be read ({str(error).rstrip('.')}). Rebuild "
                f"it: `python index_builder.py --index {self.server} --gallery {head.gallery} --dataset ... --rebuild`"
            ) from error
        self._publications[head.gallery] = (head.version, publication)
        return publication

    def _prefix(self, gallery: str, build: str = "") -> str:
        """Return the prefix of collection names; a hash, because Chroma allows fewer characters than gallery names."""
        return f"{PREFIX}-{hashlib.sha256(gallery.encode()).hexdigest()[:12]}-{build}"

    def _open(self, gallery: str, build: str, *, make: bool = False) -> ServerStore:
        return ServerStore(self.server, self._connected(), self._prefix(gallery, build), make=make)

    def _publish_head(self, manifest: Manifest, store: ServerStore, rows: npt.NDArray[np.int64], files: Path) -> Head:
        """Make a build visible; another worker that does so at the same time writes the same content."""
        maps = [path for path in _map_paths(files) if path.is_file()]
        for path in maps:
            store.put_file(path.name, path.read_bytes())
        publication = Publication(manifest, rows, tuple(path.name for path in maps))
        version = uuid.uuid4().hex
        store.put_file(PUBLISHED, b"")
        store.put_file(f"publication-{version}", publication.pack())
        before = self._fetch_heads().get(manifest.gallery)
        previous = "" if before is None else before.previous if before.build == manifest.build else before.build
        head = Head(manifest.gallery, manifest.build, previous, version)
        with server_errors(self.server):
            self._galleries().upsert(
                ids=[hashlib.sha256(head.gallery.encode()).hexdigest()], embeddings=[[0.0]], metadatas=[vars(head)]
            )
        self._publications[head.gallery] = (version, publication)
        self.refresh()
        return head

    def _sweep(self, gallery: str) -> None:
        """Delete builds older than the previous one, and abandoned unfinished builds."""
        client, prefix = self._connected(), self._prefix(gallery)
        if (head := self._fetch_heads().get(gallery)) is None:  # asked again: others may have published
            return
        with server_errors(self.server):
            names: list[str] = []
            while len(names) % PAGE == 0 and (some := client.list_collections(PAGE, len(names))):
                names += [each.name for each in some]
            found: dict[str, list[str]] = {}
            for name in names:
                if match := re.match(f"{prefix}({BUILD})-", name):
                    found.setdefault(match[1], []).append(name)
            for build, collections in found.items():
                if build not in (head.build, head.previous) and self._is_obsolete(f"{prefix}{build}-"):
                    for name in sorted(collections, key=_deleting_order):
                        self._delete(name)

    def _delete(self, collection: str) -> None:
        try:
            self._connected().delete_collection(collection)
        except NotFoundError:
            log.debug("%s does not exist", collection)  # another worker may be sweeping too

    def _is_obsolete(self, prefix: str) -> bool:
        """Return whether a build is not needed: published before, abandoned, or partly deleted."""
        once = self._was_published(prefix)
        if once is not False:
            return bool(once)  # None: a worker is creating it right now
        try:
            life = self._connected().get_collection(prefix + LEDGER, embedding_function=None).get(ids=[LIFE])
        except NotFoundError:
            return True
        return bool(life["ids"]) and time.time() - float(life["metadatas"][0]["at"]) > ABANDONED

    def _was_published(self, prefix: str) -> bool | None:
        """Return whether a build was ever published; None if it does not exist or is being created."""
        try:
            files = self._connected().get_collection(prefix + FILES, embedding_function=None)
        except NotFoundError:
            return None
        return bool(files.get(ids=[f"{PUBLISHED}/000000"], include=[])["ids"])

    # The local copies: one folder per published build, created under another name and then renamed.

    @property
    def _cache(self) -> Path:
        server = self.server
        key = hashlib.sha256(repr((server.url, server.tenant, server.database)).encode()).hexdigest()[:16]
        return server.cache / key

    def _copy(self, head: Head) -> Path:
        return self._cache / f"{self._prefix(head.gallery)}{head.build}-{self._publication(head).digest}"

    def _is_incomplete(self, head: Head) -> bool:
        """Return whether the local copy of a build, or one of its maps, is missing."""
        copy = self._copy(head)
        return not all((copy / name).is_file() for name in ("items.parquet", *self._publication(head).maps))

    def _fetch(self, head: Head, publication: Publication, copy: Path) -> None:
        """Complete the local copy of a build, in one process at a time."""
        with self._part() as part:
            store = self._open(head.gallery, head.build)
            if not copy.exists():
                started = time.monotonic()
                log.info("downloading the gallery %s, %s images ...", head.gallery, f"{len(publication.rows):,}")
                store.folder = part
                copy_files(store, publication.rows)
                part.replace(copy)
                log.info("downloaded the gallery %s in %.1f s", head.gallery, time.monotonic() - started)
            for name in publication.maps:
                if not (copy / name).is_file() and (content := store.get_file(name)) is not None:
                    temporary = copy / f"{name}.part"
                    temporary.write_bytes(content)
                    temporary.replace(copy / name)
            self._prune(head)

    def _prune(self, head: Head) -> None:
        """Delete copies of builds that the server no longer has; the previous one may still be in use."""
        prefix = self._prefix(head.gallery)
        needed = [f"{prefix}{build}" for build in (head.build, head.previous)]
        for copy in self._cache.glob(f"{prefix}build-*"):
            if copy.name.rpartition("-")[0] not in needed:
                shutil.rmtree(copy, ignore_errors=True)

    @contextmanager
    def _part(self) -> Iterator[Path]:
        """Return a context with an empty folder in the cache, for one process at a time, deleted at the end."""
        part = self._cache / "part"
        try:
            self._cache.mkdir(parents=True, exist_ok=True)
            with FileLock(self._cache / "lock"):
                shutil.rmtree(part, ignore_errors=True)
                part.mkdir()
                yield part
                shutil.rmtree(part, ignore_errors=True)
        except OSError as error:
            raise cannot_write(self._cache, error) from error


def _deleting_order(collection: str) -> int:
    """Return a sort key: the ledger is deleted first, because it lists the other records, and the files last."""
    return 0 if collection.endswith(f"-{LEDGER}") else 2 if collection.endswith(f"-{FILES}") else 1


def copy_files(store: ServerStore, rows: npt.NDArray[np.int64]) -> None:
    """Write the files for readers, except for the maps."""
    export(store, rows)
    for thumbnails in store.thumbnails(rows):
        write_thumbnails(store.folder, thumbnails)
    write_checksums(store.folder)


def _map_paths(files: Path) -> list[Path]:
    return [projection_path(files, features, method) for features in FEATURES for method in Method]
