"""The interface of the place where an index is: a folder or a server."""

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
    """A published build, for readers.

    Attributes:
        manifest: describes it.
        files: the folder with items, matrices, thumbnails and maps.
        open_engine: opens an engine by name, over the items and vectors of the build.
        remedy: what to do if the files are damaged.
    """

    manifest: Manifest
    files: Path
    open_engine: Callable[[str, GalleryVectors], OpenEngine]
    remedy: str


class Location(ABC):
    """The galleries of an index: what readers and builders need of the place where it is."""

    @abstractmethod
    def names(self) -> list[str]:
        """Return the names of the galleries with a published build, sorted."""

    @abstractmethod
    def version(self, name: str) -> str | None:
        """Return a text that changes whenever a build of the gallery is published; None if none was."""

    @abstractmethod
    def manifest(self, name: str) -> Manifest | None:
        """Return the published manifest of a gallery, or None.

        Raises:
            IndexingError: it cannot be read.
        """

    @abstractmethod
    def is_local(self, name: str) -> bool:
        """Return whether `published` needs to fetch nothing, so that it returns at once."""

    @abstractmethod
    def published(self, name: str) -> Published | None:
        """Return the published build of a gallery for reading, fetched if necessary, or None."""

    @abstractmethod
    def no_index_error(self) -> IndexingError:
        """Return the error to raise when nothing is published here."""

    @abstractmethod
    def refresh(self) -> None:
        """Forget what is known to be published, because something has just been published."""

    @abstractmethod
    def close(self) -> None:
        """Release what is open."""

    # For builders.

    @property
    @abstractmethod
    def local(self) -> bool:
        """Whether ChromaDB runs in the process that opens a store, so that another process can open it as well."""

    @abstractmethod
    def claimed(self, name: str) -> AbstractContextManager[None]:
        """Return a context in which no other builder of this gallery deletes or publishes anything."""

    @abstractmethod
    def build_name(self, name: str, fingerprint: str) -> str:
        """Return the name of the gallery's next build: the same until one is published, so that it can be resumed."""

    @abstractmethod
    def begin(self, name: str, build: str, features: Collection[str], rebuild: bool) -> "Store":
        """Open the store of a build, new or unfinished; with `rebuild` a published one is started over."""

    @abstractmethod
    def exported(self, store: "Store", rows: npt.NDArray[np.int64]) -> AbstractContextManager[None]:
        """Return a context in which `store.folder` holds the exported files, maps are added, and it is published."""

    @abstractmethod
    def publish(self, manifest: Manifest, store: "Store", rows: npt.NDArray[np.int64]) -> None:
        """Make a build the visible one in a single step, and delete what is not needed any more.

        Raises:
            IndexingError: it cannot be written.
        """

    @abstractmethod
    def sweep(self, name: str, build: str) -> None:
        """Delete what killed builders left; `build` is the one that would be resumed."""

    @abstractmethod
    def missing_maps(self, manifest: Manifest, methods: Sequence[Method]) -> list[Method]:
        """Return the methods by which a published build has no usable map."""

    @abstractmethod
    def add_maps(self, manifest: Manifest, make: Callable[[Path], tuple[str, ...]]) -> tuple[str, ...]:
        """Let `make` add maps to a published build's files, publish them, and return its result."""
