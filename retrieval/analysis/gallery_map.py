"""The data of a gallery map: images as labelled points, the query and its hits."""

from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from retrieval.engines import DEFAULT_ENGINE
from retrieval.features import FEATURES, Vectors
from retrieval.labels import METHODS
from retrieval.metrics import Metric
from retrieval.search.query import Combination, Hit, Query
from retrieval.search.ranking import rank
from retrieval.search.searcher import Searcher
from retrieval.storage.projection import NEIGHBOURS, Method
from retrieval.storage.reader import Entry, GalleryIndex

COLOURED = 10  # labels with their own colour and shape; more could not be told apart
DRAWN = 5000  # points; more would be slow on a phone and cover each other
HITS = 12

# Five colours for a white and five for a slate page, each with a contrast of at least 3:1 (WCAG 2.2, 1.4.11), and
# distinct for every kind of colour vision (Machado et al. 2009). Ten such colours do not exist, so the first five
# labels are discs and the next five triangles.
LIGHT = ("#1f3fd0", "#e07000", "#10101c", "#8f1f00", "#8c8ce0")
DARK = ("#8cc4fc", "#e08c00", "#f5ee30", "#d4187c", "#1f76fc")
OTHER = {False: "#8a94a3", True: "#64748b"}  # by whether the page is dark
OTHER_LABELS = "other labels"


@dataclass(frozen=True)
class Points:
    """The points of a map, at most `DRAWN`."""

    entries: tuple[Entry, ...]
    coordinates: Vectors  # shape (n, 2)
    label_of: tuple[int, ...]  # the index of each image's label in `labels`
    labels: tuple[tuple[str, int], ...]  # most frequent first, with their number of images in the whole gallery


@dataclass(frozen=True)
class Marks:
    """The query and its hits on a map.

    A text query has no point: CLIP's text vectors lie apart from all image vectors (Liang et al., "Mind the Gap",
    2022), so a point on a map of images would mean nothing.
    """

    query: Vectors | None  # the point of the query image, shape (2,)
    position: int | None  # of the query image, if it is in the gallery
    estimated: bool  # whether the point was estimated from the image's neighbours
    hits: tuple[Hit, ...]
    coordinates: Vectors  # of the hits, shape (n, 2)


def points(index: GalleryIndex, features: str, method: Method) -> Points:
    """Return the points to draw: all images, or a fixed random sample of a large gallery; see `GalleryIndex.map`."""
    placed = index.map(features, method).coordinates
    labels = ranked_labels(index)
    place = {label: i for i, (label, _) in enumerate(labels)}
    positions = np.arange(len(index))
    if len(index) > DRAWN:
        positions = np.sort(np.random.default_rng(0).choice(len(index), DRAWN, replace=False))
    entries = tuple(index.entry(int(position)) for position in positions)
    return Points(entries, placed[positions], tuple(place[entry.label] for entry in entries), labels)


def ranked_labels(index: GalleryIndex) -> tuple[tuple[str, int], ...]:
    """Return the labels and their number of images, most frequent first; the empty label is last."""
    counted = Counter(index.labels)
    return tuple(sorted(counted.items(), key=lambda each: (each[0] == "", -each[1], each[0])))


def marks(searcher: Searcher, index: GalleryIndex, query: Query, method: Method) -> Marks:
    """Search, and return the points of the query and its hits on the map of the query's features.

    The metric is always L2, the distance on the map. For a query with image and text, the hits are those of both and
    the point is that of the image.
    """
    query = replace(query, metric=Metric.L2, engine=DEFAULT_ENGINE, top_k=HITS)
    projection = index.map(query.features, method)
    hits = searcher.search(query, index).hits
    place, estimated = None, False
    position = query.position if query.is_whole_picture else None
    if position is not None:
        place = projection.coordinates[position]
    elif query.has_picture:
        vector = searcher.embedder.embed(index, replace(query, text="", without="")).vector
        place = projection.place(vector)
        if estimated := place is None:
            nearest, _ = rank(index, Combination(query.features, Metric.L2), vector, NEIGHBOURS)
            place = projection.coordinates[nearest].mean(axis=0)
    return Marks(place, position, estimated, hits, projection.coordinates[[hit.position for hit in hits]])


def as_rows(index: GalleryIndex, features: str, method: Method) -> list[dict[str, Any]]:
    """Return id, label, x and y of every image of the gallery; see `GalleryIndex.map`."""
    placed = zip(map(index.entry, range(len(index))), index.map(features, method).coordinates.tolist(), strict=True)
    return [{"id": entry.id, "label": entry.label, "x": short(x), "y": short(y)} for entry, (x, y) in placed]


def map_title(index: GalleryIndex, features: str, method: Method) -> str:
    """Return the gallery, features and method of a map, and the share of the variance that it keeps if known."""
    title = f"{index.manifest.gallery}: {len(index):,} images, {FEATURES[features].title}, {METHODS[method]}"
    kept = index.map(features, method).kept
    return title if kept is None else f"{title} ({kept:.1%} of the variance)"


def short(value: float) -> float:
    """Return a coordinate rounded to six significant digits, about the precision of float32."""
    return float(f"{value:.6g}")
