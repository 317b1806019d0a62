"""The interface to the place that holds an index: a folder or a server."""

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
    """A published build, for readers."""

    manifest: Manifest
    files: Path  # the folder with items, matrices, thumbnails and maps
    open_engine: Callable[[str, GalleryVectors], OpenEngine]  # by name, over the items and vectors of the build
    remedy: str  # what to do if the files are damaged


class Location(ABC):
    """The galleries of an index, for readers and builders."""

    @abstractmethod
    def names(self) -> list[str]:
        """Return the names of the galleries with a published build, sorted."""

    @abstractmethod
    def version(self, name: str) -> str | None:
        """Return a text that changes whenever a build of the gallery is published, or None before the first one."""

    @abstractmethod
    def manifest(self, name: str) -> Manifest | None:
        """Return the published manifest of a gallery, or None; raise IndexingError if it cannot be read."""

    @abstractmethod
    def is_local(self, name: str) -> bool:
        """Return whether `published` can return without downloading anything."""

    @abstractmethod
    def published(self, name: str) -> Published | None:
        """Return the published build of a gallery, downloaded if necessary, or None."""

    @abstractmethod
    def no_index_error(self) -> IndexingError:
        """Return the error to raise when nothing is published here."""

    @abstractmethod
    def refresh(self) -> None:
        """Drop cached knowledge of what is published."""

    @abstractmethod
    def close(self) -> None:
        """Release open connections."""

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
        """Return the name of the gallery's next build, which stays the same until one is published."""

    @abstractmethod
    def begin(self, name: str, build: str, features: Collection[str], rebuild: bool) -> "Store":
        """Open the store of a new or unfinished build; with `rebuild`, start a published one from scratch."""

    @abstractmethod
    def exported(self, store: "Store", rows: npt.NDArray[np.int64]) -> AbstractContextManager[None]:
        """Return a context in which `store.folder` holds the exported files, so that maps can be added."""

    @abstractmethod
    def publish(self, manifest: Manifest, store: "Store", rows: npt.NDArray[np.int64]) -> None:
        """Make a build visible in a single step, then delete what it replaces; raise IndexingError if that fails."""

    @abstractmethod
    def sweep(self, name: str, build: str) -> None:
        """Delete what killed builders left, except `build`, which can be resumed."""

    @abstractmethod
    def missing_maps(self, manifest: Manifest, methods: Sequence[Method]) -> list[Method]:
        """Return the methods for which a published build lacks a usable map."""

    @abstractmethod
    def add_maps(self, manifest: Manifest, make: Callable[[Path], tuple[str, ...]]) -> tuple[str, ...]:
        """Call `make` to add maps to a published build's files, publish them, and return its result."""
