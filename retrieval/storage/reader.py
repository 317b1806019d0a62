"""Finished indexes, opened for reading: items, matrices, thumbnails and ChromaDB of each gallery of one location."""

import logging
import threading
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image

from retrieval.engines.checksums import check
from retrieval.engines.exact import Scan
from retrieval.errors import IndexingError, PictureError, QueryError
from retrieval.features import Features, Vectors
from retrieval.metrics import DEFINITIONS, QUANTILES, Metric, View
from retrieval.pictures.loading import load_picture
from retrieval.storage.location import Published
from retrieval.storage.manifest import thumbnail_path
from retrieval.storage.projection import Method, Projection, projection_path, read_projection

if TYPE_CHECKING:
    from retrieval.storage.store import Store

ITEMS = "items.parquet"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Entry:
    """What is known of one picture of the gallery; `position` counts the indexed pictures from 0."""

    position: int
    id: str
    label: str
    caption: str


class GalleryIndex:
    """One gallery's finished index. Matrices are mapped, ChromaDB is opened on first use."""

    def __init__(self, published: Published) -> None:
        """Open a published build.

        Raises:
            IndexingError: files of the build are missing or damaged.
        """
        self.manifest = manifest = published.manifest
        self.build = published.files
        self._published = published
        self._opening = threading.Lock()
        try:
            check(self.build, ITEMS)
            self._items = pq.read_table(self.build / ITEMS, memory_map=True)
            self.rows: npt.NDArray[np.int64] = self._items["row"].to_numpy()
        except (OSError, ValueError, KeyError) as error:
            raise self._damaged(error) from error
        if len(self.rows) != manifest.pictures:
            raise self._damaged(f"{len(self.rows)} of {manifest.pictures} items")

    def __len__(self) -> int:
        """Return the number of indexed pictures."""
        return len(self.rows)

    def entry(self, position: int) -> Entry:
        """Return the item at a position, 0 <= position < len."""
        values = {name: self._items[name][position].as_py() for name in ("id", "label", "caption")}
        return Entry(position, **values)

    def position(self, id: str) -> int:
        """Return the position of the item with an id, the first if a data set has it twice.

        Raises:
            QueryError: no such item.
        """
        found: int = pc.index(self._items["id"], id).as_py()
        if found < 0:
            raise QueryError(f"The gallery {self.manifest.gallery!r} has no picture {id[:80]!r}.")
        return found

    @cached_property
    def labels(self) -> list[str]:
        """The label of every item, in gallery order; empty text where there is none."""
        return list(self._items["label"].to_pylist())

    @cached_property
    def classes(self) -> list[str]:
        """The labels there are, sorted."""
        return sorted(self._with_label)

    @cached_property
    def _with_label(self) -> dict[str, npt.NDArray[np.intp]]:
        """The positions of the items of each label, ascending."""
        labels = np.array(self.labels)
        order = np.argsort(labels, kind="stable")
        names, starts = np.unique(labels[order], return_index=True)
        found = dict(zip(names.tolist(), np.split(order, starts[1:]), strict=True))
        found.pop("", None)
        return found

    def percentile(self, features: Features, metric: Metric, score: float) -> float | None:
        """Return the share, from 0 to 1, of random pairs of the gallery that are farther apart than a score says.

        None in a gallery of a single picture, which has no pairs.
        """
        quantiles = self.manifest.background.get(features, {}).get(metric)
        if not quantiles:
            return None
        below = float(np.interp(score, quantiles, QUANTILES))
        return 1 - below if DEFINITIONS[metric].smaller_is_closer else below

    def with_labels(self, labels: Collection[str]) -> npt.NDArray[np.intp]:
        """Return the positions of items that have one of the labels, ascending.

        Raises:
            QueryError: a label that no item has.
        """
        if unknown := sorted(set(labels) - self._with_label.keys()):
            known = ", ".join(self.classes[:20]) + (", ..." if len(self.classes) > 20 else "")
            raise QueryError(f"No picture has the label {unknown[0][:40]!r}. There are: {known or 'no labels'}.")
        return np.sort(np.concatenate([np.empty(0, np.intp), *(self._with_label[label] for label in set(labels))]))

    def thumbnail(self, position: int) -> Path:
        """Return the path of an item's thumbnail, a JPEG file."""
        return thumbnail_path(self.build, int(self.rows[position]))

    def picture(self, position: int) -> Image.Image:
        """Return an item's thumbnail, decoded.

        Raises:
            IndexingError: it is missing or damaged.
        """
        try:
            return load_picture(self.thumbnail(position))
        except PictureError as error:
            raise self._damaged(f"{self.thumbnail(position).name}: {error}") from error

    def at_thumbnail(self, path: Path) -> int | None:
        """Return the position whose thumbnail a path is, or None if it is none of this index."""
        row = int(path.stem) if path.stem.isdecimal() else -1
        position = int(np.searchsorted(self.rows, row))
        found = position < len(self) and self.rows[position] == row and self.thumbnail(position) == path
        return position if found else None

    @property
    def thumbnails(self) -> Path:
        """The folder that holds all thumbnails and nothing else."""
        return self.build / "thumbnails"

    @cached_property
    def _matrices(self) -> dict[Features, Vectors]:
        found = {}
        for features in Features:
            try:
                check(self.build, f"{features}.npy")
                matrix = np.load(self.build / f"{features}.npy", mmap_mode="r")
            except (OSError, ValueError, EOFError) as error:
                raise self._damaged(error) from error
            if matrix.shape != (len(self), self.manifest.dimensions(features)):
                raise self._damaged(f"{features} has shape {matrix.shape}")
            found[features] = matrix
        return found

    def vectors(self, features: Features) -> Vectors:
        """Return the plain feature vectors of all items, shape (n, d), float32, mapped from disk."""
        with self._opening:
            return self._matrices[features]

    def scan(self, features: Features) -> Scan:
        """Return the exact scan over all items; its norms are computed on first use."""
        with self._opening:
            if features not in self._scans:
                side = self.manifest.pixel_size if features is Features.PIXELS else None
                self._scans[features] = Scan(self._matrices[features], side=side)
            return self._scans[features]

    @cached_property
    def _scans(self) -> dict[Features, Scan]:
        return {}

    def nearest(
        self,
        features: Features,
        view: View,
        vector: Vectors,
        count: int,
        labels: Collection[str] = (),
        among: npt.NDArray[np.intp] | None = None,
    ) -> npt.NDArray[np.intp]:
        """Return the positions of about `count` nearest neighbours by ChromaDB, closest first, see `Store.nearest`.

        Args:
            features: what is compared.
            view: how the vectors are looked at.
            vector: the query's plain vector, shape (d,).
            count: how many are wanted.
            labels: only items that have one of them; empty keeps all.
            among: the positions of those, see `with_labels`.

        Raises:
            IndexingError: ChromaDB is in use by another process, or damaged.
        """
        labelled = None if among is None else self.rows[among]
        rows = self._chroma.nearest(features, view, vector, count, labels, labelled)
        positions = np.searchsorted(self.rows, rows)
        # A worker that ran twice can leave a vector in a server whose row was not published.
        known = positions < len(self)
        known[known] = self.rows[positions[known]] == rows[known]
        return positions[known]

    @property
    def _chroma(self) -> "Store":
        with self._opening:
            return self._store

    @cached_property
    def _store(self) -> "Store":
        return self._published.open_store()

    @property
    def maps(self) -> list[tuple[Features, Method]]:
        """The maps there are; a builder may add some to a finished index."""
        kinds = product((Features.CLIP, Features.PIXELS), Method)
        return [each for each in kinds if projection_path(self.build, *each).is_file()]

    def map(self, features: Features, method: Method) -> Projection:
        """Return the places of all items on a plane.

        Raises:
            QueryError: the gallery has no such map.
            IndexingError: it is damaged.
        """
        with self._opening:
            if (features, method) not in self._maps:
                try:
                    dimensions = self.manifest.dimensions(features)
                    self._maps[features, method] = read_projection(self.build, features, method, len(self), dimensions)
                except FileNotFoundError as error:
                    raise QueryError(
                        f"The gallery {self.manifest.gallery!r} has no map of {features} by {method}. Its owner adds "
                        f"one with index_builder.py --map {method} and the other flags that it was made with."
                    ) from error
                except (OSError, ValueError) as error:
                    raise IndexingError(
                        f"A map of the index in {self.build} is damaged ({error}). Run index_builder.py --map {method} "
                        "with the other flags that the index was made with; it makes that file anew."
                    ) from error
            return self._maps[features, method]

    @cached_property
    def _maps(self) -> dict[tuple[Features, Method], Projection]:
        return {}

    def close(self) -> None:
        """Give ChromaDB back, if it was opened."""
        with self._opening:
            if "_store" in self.__dict__:
                self._store.close()
                del self.__dict__["_store"]

    def _damaged(self, reason: object) -> IndexingError:
        return IndexingError(f"The index in {self.build} is damaged ({reason}). {self._published.remedy}")
