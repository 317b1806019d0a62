"""Read a published index: items, vectors, thumbnails, maps and engines of one gallery."""

import threading
import time
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc
from PIL import Image

from retrieval.engines import ENGINES
from retrieval.engines.base import EngineDamaged, OpenEngine
from retrieval.engines.exact import ExactEngine, OpenExact, Scan
from retrieval.engines.lock import IndexInUse
from retrieval.errors import IndexingError, PictureError, QueryError
from retrieval.features import Vectors, default_first
from retrieval.gallery.source import valid_unicode
from retrieval.metrics import DEFINITIONS, QUANTILES, Metric
from retrieval.pictures.loading import load_picture
from retrieval.storage.engine_files import open_engine
from retrieval.storage.manifest import Manifest, build_command, rebuild_command, thumbnail_path
from retrieval.storage.projection import Method, Projection, projection_path, read_projection
from retrieval.storage.vectors import ItemVectors

PAUSE = 30.0  # seconds before another attempt to open an engine, since a rebuild can take minutes


@dataclass(frozen=True)
class Entry:
    """An item of a gallery; `position` is its index among the indexed images, from 0."""

    position: int
    id: str
    label: str
    caption: str


@dataclass
class _Opening:
    """An engine that is opened on first use; after a failure, `error` is raised again until `again`."""

    lock: threading.Lock
    engine: OpenEngine | None = None
    error: IndexingError | None = None
    again: float = 0.0


class GalleryIndex:
    """The published index of one gallery. Vectors are memory-mapped; engines and maps are opened on first use."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        """Open the published snapshot in a gallery's folder; raise IndexingError if its files are damaged."""
        self.manifest = manifest
        self.snapshot = folder.resolve() / manifest.snapshot
        self._lock = threading.Lock()
        self._engines = {name: _Opening(threading.Lock()) for name in ENGINES}
        self._maps: dict[tuple[str, Method], Projection] = {}
        try:
            self._items = ItemVectors.of(self.snapshot, manifest)
        except (OSError, ValueError, KeyError) as error:
            raise self._damaged(error) from error
        self.rows = self._items.rows
        self._exact: OpenExact = ExactEngine().open(self._items, self.snapshot)
        if len(self.rows) != manifest.pictures:
            raise self._damaged(f"{len(self.rows)} of {manifest.pictures} items")

    def __len__(self) -> int:
        return len(self.rows)

    def entry(self, position: int) -> Entry:
        """Return the item at a position, 0 <= position < len."""
        values = {name: self._items.items[name][position].as_py() for name in ("id", "label", "caption")}
        return Entry(position, **values)

    def position(self, id: str) -> int:
        """Return the position of the first item with an id; raise QueryError if there is none."""
        found: int = pc.index(self._items.items["id"], valid_unicode(id)).as_py()
        if found < 0:
            raise QueryError(f"The gallery {self.manifest.gallery!r} has no image {id[:80]!r}.")
        return found

    @property
    def features(self) -> tuple[str, ...]:
        """The names of the gallery's feature types."""
        return self._items.features

    @property
    def labels(self) -> list[str]:
        """The label of every item, in gallery order; empty for unlabelled items."""
        return self._items.labels

    @cached_property
    def classes(self) -> list[str]:
        """The distinct labels, sorted."""
        return sorted(self._with_label)

    @cached_property
    def _with_label(self) -> dict[str, npt.NDArray[np.intp]]:
        """The ascending positions of each label's items."""
        labels = np.array(self.labels)
        order = np.argsort(labels, kind="stable")
        names, starts = np.unique(labels[order], return_index=True)
        found = dict(zip(names.tolist(), np.split(order, starts[1:]), strict=True))
        found.pop("", None)
        return found

    def percentile(self, features: str, metric: Metric, score: float) -> float | None:
        """Return the share, from 0 to 1, of random pairs in the gallery with a worse score; None without pairs."""
        quantiles = self.manifest.background.get(features, {}).get(metric)
        if not quantiles:
            return None
        below = float(np.interp(score, quantiles, QUANTILES))
        return 1 - below if DEFINITIONS[metric].smaller_is_closer else below

    def with_labels(self, labels: Collection[str]) -> npt.NDArray[np.intp]:
        """Return the ascending positions of items with one of the labels; raise QueryError if no item has a label."""
        if unknown := sorted(set(labels) - self._with_label.keys()):
            known = ", ".join(self.classes[:20]) + (", ..." if len(self.classes) > 20 else "")
            raise QueryError(f"No image has the label {unknown[0][:40]!r}. Available labels: {known or 'none'}.")
        return np.sort(np.concatenate([np.empty(0, np.intp), *(self._with_label[label] for label in set(labels))]))

    def thumbnail(self, position: int) -> Path:
        """Return the path of an item's thumbnail, a JPEG file."""
        return thumbnail_path(self.snapshot, int(self.rows[position]))

    def picture(self, position: int) -> Image.Image:
        """Return an item's thumbnail, decoded; raise IndexingError if it is missing or damaged."""
        try:
            return load_picture(self.thumbnail(position))
        except PictureError as error:
            raise IndexingError(
                f"The thumbnail {self.thumbnail(position).name} in `{self.snapshot}` cannot be used. {error} "
                f"Make it again: `{rebuild_command(self.snapshot.parent)}`"
            ) from error

    def at_thumbnail(self, path: Path) -> int | None:
        """Return the position of the item with this thumbnail path, or None."""
        row = int(path.stem) if path.stem.isdecimal() else -1
        position = int(np.searchsorted(self.rows, row))
        found = position < len(self) and self.rows[position] == row and self.thumbnail(position) == path
        return position if found else None

    @property
    def thumbnails(self) -> Path:
        """The folder that holds only thumbnails."""
        return self.snapshot / "thumbnails"

    def vectors(self, features: str) -> Vectors:
        """Return the vectors of all items, shape (n, d), float32, memory-mapped.

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
        """Return the exact scan over all items."""
        self.vectors(features)
        return self._exact.scan(features)

    def engine(self, name: str) -> OpenEngine:
        """Return an opened engine; its files are rebuilt from the vectors if they are missing or damaged.

        Other threads wait for a rebuild only if they want the same engine.

        Raises:
            IndexingError: another process has the files open, they cannot be read or rebuilt, or the index was closed.
        """
        if name == ExactEngine.name:
            return self._exact
        opening = self._engines[name]
        with opening.lock:
            if opening.engine is None:
                if opening.error and time.monotonic() < opening.again:
                    raise opening.error
                try:
                    opening.engine = self._open_engine(name)
                except IndexInUse:
                    raise  # it costs nothing to find out that the other process has ended
                except IndexingError as error:
                    opening.error, opening.again = error, time.monotonic() + PAUSE
                    raise
            return opening.engine

    def _open_engine(self, name: str) -> OpenEngine:
        try:
            engine = open_engine(self.snapshot, name, self._items)
        except OSError as error:
            reason = error.strerror or error
            raise IndexingError(
                f"The files of {ENGINES[name].title} in `{self.snapshot}` cannot be used: {reason}. Try again "
                "later, or use the exact scan."
            ) from error
        except (EngineDamaged, ValueError, EOFError) as error:
            raise self._damaged(error) from error
        try:
            self._items.check_open()
        except IndexingError:
            engine.close()
            raise
        return engine

    @property
    def maps(self) -> list[tuple[str, Method]]:
        """The available maps, as pairs of feature type and method; a builder may add maps to a published index."""
        kinds = product((name for name in default_first() if name in self.features), Method)
        return [each for each in kinds if projection_path(self.snapshot, *each).is_file()]

    def map(self, features: str, method: Method) -> Projection:
        """Return a map; raise QueryError if the gallery lacks it, IndexingError if it is damaged."""
        with self._lock:
            if (features, method) not in self._maps:
                try:
                    dimensions = self.manifest.dimensions(features)
                    self._maps[features, method] = read_projection(
                        self.snapshot, features, method, len(self), dimensions
                    )
                except FileNotFoundError as error:
                    raise QueryError(
                        f"The gallery {self.manifest.gallery!r} has no map of {features} by {method}. Add one with "
                        f"`python index_builder.py --map {method}` and the other flags of its first build."
                    ) from error
                except (OSError, ValueError) as error:
                    raise IndexingError(
                        f"A map of the index in `{self.snapshot}` is damaged ({error}). Recompute it with "
                        f"`python index_builder.py --map {method}` and the other flags of its first build."
                    ) from error
            return self._maps[features, method]

    def close(self) -> None:
        """Close the open engines; one that is being opened or rebuilt in another thread stops soon."""
        self._items.close()
        for opening in self._engines.values():
            if opening.lock.acquire(timeout=1):
                if opening.engine is not None:
                    opening.engine.close()
                opening.engine = None
                opening.lock.release()

    def _damaged(self, reason: object) -> IndexingError:
        return IndexingError(
            f"The index in `{self.snapshot}` is damaged ({reason}). Repair it: `{build_command(self.snapshot.parent)}`"
        )
