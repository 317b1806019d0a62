"""The life cycle of an engine: build from vectors, open, probe, drop, and propose candidates for a ranking."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol

import numpy as np
import numpy.typing as npt

from retrieval.engines.item_ids import Ids
from retrieval.engines.recall import MeasuredRecall
from retrieval.features.base import Vectors
from retrieval.metrics import Metric

Positions = npt.NDArray[np.intp]


class GalleryVectors(Protocol):
    """The part of an index that engines are built from and search in."""

    @property
    def features(self) -> tuple[str, ...]:
        """The names of the feature types the gallery has."""

    def __len__(self) -> int:
        """Return the number of items, n."""

    @property
    def ids(self) -> Ids:
        """The id of every item, shape (n,), in gallery order.

        Items with the same content and label share it, in every state of the gallery.
        """

    @property
    def labels(self) -> list[str]:
        """The label of every item, in gallery order; an empty text where there is none."""

    def vectors(self, features: str) -> Vectors:
        """Return the vectors of all items, shape (n, d), float32, in gallery order."""

    def check_open(self) -> None:
        """Raise IndexingError once the gallery is closed."""


@dataclass(frozen=True)
class Earlier:
    """An earlier state of a gallery, with the feature types that are still the same, and the folder of its files."""

    gallery: GalleryVectors
    folder: Path


class EngineDamaged(Exception):
    """The engine's files are missing, incomplete or damaged; `build` makes them again."""


class EngineMissing(EngineDamaged):
    """The engine's files were not built yet."""


@dataclass(frozen=True)
class Candidates:
    """Proposed positions, shape (c,).

    An engine that has the vectors itself also returns them, shape (c, d), float32, and its positions are ascending.
    They may be in the metric's view. Without them, the caller takes the vectors from the index.
    """

    positions: Positions
    vectors: Vectors | None = None


class OpenEngine(ABC):
    """An engine opened for one gallery. Safe for many threads."""

    @abstractmethod
    def candidates(
        self, features: str, metric: Metric, vectors: Vectors, k: int, among: Positions | None = None
    ) -> list[Candidates]:
        """Return, for each query, candidates that should include its k closest items.

        The caller computes the exact score of every candidate and sorts them, so an engine may return more than k, in
        any order. An exact engine must include every item that ties at the k-th place.

        Args:
            features: the feature type to compare.
            metric: the metric to compare by.
            vectors: the query vectors, shape (m, d).
            k: number of results wanted, 1 or more.
            among: the only positions allowed, ascending; None allows all.
        """

    def close(self) -> None:  # noqa: B027  # most engines hold nothing open
        """Release files and locks."""


class Engine(ABC):
    """A way to find candidates; one instance per engine is registered in `retrieval.engines`.

    Attributes:
        name: used in flags and in the API.
        title: shown on the page.
        exact: whether it always finds the k closest; if not, its recall is measured against an exact engine.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    exact: ClassVar[bool] = False

    def about(self, metric: Metric) -> str:
        """Return what to know about results by a metric, as sentences; empty for an exact engine."""
        return "" if self.exact else f"{self.title} may miss matches, but the scores it returns are exact."

    def build(self, gallery: GalleryVectors, folder: Path, floor: float) -> None:  # noqa: B027  # it may need no files
        """Write the engine's files into the folder of a finished index, after `drop`.

        `floor` is the recall@10 to reach, if the engine is approximate and can be adjusted.

        Calls `check_open` from time to time, so that a gallery that is closed meanwhile can stop it.

        Raises:
            OSError: the folder cannot be written.
            IndexingError: the gallery was closed.
        """

    def update(self, gallery: GalleryVectors, folder: Path, floor: float, earlier: Earlier) -> None:
        """Do what `build` does; an engine may start from the files of an earlier state, which it must not change."""
        self.build(gallery, folder, floor)

    def probe(self, gallery: GalleryVectors, folder: Path) -> None:  # noqa: B027  # an engine may need no files
        """Check the engine's files.

        Raises:
            EngineDamaged: `build` has to make them again.
            OSError: they cannot be read at the moment.
        """

    @abstractmethod
    def open(self, gallery: GalleryVectors, folder: Path) -> OpenEngine:
        """Open the engine for searching.

        Raises:
            EngineDamaged: its files cannot be used.
            OSError: they cannot be read at the moment.
            IndexingError: another process holds them.
        """

    def recall(self, folder: Path) -> MeasuredRecall | None:
        """Return the recall that was measured when the engine's files were built; None if it was not."""
        return None

    def drop(self, folder: Path, wait: float = 0) -> None:  # noqa: B027  # an engine may need no files
        """Delete the engine's files, if any.

        If only one process at a time can have them open, wait for it, at most for `wait` seconds.

        Raises:
            IndexInUse: another process has them open.
        """
