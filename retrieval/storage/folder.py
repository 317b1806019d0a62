"""An index in a folder: find what is published, and claim, resume and publish builds."""

import logging
import os
import shutil
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from typing_extensions import override

from retrieval.engines import ENGINES
from retrieval.engines.base import EngineDamaged, GalleryVectors, OpenEngine
from retrieval.engines.checksums import FILE as CHECKSUMS
from retrieval.engines.checksums import write_checksums
from retrieval.engines.lock import IndexInUse, acquire_lock
from retrieval.errors import IndexingError, cannot_write
from retrieval.storage.batches import FOLDER as BATCHES
from retrieval.storage.export import export
from retrieval.storage.location import Location, Published
from retrieval.storage.manifest import FILE, Manifest, publish_manifest, read_manifest, rebuild_command
from retrieval.storage.projection import Method, read_projection
from retrieval.storage.vectors import ItemVectors

if TYPE_CHECKING:
    from retrieval.storage.store import Store

log = logging.getLogger(__name__)

LOCK_TIMEOUT = 30.0  # seconds; the writer process of a killed builder finishes its last batches first


class FolderLocation(Location):
    """The galleries below a folder, each in a subfolder; `retrieval.storage.manifest` describes the layout."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @override
    def names(self) -> list[str]:
        return sorted(path.parent.name for path in self.root.glob(f"*/{FILE}"))

    @override
    def version(self, name: str) -> str | None:
        try:
            return str((self.root / name / FILE).stat().st_mtime_ns)
        except OSError:
            return None

    @override
    def manifest(self, name: str) -> Manifest | None:
        return read_manifest(self.root / name)

    @override
    def is_local(self, name: str) -> bool:
        return True

    @override
    def published(self, name: str) -> Published | None:
        folder = self.root / name
        if (manifest := read_manifest(folder)) is None:
            return None
        files = folder.resolve() / manifest.build
        remedy = f"Rebuild it: `{rebuild_command(files.parent)}`"
        return Published(manifest, files, partial(open_engine, files), remedy)

    @override
    def no_index_error(self) -> IndexingError:
        if self.root.exists() and not self.root.is_dir():
            return IndexingError(f"`{self.root}` is a file. Name the folder of an index with `--index`.")
        return IndexingError(
            f"There is no finished index in `{self.root}`. Build one: `python index_builder.py --index {self.root}`"
        )

    @override
    def refresh(self) -> None:
        pass  # the folder is read at every call

    @override
    def close(self) -> None:
        pass  # nothing is open

    @property
    @override
    def local(self) -> bool:
        return True

    @contextmanager
    @override
    def claimed(self, name: str) -> Iterator[None]:
        lock = acquire_lock(self.root / name)
        try:
            yield
        finally:
            lock.release()

    @override
    def build_name(self, name: str, fingerprint: str) -> str:
        try:
            published = self.manifest(name)
        except IndexingError:
            published = None  # possibly a temporary failure, so the build that the manifest names is kept
        number = _number(published.build) + 1 if published else 1
        while _finished(self.root / name / (build := f"build-{fingerprint}-{number}")):
            number += 1
        return build

    @override
    def begin(self, name: str, build: str, features: Collection[str], rebuild: bool) -> "Store":
        folder = self.root / name / build
        acquire_lock(folder, LOCK_TIMEOUT).release()
        from retrieval.storage.store import FolderStore  # imports chromadb

        return FolderStore(folder, features)

    @contextmanager
    @override
    def exported(self, store: "Store", rows: npt.NDArray[np.int64]) -> Iterator[None]:
        export(store, rows)
        yield

    @override
    def publish(self, manifest: Manifest, store: "Store", rows: npt.NDArray[np.int64]) -> None:
        folder = self.root / manifest.gallery
        try:
            build_engines(folder / manifest.build, manifest)
            write_checksums(folder / manifest.build)
            if hasattr(os, "sync"):
                os.sync()  # the files must be on disk before the manifest that names them
            publish_manifest(folder, manifest)
        except OSError as error:
            raise cannot_write(folder, error) from error
        sweep(folder)

    @override
    def sweep(self, name: str, build: str) -> None:
        sweep(self.root / name, build)

    @override
    def missing_maps(self, manifest: Manifest, methods: Sequence[Method]) -> list[Method]:
        folder = self.root / manifest.gallery / manifest.build
        return [each for each in methods if not _has_map(manifest, folder, each)]

    @override
    def add_maps(self, manifest: Manifest, make: Callable[[Path], tuple[str, ...]]) -> tuple[str, ...]:
        return make(self.root / manifest.gallery / manifest.build)


def open_engine(build: Path, name: str, gallery: GalleryVectors) -> OpenEngine:
    """Open an engine in the folder of a published build; rebuild its files if they are missing or damaged.

    Raises:
        IndexingError: another process has the engine's files open.
        OSError: the files cannot be written.
    """
    engine = ENGINES[name]
    try:
        return engine.open(gallery, build)
    except EngineDamaged as error:
        log.warning("Rebuilding %s for `%s`: %s.", engine.title, build, error)
    lock = acquire_lock(build, LOCK_TIMEOUT, name=f"{name}.lock", create=False)
    try:
        return engine.open(gallery, build)  # another process may have rebuilt it meanwhile
    except EngineDamaged:
        _build_engine(name, gallery, build)
        return engine.open(gallery, build)
    finally:
        lock.release()


def build_engines(build: Path, manifest: Manifest) -> None:
    """Build each engine's files, unless they exist already."""
    dimensions = {name: identity.dimensions for name, identity in manifest.features.items()}
    gallery = ItemVectors(build, dimensions, checked=False)
    for name, engine in ENGINES.items():
        try:
            engine.probe(gallery, build)
        except EngineDamaged:
            _build_engine(name, gallery, build)


def _build_engine(name: str, gallery: GalleryVectors, build: Path) -> None:
    ENGINES[name].drop(build)
    ENGINES[name].build(gallery, build)


def _has_map(manifest: Manifest, files: Path, method: Method) -> bool:
    try:
        for features in manifest.features:
            read_projection(files, features, method, manifest.pictures, manifest.dimensions(features))
    except (OSError, ValueError):
        return False
    return True


def _finished(build: Path) -> bool:
    """Return whether a build is complete; one that still has batches can be resumed."""
    return (build / CHECKSUMS).exists() and not (build / BATCHES).exists()


def _number(build: str) -> int:
    """Return the sequence number in a build's name; 0 for a name by an older version."""
    number = build.rpartition("-")[2]
    return int(number) if build.count("-") == 2 and number.isdecimal() else 0


def sweep(folder: Path, unfinished: str = "") -> None:
    """Delete all builds except the published one, `unfinished` and those in use; the gallery must be claimed."""
    published = read_manifest(folder)
    kept = (published.build if published else "", unfinished)
    for leftover in (*folder.glob(f"{FILE}.*.tmp"), *(folder / kept[0]).glob("*.tmp")):
        leftover.unlink(missing_ok=True)
    if published:
        shutil.rmtree(folder / published.build / BATCHES, ignore_errors=True)
    for build in folder.glob("build-*"):
        if build.name in kept:
            continue
        try:
            lock = acquire_lock(build)
        except IndexInUse:
            continue  # it is still being read; a later sweep deletes it
        shutil.rmtree(build, ignore_errors=True)
        lock.release()
