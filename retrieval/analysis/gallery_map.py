"""The data of a gallery map: images as labelled points, the query and its hits."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

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
DRAWN = 10_000  # points; more would be slow on a phone and cover each other
HITS = 12
INSIDE = 96  # percent of the plane between the outermost points
GROUP_NEIGHBOURS = 15  # a label has a name on the map where more than half of so many neighbours share it
GROUP_SHARE = 0.5

# Five colours for a white and five for a slate page, each with a contrast of at least 3:1 (WCAG 2.2, 1.4.11), and
# distinct for every kind of colour vision (Machado et al. 2009). Ten such colours do not exist, so the first five
# labels are discs and the next five rings.
LIGHT = ("#1f3fd0", "#e07000", "#10101c", "#8f1f00", "#8c8ce0")
DARK = ("#8cc4fc", "#e08c00", "#f5ee30", "#d4187c", "#1f76fc")
OTHER = {False: "#8a94a3", True: "#64748b"}  # by whether the page is dark
OTHER_LABELS = "other labels"


@dataclass(frozen=True)
class Points:
    """The points of a map, at most `DRAWN`."""

    entries: tuple[Entry, ...]
    coordinates: Vectors  # of their places, see `Plane`, shape (n, 2)
    label_of: tuple[int, ...]  # the index of each image's label in `labels`
    labels: tuple[tuple[str, int], ...]  # most frequent first, with their number of images in the whole gallery
    names: tuple["GroupName", ...]


@dataclass(frozen=True)
class GroupName:
    """Where the name of a label stands: among its images, if they are a group."""

    label: int
    x: float
    y: float


class Plane:
    """The rectangle of a map's points on the page: x to the right and y downwards, in percent.

    PCA keeps distances, so both axes have the same scale. The axes of t-SNE mean nothing, so each fills its side.
    """

    def __init__(self, coordinates: Vectors, method: Method) -> None:
        low, high = coordinates.min(axis=0), coordinates.max(axis=0)
        self._middle = (low + high) / 2
        sides = np.maximum(high - low, 1e-9)
        self.equal = method is Method.PCA
        self._sides = np.full(2, sides.max()) if self.equal else sides

    def place(self, coordinates: Vectors) -> Vectors:
        """Return points of shape (n, 2) in percent; those outside all images of the gallery are moved to its edge."""
        placed: Vectors = 50 + (coordinates - self._middle) / self._sides * [INSIDE, -INSIDE]
        return np.clip(placed, 1, 99)


@dataclass(frozen=True)
class Marks:
    """The query and its hits on a map.

    A text query has no point: CLIP's text vectors lie apart from all image vectors (Liang et al., "Mind the Gap",
    2022), so a point on a map of images would mean nothing.
    """

    query: Vectors | None  # the point of the query image, see `Projection`, shape (2,)
    position: int | None  # of the query image, if it is in the gallery
    estimated: bool  # whether the point was estimated from the image's neighbours
    hits: tuple[Hit, ...]
    coordinates: Vectors  # of the hits, shape (n, 2)
    notes: tuple[str, ...]  # those of the ranking
    features: str


def points(index: GalleryIndex, features: str, method: Method) -> Points:
    """Return the points to draw: all images, or a fixed random sample of a large gallery; see `GalleryIndex.map`."""
    placed = index.map(features, method).coordinates
    labels = ranked_labels(index)
    place = {label: i for i, (label, _) in enumerate(labels)}
    positions = np.arange(len(index))
    if len(index) > DRAWN:
        positions = np.sort(np.random.default_rng(0).choice(len(index), DRAWN, replace=False))
    entries = tuple(index.entry(int(position)) for position in positions)
    label_of = tuple(place[entry.label] for entry in entries)
    shown = Plane(placed, method).place(placed[positions])
    return Points(entries, shown, label_of, labels, tuple(group_names(shown, np.array(label_of), labels)))


def group_names(
    places: Vectors, label_of: npt.NDArray[np.int_], labels: Sequence[tuple[str, int]]
) -> Iterator[GroupName]:
    """Yield where to write the labels that form groups among places of shape (n, 2) in percent.

    A name stands at the image of its label with most neighbours of the same label, the closest ones if there are
    several. More frequent labels come first; the page leaves out a name that would cover an earlier one.
    """
    from sklearn.neighbors import NearestNeighbors

    count = min(GROUP_NEIGHBOURS, len(places) - 1)
    if count < 2:
        return
    distances, near = NearestNeighbors(n_neighbors=count + 1).fit(places).kneighbors(places)
    same = label_of[near[:, 1:]] == label_of[:, None]
    for label, (name, _) in enumerate(labels):
        members = np.flatnonzero(label_of == label)
        if not name or len(members) < 3:
            continue
        share = same[members, : len(members) - 1].mean(axis=1)  # there are no more images with this label
        if share.max() <= GROUP_SHARE:
            continue
        best = members[np.lexsort((distances[members, -1], -share))[0]]
        x, y = (round(float(value), 3) for value in places[best])
        yield GroupName(label, x, y)


def ranked_labels(index: GalleryIndex) -> tuple[tuple[str, int], ...]:
    """Return the labels and their number of images, most frequent first; the empty label is last."""
    counted = Counter(index.labels)
    return tuple(sorted(counted.items(), key=lambda each: (each[0] == "", -each[1], each[0])))


def marks(searcher: Searcher, index: GalleryIndex, query: Query, method: Method) -> Marks:
    """Search, and return the points of the query and its hits on the map of the query's features.

    The metric is always L2, the distance on the map. For a query with more than the query image, the hits are those of
    all and the point is that of the query image.
    """
    query = replace(query, metric=Metric.L2, engine=DEFAULT_ENGINE, top_k=HITS)
    projection = index.map(query.features, method)
    ranking = searcher.search(query, index)
    place, estimated = None, False
    position = query.position if query.is_whole_picture else None
    if position is not None:
        place = projection.coordinates[position]
    elif query.has_picture:
        vector = searcher.embedder.embed(index, replace(query, text="", without="", added=())).vector
        place = projection.place(vector)
        if estimated := place is None:
            nearest, _ = rank(index, Combination(query.features, Metric.L2), vector, NEIGHBOURS)
            place = projection.coordinates[nearest].mean(axis=0)
    coordinates = projection.coordinates[[hit.position for hit in ranking.hits]]
    return Marks(place, position, estimated, ranking.hits, coordinates, ranking.notes, query.features)


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
