"""The items and vectors of one snapshot, memory-mapped for engines and searches."""

import threading
from collections.abc import Mapping
from mmap import mmap
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from retrieval.digests import check
from retrieval.engines.item_ids import POSITIONS, Ids
from retrieval.errors import IndexingError
from retrieval.features import Vectors
from retrieval.storage.items import ITEMS, Items
from retrieval.storage.manifest import Manifest


class ItemVectors:
    """The items and matrices in a snapshot's folder; matrices are opened on first use. Thread-safe.

    `dimensions` has the vector length of each feature type, and `digests` those of the files. Missing or damaged items
    raise OSError, ValueError or KeyError.
    """

    def __init__(self, snapshot: Path, dimensions: Mapping[str, int], digests: Mapping[str, str]) -> None:
        self.snapshot = snapshot
        self._dimensions = dict(dimensions)
        self._digests = dict(digests)
        self._lock = threading.Lock()
        self._closed = False
        self._matrices: dict[str, Vectors] = {}
        if POSITIONS not in digests:  # with vectors on a server, there can be too many items to read all of them
            check(snapshot, ITEMS, digests)
        self.items = Items(snapshot)

    @classmethod
    def of(cls, snapshot: Path, manifest: Manifest) -> "ItemVectors":
        """Open the files of a snapshot, for the feature types that this version knows."""
        dimensions = {name: each.dimensions for name, each in manifest.known.items()}
        return cls(snapshot, dimensions, manifest.digests)

    def __reduce__(self) -> tuple[type["ItemVectors"], tuple[Any, ...]]:
        """Open the files again in another process."""
        return ItemVectors, (self.snapshot, self._dimensions, self._digests)

    @property
    def features(self) -> tuple[str, ...]:
        """The names of the feature types."""
        return tuple(self._dimensions)

    def __len__(self) -> int:
        """Return the number of items."""
        return len(self.items)

    @property
    def ids(self) -> Ids:
        """The id of every item, shape (n,), in gallery order."""
        return self.items.ids

    @property
    def rows(self) -> npt.NDArray[np.int64]:
        """The row of every item in its dataset, ascending."""
        return self.items.rows

    @property
    def labels(self) -> list[str]:
        """The label of every item, in gallery order; empty for unlabelled items."""
        return self.items.labels

    def close(self) -> None:
        """Let every later call of `vectors` raise IndexingError, which stops an engine that is being built."""
        self._closed = True

    def check_open(self) -> None:
        """Raise IndexingError after `close`."""
        if self._closed:
            raise IndexingError(f"The index in `{self.snapshot}` was closed, because the program is ending.")

    def vectors(self, features: str) -> Vectors:
        """Return the vectors of all items, shape (n, d), float32, memory-mapped.

        Raises:
            OSError, ValueError, EOFError: the matrix is missing or damaged, or was truncated since.
            KeyError: the gallery does not have this feature type.
            IndexingError: it was closed.
        """
        self.check_open()
        dimensions = self._dimensions[features]
        with self._lock:
            if features not in self._matrices:
                check(self.snapshot, f"{features}.npy", self._digests)
                matrix = np.load(self.snapshot / f"{features}.npy", mmap_mode="r")
                if matrix.shape != (len(self.items), dimensions):
                    raise ValueError(f"{features} has shape {matrix.shape}")
                self._matrices[features] = matrix
            matrix = self._matrices[features]
        mapped = cast(mmap, matrix.base)
        if mapped.size() < len(mapped):  # reading on would end the whole process by SIGBUS
            raise ValueError(f"{features}.npy was truncated")
        return matrix
