"""Where an index lies, and what that decides: a folder with one process at a time, or a ChromaDB server with many.

A reader gets the same files of a published build from both: in a folder they lie beside ChromaDB, and of a server every
machine makes a copy of its own, once.
"""

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

from retrieval.engines import ENGINES
from retrieval.engines.base import EngineDamaged, GalleryVectors, OpenEngine
from retrieval.engines.checksums import FILE as CHECKSUMS
from retrieval.engines.checksums import write_checksums
from retrieval.engines.lock import IndexInUse, own
from retrieval.errors import IndexingError, cannot_write
from retrieval.storage.batches import FOLDER as BATCHES
from retrieval.storage.location import Location, Published
from retrieval.storage.manifest import FILE, Manifest, publish_manifest, read_manifest, rebuild_command
from retrieval.storage.projection import Method, read_projection
from retrieval.storage.vectors import ItemVectors

if TYPE_CHECKING:
    from retrieval.storage.store import Store

log = logging.getLogger(__name__)

PATIENCE = 30.0  # seconds; the writer of a builder that was killed ends its last batches first


class FolderLocation(Location):
    """Galleries below a folder, each a folder of its own, see `retrieval.storage.manifest`."""

    def __init__(self, root: Path) -> None:
        """Take the index folder, which need not exist."""
        self.root = root

    def names(self) -> list[str]:
        """See `Location`, like the rest."""
        return sorted(path.parent.name for path in self.root.glob(f"*/{FILE}"))

    def version(self, name: str) -> str | None:
        """See `Location`."""
        try:
            return str((self.root / name / FILE).stat().st_mtime_ns)
        except OSError:
            return None

    def manifest(self, name: str) -> Manifest | None:
        """See `Location`."""
        return read_manifest(self.root / name)

    def at_hand(self, name: str) -> bool:
        """See `Location`."""
        return True

    def published(self, name: str) -> Published | None:
        """See `Location`."""
        folder = self.root / name
        if (manifest := read_manifest(folder)) is None:
            return None
        files = folder.resolve() / manifest.build
        remedy = f"Build it again: {rebuild_command(files.parent)}"
        return Published(manifest, files, partial(open_engine, files), remedy)

    def nothing(self) -> IndexingError:
        """See `Location`."""
        if self.root.exists() and not self.root.is_dir():
            return IndexingError(f"{self.root} is a file. Name the folder of an index with --index.")
        return IndexingError(
            f"There is no finished index in {self.root}. Make one: python index_builder.py --index {self.root}"
        )

    def look_again(self) -> None:
        """See `Location`; a folder is looked at each time."""

    def close(self) -> None:
        """See `Location`; an opened build is given back by its store."""

    @property
    def local(self) -> bool:
        """See `Location`."""
        return True

    @contextmanager
    def claimed(self, name: str) -> Iterator[None]:
        """See `Location`: held until the manifest is published, so that nobody sweeps away what it will name."""
        lock = own(self.root / name)
        try:
            yield
        finally:
            lock.release()

    def build_name(self, name: str, fingerprint: str) -> str:
        """See `Location`; numbered, so that no builder goes on with what was finished once."""
        try:
            published = self.manifest(name)
        except IndexingError:
            published = None  # perhaps for a moment only: what it names is left alone
        number = _number(published.build) + 1 if published else 1
        while _finished(self.root / name / (build := f"build-{fingerprint}-{number}")):
            number += 1
        return build

    def begin(self, name: str, build: str, features: Collection[str], rebuild: bool) -> "Store":
        """See `Location`."""
        folder = self.root / name / build
        own(folder, PATIENCE).release()
        from retrieval.storage.store import FolderStore  # imports chromadb

        return FolderStore(folder, features)

    @contextmanager
    def making(self, store: "Store", rows: npt.NDArray[np.int64]) -> Iterator[None]:
        """See `Location`; the files are made in the build's own folder."""
        from retrieval.storage.export import export  # likewise

        export(store, rows)
        yield

    def publish(self, manifest: Manifest, store: "Store", rows: npt.NDArray[np.int64]) -> None:
        """See `Location`."""
        folder = self.root / manifest.gallery
        try:
            build_engines(folder / manifest.build, manifest)
            write_checksums(folder / manifest.build)
            if hasattr(os, "sync"):
                os.sync()  # all that the manifest names, before it
            publish_manifest(folder, manifest)
        except OSError as error:
            raise cannot_write(folder, error) from error
        sweep(folder)

    def sweep(self, name: str, build: str) -> None:
        """See `Location`."""
        sweep(self.root / name, build)

    def lacking(self, manifest: Manifest, methods: Sequence[Method]) -> list[Method]:
        """See `Location`."""
        folder = self.root / manifest.gallery / manifest.build
        return [each for each in methods if not _has_map(manifest, folder, each)]

    def add_maps(self, manifest: Manifest, make: Callable[[Path], tuple[str, ...]]) -> tuple[str, ...]:
        """See `Location`."""
        return make(self.root / manifest.gallery / manifest.build)


def open_engine(build: Path, name: str, gallery: GalleryVectors) -> OpenEngine:
    """Open an engine in the folder of a published build; build its files first if they are missing or damaged.

    Raises:
        IndexingError: another process holds the engine's files.
        OSError: the files cannot be built.
    """
    engine = ENGINES[name]
    try:
        engine.probe(gallery, build)
        return engine.open(gallery, build)
    except EngineDamaged as error:
        log.warning("Rebuilding %s for %s: %s.", engine.title, build, error)
    lock = own(build, PATIENCE, name=f"{name}.lock", make=False)
    try:
        _build_engine(name, gallery, build)
    finally:
        lock.release()
    return engine.open(gallery, build)


def build_engines(build: Path, manifest: Manifest) -> None:
    """Build the files of every engine for a build that is about to be published, unless they are there already."""
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
    """Whether a build was published, or could have been; the next builder goes on with one that has batches."""
    return (build / CHECKSUMS).exists() and not (build / BATCHES).exists()


def _number(build: str) -> int:
    """Return the how-many-eth of its gallery a build is, from its name; 0 in an index of an older program."""
    number = build.rpartition("-")[2]
    return int(number) if build.count("-") == 2 and number.isdecimal() else 0


def sweep(folder: Path, unfinished: str = "") -> None:
    """Delete builds that are neither published nor in use nor `unfinished`, and what interrupted writing left.

    Only for who has claimed the gallery.
    """
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
            lock = own(build)
        except IndexInUse:
            continue  # somebody still reads it; a later sweep takes it
        shutil.rmtree(build, ignore_errors=True)
        lock.release()
