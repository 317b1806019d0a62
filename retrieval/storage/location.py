"""What readers and builders need of the place where an index lies."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from retrieval.engines.base import GalleryVectors, OpenEngine
from retrieval.errors import IndexingError
from retrieval.storage.manifest import Manifest
from retrieval.storage.projection import Method

if TYPE_CHECKING:
    from retrieval.storage.store import Store


@dataclass(frozen=True)
class Published:
    """A published build as readers get it.

    Attributes:
        manifest: what it is.
        files: the folder with items, matrices, thumbnails and maps.
        open_engine: opens an engine by name, over the items and vectors of the build.
        remedy: what a person does if the files are damaged.
    """

    manifest: Manifest
    files: Path
    open_engine: Callable[[str, GalleryVectors], OpenEngine]
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
    def begin(self, name: str, build: str, features: Collection[str], rebuild: bool) -> "Store":
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
