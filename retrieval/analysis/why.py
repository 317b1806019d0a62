"""Why an image is a result: what each part of the query image and of the result contributes to the score.

If the vector holds pixels, each pixel has its exact contribution. If the vector is the mean of vectors of places, as in
a convolutional network that ends with average pooling, each place has its exact contribution (Zhou et al., "Learning
Deep Features for Discriminative Localization", 2016). Otherwise, each cell of a grid is covered in turn, and its
contribution is the change of the score (Zeiler and Fergus, "Visualizing and Understanding Convolutional Networks",
2014).
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter, ImageOps

from retrieval.features import FEATURES, Vectors
from retrieval.features.base import FeatureSet
from retrieval.metrics import DEFINITIONS, Metric, score_pairs, view_of
from retrieval.pictures.loading import WHOLE, Region, fit_within
from retrieval.search.embedding import QueryPictures
from retrieval.search.query import Query
from retrieval.search.searcher import Searcher
from retrieval.search.vector_cache import VectorCache
from retrieval.storage.reader import GalleryIndex

GRID = 7  # rows and columns of covered cells
LONGEST = 512  # pixels of an image whose cells are covered; models look at fewer
BLUR = 0.1  # standard deviation, as a share of the longer side: about a cell, so that little of its content is left
CELLS_MOST = 64  # rows and columns of a map; larger squares of pixels are summed up
IMAGES_KEPT = 64  # whose vectors of places are cached
# Their scores are sums over the parts of an image, so each part's contribution is exact. For other metrics, and for
# models whose parts cannot be told apart, parts are covered.
SUMMED = frozenset({Metric.L1, Metric.L2, Metric.COSINE, Metric.CORRELATION})
DIM = 0.3  # brightness of the parts that do not stand out

Numbers = npt.NDArray[np.float64]


class Method(StrEnum):
    """How contributions are computed."""

    PIXELS = "pixels"
    PLACES = "places"
    COVERING = "covering"


ABOUT = {
    Method.PIXELS: "exact contribution of each pixel",
    Method.PLACES: "exact contribution of each place that the model averages",
    Method.COVERING: "change of the score when a cell is covered by a blur",
}


@dataclass(frozen=True)
class HeatMap:
    """What each cell of an image contributes to the score, or for L2 to its square.

    Attributes:
        contributions: shape (rows, columns), float64.
        region: the part of the image that the cells cover.
        rest: what belongs to no cell. It makes the exact methods add up to the score; with covering it is 0.
    """

    contributions: Numbers
    region: Region = WHOLE
    rest: float = 0.0

    @property
    def total(self) -> float:
        """The sum of all contributions."""
        return float(self.contributions.sum()) + self.rest

    def brightness(self, metric: Metric) -> Numbers:
        """Return how far each cell brings the images closer than the average cell does, from 0 to 1."""
        closer = -self.contributions if DEFINITIONS[metric].smaller_is_closer else self.contributions
        above: Numbers = np.maximum(closer - closer.mean(), 0)
        return above / (float(above.max()) or 1.0)

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {"region": list(self.region), "rest": self.rest, "contributions": self.contributions.tolist()}


@dataclass(frozen=True)
class Why:
    """The maps of a query and one of its results; `query` is None for a query without an image."""

    gallery: str
    id: str
    features: str
    metric: Metric
    method: Method
    score: float
    query: HeatMap | None
    result: HeatMap

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form that the HTTP API and `why --json` share."""
        return {
            "gallery": self.gallery,
            "id": self.id,
            "features": self.features,
            "metric": str(self.metric),
            "score": self.score,
            "method": str(self.method),
            "query": self.query and self.query.to_json(),
            "result": self.result.to_json(),
        }


class Explainer:
    """Explains results; what it computes about an image is cached for other metrics and results. Thread-safe."""

    def __init__(self, searcher: Searcher) -> None:
        self.searcher = searcher
        self._cache = VectorCache(IMAGES_KEPT)

    def why(
        self,
        query: Query,
        position: int,
        index: GalleryIndex | None = None,
        check: Callable[[], None] = lambda: None,
    ) -> tuple[Why, Image.Image | None]:
        """Return why the image at a position is a result, and the query image; `check` may raise to stop the job.

        The map of the result is about the whole query. That of the query image leaves out the text of the query. Where
        the gallery has only a thumbnail of the result, the map is about that. Raise any kind of RetrievalError.
        """
        embedder = self.searcher.embedder
        index = index or self.searcher.indexes.get(query.gallery)
        pictures = QueryPictures(embedder, index, query, [query.features])
        picture = pictures.main if query.has_picture else None
        asked = embedder.embed(index, query, pictures).vector
        [found] = index.vectors_at(query.features, np.array([position]))
        [score] = score_pairs(query.metric, asked, found[None])
        about = (index.manifest.gallery, index.entry(position).id, query.features, query.metric)
        shown = query.distortion.apply(picture.undistorted()) if picture else None
        summed = query.metric in SUMMED
        if summed and (side := FEATURES[query.features].image_side(len(found))):
            heat = HeatMap(_pixels(query.metric, asked, found, side))
            return Why(*about, Method.PIXELS, float(score), heat, heat), shown
        features = embedder.feature_set(index, query.features)
        parts = _Parts(features, self._cache, check, summed)
        key = (query.features, features.identity, parts.method)
        of_result = parts.heat(index.picture(position), (*key, index.snapshot.name, position), query.metric, asked)
        of_query = None
        if picture and shown:
            of_query = parts.heat(shown, (*key, picture.digest, query.region, query.distortion), query.metric, found)
        return Why(*about, parts.method, float(score), of_query, of_result), shown


class _Parts:
    """Computes what the parts of an image contribute to its score with a vector of another image or of a text."""

    def __init__(self, features: FeatureSet, cache: VectorCache, check: Callable[[], None], summed: bool) -> None:
        self._features = features
        self._cache = cache
        self._check = check
        self.method = Method.PLACES if summed and features.has_places else Method.COVERING

    def heat(self, picture: Image.Image, key: tuple[object, ...], metric: Metric, other: Vectors) -> HeatMap:
        """Return the map of an image, which `key` identifies, for the other vector, shape (d,)."""
        compute = self._features.places if self.method is Method.PLACES else self._covered
        [vectors] = self._cache.vectors([key], lambda _: [compute(picture)])
        if self.method is Method.PLACES:
            contributions, rest = _places(metric, vectors, other)
            return HeatMap(contributions, self._features.seen(picture), rest)
        scores = score_pairs(metric, other, vectors)
        if metric is Metric.L2:
            scores = np.square(scores)
        return HeatMap((scores[0] - scores[1:]).reshape(GRID, GRID))

    def _covered(self, picture: Image.Image) -> Vectors:
        """Return the vectors of an image and of its copies with one cell covered, shape (1 + GRID * GRID, d)."""
        small = fit_within(picture, LONGEST)
        copies = [small, *covered(small)]
        size = self._features.batch_size or len(copies)
        vectors = []
        for start in range(0, len(copies), size):
            self._check()
            vectors.append(self._features.embed_query(copies[start : start + size]))
        return np.concatenate(vectors)


def covered(picture: Image.Image) -> list[Image.Image]:
    """Return copies of an image, each with one cell of the grid covered by a blur, row by row."""
    blurred = picture.filter(ImageFilter.GaussianBlur(BLUR * max(picture.size)))
    columns, rows = (np.linspace(0, side, GRID + 1).round().astype(int).tolist() for side in picture.size)
    copies = []
    for top, bottom in pairwise(rows):
        for left, right in pairwise(columns):
            copy = picture.copy()
            copy.paste(blurred.crop((left, top, right, bottom)), (left, top))
            copies.append(copy)
    return copies


def _pixels(metric: Metric, a: Vectors, b: Vectors, side: int) -> Numbers:
    """Return what each pixel of two vectors adds to their score, for L2 to its square; shape (rows, columns)."""
    x, y = (view_of(DEFINITIONS[metric].view, np.asarray(each, np.float64)[None])[0] for each in (a, b))
    terms = np.abs(x - y) if metric is Metric.L1 else np.square(x - y) if metric is Metric.L2 else x * y
    pixels = terms.reshape(side, side, -1).sum(axis=2)
    starts = np.unique(np.linspace(0, side, min(side, CELLS_MOST), endpoint=False).astype(int))
    sums: Numbers = np.add.reduceat(np.add.reduceat(pixels, starts, axis=0), starts, axis=1)
    return sums


def _places(metric: Metric, places: Vectors, other: Vectors) -> tuple[Numbers, float]:
    """Return what each place adds to the score of an image with another vector, shape (d,), and the rest.

    `places` has shape (rows, columns, d). Each score is a linear function of the image's vector v, if the other vector
    w, the length of v, and for L1 the signs of v - w are fixed: |v - w|² = -2 v.w + |v|² + |w|², and
    sum |v - w| = s.v - s.w with s = sign(v - w).
    """
    parts = places.astype(np.float64) / (places.shape[0] * places.shape[1])
    total = parts.sum(axis=(0, 1))
    length = float(np.linalg.norm(total)) or 1.0
    parts, total, w = parts / length, total / length, other.astype(np.float64)
    if metric is Metric.L1:
        signs = np.sign(total - w)
        return parts @ signs, -float(signs @ w)
    if metric is Metric.L2:
        return parts @ (-2 * w), float(total @ total + w @ w)
    [direction] = view_of(DEFINITIONS[metric].view, w[None])
    if metric is Metric.CORRELATION:  # the direction has a mean of 0, so the mean of the image's vector adds nothing
        direction = direction / (float(np.linalg.norm(total - total.mean())) or 1.0)
    return parts @ direction, 0.0


def highlighted(picture: Image.Image, heat: HeatMap, metric: Metric) -> Image.Image:
    """Return an RGB image whose parts are the brighter, the closer they bring the two images."""
    left, top, right, bottom = heat.region
    box = (round(left * picture.width), round(top * picture.height))
    size = (max(1, round(right * picture.width) - box[0]), max(1, round(bottom * picture.height) - box[1]))
    cells = Image.fromarray((heat.brightness(metric) * 255).astype(np.uint8))
    mask = Image.new("L", picture.size)
    mask.paste(cells.resize(size, Image.Resampling.BICUBIC), box)
    grey = ImageOps.grayscale(picture).point(lambda value: value * DIM)
    return Image.composite(picture, grey.convert("RGB"), mask)
