"""Where an index lies, and what that decides: a folder with one process at a time, or a ChromaDB server with many.

A reader gets the same files of a published build from both: in a folder they lie beside ChromaDB, and of a server every
machine makes a copy of its own, once.
"""

import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from retrieval.address import Server
from retrieval.batches import FOLDER as BATCHES
from retrieval.checksums import FILE as CHECKSUMS
from retrieval.checksums import WHOLE, write_checksums
from retrieval.errors import IndexingError, cannot_write
from retrieval.features import Features
from retrieval.manifest import FILE, Manifest, publish_manifest, read_manifest, rebuild_command
from retrieval.ownership import IndexInUse, own
from retrieval.projection import Method, read_projection

if TYPE_CHECKING:
    from retrieval.store import Store

PATIENCE = 30.0  # seconds; the writer of a builder that was killed ends its last batches first


@dataclass(frozen=True)
class Published:
    """A published build as readers get it.

    Attributes:
        manifest: what it is.
        files: the folder with items, matrices, thumbnails and maps.
        open_store: opens its ChromaDB.
        remedy: what a person does if the files are damaged.
    """

    manifest: Manifest
    files: Path
    open_store: Callable[[], "Store"]
    remedy: str


class Location(ABC):
    """The galleries of an index, for readers and for builders."""

    @abstractmethod
    def names(self) -> list[str]:
        """Return the names of the galleries with a published build, sorted."""

    @abstractmethod
    def version(self, name: str) -> str | None:
        """Return what changes whenever something is published of a gallery; None if nothing was."""

    @abstractmethod
    def manifest(self, name: str) -> Manifest | None:
        """Return what is published of a gallery, or None.

        Raises:
            IndexingError: it cannot be read.
        """

    @abstractmethod
    def at_hand(self, name: str) -> bool:
        """Whether `published` answers at once, since nothing has to be fetched."""

    @abstractmethod
    def published(self, name: str) -> Published | None:
        """Return what is published of a gallery for reading, fetched if need be, or None."""

    @abstractmethod
    def nothing(self) -> IndexingError:
        """Return the error for who wants to read where nothing is published."""

    @abstractmethod
    def look_again(self) -> None:
        """Take nothing as known of what is published: somebody has just published."""

    @abstractmethod
    def close(self) -> None:
        """Give back what is open."""

    # For builders.

    @property
    @abstractmethod
    def local(self) -> bool:
        """Whether ChromaDB works in the process that opens a store, and another process may open it as well."""

    @abstractmethod
    def claimed(self, name: str) -> AbstractContextManager[None]:
        """Return a context in which nobody else sweeps away or publishes what must not be, where that can happen."""

    @abstractmethod
    def build_name(self, name: str, fingerprint: str) -> str:
        """Return how the next build of a gallery is called: the same until one is published, to go on with."""

    @abstractmethod
    def begin(self, name: str, build: str, rebuild: bool) -> "Store":
        """Open the store of a build, unfinished or new; with `rebuild` a published one begins anew."""

    @abstractmethod
    def making(self, store: "Store", rows: npt.NDArray[np.int64]) -> AbstractContextManager[None]:
        """Return a context in which `store.folder` holds the exported files, takes maps, and the build is published."""

    @abstractmethod
    def publish(self, manifest: Manifest, store: "Store", rows: npt.NDArray[np.int64]) -> None:
        """Make a build the visible one, in one step, and sweep away what nobody needs any more.

        Raises:
            IndexingError: that cannot be written.
        """

    @abstractmethod
    def sweep(self, name: str, build: str) -> None:
        """Delete what builders left that were killed; `build` is the one that the next would go on with."""

    @abstractmethod
    def lacking(self, manifest: Manifest, methods: Sequence[Method]) -> list[Method]:
        """Return by which methods a published build has no good map: it is older than maps, or a file is damaged."""

    @abstractmethod
    def add_maps(self, manifest: Manifest, make: Callable[[Path], tuple[str, ...]]) -> tuple[str, ...]:
        """Let `make` add maps to a published build's files, and publish them; return what it returns."""


def location_of(index: Path | Server) -> Location:
    """Return the location that a person has named; nothing is opened yet."""
    if isinstance(index, Server):
        from retrieval.server_location import ServerLocation  # which imports this module

        return ServerLocation(index)
    return FolderLocation(index)


class FolderLocation(Location):
    """Galleries below a folder, each a folder of its own, see `retrieval.manifest`."""

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
        return Published(manifest, files, partial(_open, files, remedy), remedy)

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

    def begin(self, name: str, build: str, rebuild: bool) -> "Store":
        """See `Location`."""
        folder = self.root / name / build
        own(folder, PATIENCE).release()
        return _open(folder)

    @contextmanager
    def making(self, store: "Store", rows: npt.NDArray[np.int64]) -> Iterator[None]:
        """See `Location`; the files are made in the build's own folder."""
        from retrieval.export import export  # likewise

        export(store, rows)
        yield

    def publish(self, manifest: Manifest, store: "Store", rows: npt.NDArray[np.int64]) -> None:
        """See `Location`."""
        folder = self.root / manifest.gallery
        try:
            write_checksums(folder / manifest.build)
            if hasattr(os, "sync"):
                os.sync()  # all that the manifest names, before it
            publish_manifest(folder, manifest)
        except OSError as error:
            raise cannot_write(folder, error) from error
        except ValueError as error:
            (folder / manifest.build / WHOLE).unlink(missing_ok=True)
            raise IndexingError(
                f"ChromaDB's files in {folder / manifest.build} are damaged: {error}. Run the same command again: they "
                "are written anew, and no picture is embedded again."
            ) from error
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


def _open(build: Path, remedy: str = "") -> "Store":
    from retrieval.store import FolderStore  # with ChromaDB, which the exact scan does without

    return FolderStore(build, remedy)


def _has_map(manifest: Manifest, files: Path, method: Method) -> bool:
    try:
        for features in Features:
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
