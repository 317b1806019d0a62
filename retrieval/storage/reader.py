"""A finished index, opened for reading: items, vectors, thumbnails, maps and engines of one gallery."""

import threading
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc
from PIL import Image

from retrieval.engines.base import EngineDamaged, OpenEngine
from retrieval.engines.exact import ExactEngine, OpenExact, Scan
from retrieval.errors import IndexingError, PictureError, QueryError
from retrieval.features import FEATURES, Vectors, default_first
from retrieval.metrics import DEFINITIONS, QUANTILES, Metric
from retrieval.pictures.loading import load_picture
from retrieval.storage.location import Published
from retrieval.storage.manifest import thumbnail_path
from retrieval.storage.projection import Method, Projection, projection_path, read_projection
from retrieval.storage.vectors import ItemVectors


@dataclass(frozen=True)
class Entry:
    """One item of a gallery; `position` counts the indexed images from 0."""

    position: int
    id: str
    label: str
    caption: str


class GalleryIndex:
    """One gallery's finished index. Vectors are mapped from disk, engines are opened on first use."""

    def __init__(self, published: Published) -> None:
        """Open a published build.

        Raises:
            IndexingError: files of the build are missing or damaged.
        """
        self.manifest = manifest = published.manifest
        self.build = published.files
        self._published = published
        self._opening = threading.Lock()
        self._engines: dict[str, OpenEngine] = {}
        self._maps: dict[tuple[str, Method], Projection] = {}
        # An index can have vectors of a feature type that this program does not know (any more).
        dimensions = {name: each.dimensions for name, each in manifest.features.items() if name in FEATURES}
        try:
            self._items = ItemVectors(self.build, dimensions, checked=True)
        except (OSError, ValueError, KeyError) as error:
            raise self._damaged(error) from error
        self.rows = self._items.rows
        self._exact: OpenExact = ExactEngine().open(self._items, self.build)
        if len(self.rows) != manifest.pictures:
            raise self._damaged(f"{len(self.rows)} of {manifest.pictures} items")

    def __len__(self) -> int:
        """Return the number of indexed pictures."""
        return len(self.rows)

    def entry(self, position: int) -> Entry:
        """Return the item at a position, 0 <= position < len."""
        values = {name: self._items.items[name][position].as_py() for name in ("id", "label", "caption")}
        return Entry(position, **values)

    def position(self, id: str) -> int:
        """Return the position of the item with an id, the first if a data set has it twice.

        Raises:
            QueryError: no such item.
        """
        found: int = pc.index(self._items.items["id"], id).as_py()
        if found < 0:
            raise QueryError(f"The gallery {self.manifest.gallery!r} has no picture {id[:80]!r}.")
        return found

    @property
    def features(self) -> tuple[str, ...]:
        """The names of the gallery's feature types."""
        return self._items.features

    @property
    def labels(self) -> list[str]:
        """The label of every item, in gallery order; an empty text where there is none."""
        return self._items.labels

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

    def percentile(self, features: str, metric: Metric, score: float) -> float | None:
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

    def vectors(self, features: str) -> Vectors:
        """Return the plain vectors of all items, shape (n, d), float32, mapped from disk.

        Raises:
            QueryError: the gallery does not have this feature type.
            IndexingError: the vectors are damaged.
        """
        if features not in self.features:
            known = ", ".join(self.features)
            raise QueryError(
                f"The gallery {self.manifest.gallery!r} has no {features} features; it has {known}. Rebuild it: "
                "`python index_builder.py` with the flags of its first build."
            )
        try:
            return self._items.vectors(features)
        except (OSError, ValueError, EOFError) as error:
            raise self._damaged(error) from error

    def scan(self, features: str) -> Scan:
        """Return the exact scan over all items; its norms are computed on first use."""
        self.vectors(features)
        return self._exact.scan(features)

    def engine(self, name: str) -> OpenEngine:
        """Return an engine, opened; its files are rebuilt from the vectors if they are missing or damaged.

        Raises:
            IndexingError: another process holds its files, or they cannot be rebuilt.
        """
        if name == ExactEngine.name:
            return self._exact
        with self._opening:
            if name not in self._engines:
                try:
                    self._engines[name] = self._published.open_engine(name, self._items)
                except (EngineDamaged, OSError, ValueError, EOFError) as error:
                    raise self._damaged(error) from error
            return self._engines[name]

    @property
    def maps(self) -> list[tuple[str, Method]]:
        """The maps there are; a builder may add some to a finished index."""
        kinds = product((name for name in default_first() if name in self.features), Method)
        return [each for each in kinds if projection_path(self.build, *each).is_file()]

    def map(self, features: str, method: Method) -> Projection:
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

    def close(self) -> None:
        """Close the engines that were opened."""
        with self._opening:
            for engine in self._engines.values():
                engine.close()
            self._engines.clear()

    def _damaged(self, reason: object) -> IndexingError:
        return IndexingError(f"The index in {self.build} is damaged ({reason}). {self._published.remedy}")
