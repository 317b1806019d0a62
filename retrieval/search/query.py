"""A query and its result: what is searched, the hits, and the timings."""

from dataclasses import dataclass
from typing import Any

from retrieval.engines import DEFAULT_ENGINE
from retrieval.features import DEFAULT_FEATURES
from retrieval.features.base import FeatureIdentity
from retrieval.metrics import Metric
from retrieval.pictures.distortion import UNDISTORTED, Distortion
from retrieval.pictures.loading import PictureSource, Region

MAX_TOP_K = 10_000
KEEP_ALL = 1.0  # the similarity threshold that hides no near-duplicates


@dataclass(frozen=True)
class Combination:
    """A feature type, a metric, and the engine that proposes the candidates."""

    features: str = DEFAULT_FEATURES
    metric: Metric = Metric.COSINE
    engine: str = DEFAULT_ENGINE


@dataclass(frozen=True)
class Query:
    """A search by image, by text, or by both, and its settings.

    Attributes:
        picture: the query image.
        position: the position of a gallery item that is the query image, instead of `picture`.
        text: the text query.
        without: text whose meaning the results should avoid.
        balance: image-text balance, from 0 (image only) to 1 (text only).
        labels: classes to keep; empty keeps all.
        region: the part of the image to search with.
        distortion: a distortion applied to the image first, to measure robustness.
        alike: of images whose CLIP vectors have at least this cosine, only the closest is shown; 1 hides none.
        features: the feature type.
        metric: the metric that ranks the results.
        engine: what proposes the candidates.
        top_k: the number of results.
        gallery: the gallery's name; empty is the first one.
    """

    picture: PictureSource | None = None
    position: int | None = None
    text: str = ""
    without: str = ""
    balance: float = 0.5
    labels: tuple[str, ...] = ()
    region: Region | None = None
    distortion: Distortion = UNDISTORTED
    alike: float = KEEP_ALL
    features: str = DEFAULT_FEATURES
    metric: Metric = Metric.COSINE
    engine: str = DEFAULT_ENGINE
    top_k: int = 10
    gallery: str = ""

    @property
    def combination(self) -> Combination:
        """The feature type, metric and engine."""
        return Combination(self.features, self.metric, self.engine)

    @property
    def has_picture(self) -> bool:
        """Whether the query has an image, either uploaded or from the gallery."""
        return self.picture is not None or self.position is not None

    @property
    def is_whole_picture(self) -> bool:
        """Whether the image is used without a region or a distortion."""
        return self.region is None and self.distortion == UNDISTORTED


@dataclass(frozen=True)
class Hit:
    """One result. `score` is the metric's value, `position` the index in the gallery.

    `duplicates` is the number of near-duplicates of this hit that were hidden; they rank below it.
    """

    rank: int
    position: int
    id: str
    label: str
    caption: str
    score: float
    duplicates: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form; it contains `duplicates` only if some were hidden."""
        found = {"rank": self.rank, "id": self.id, "label": self.label, "caption": self.caption, "score": self.score}
        return found | ({"duplicates": self.duplicates} if self.duplicates else {})


@dataclass(frozen=True)
class Timings:
    """The duration of each part of a search in milliseconds."""

    decode: float
    features: float
    search: float
    total: float


@dataclass(frozen=True)
class Ranking:
    """The result of a query: the closest images, closest first; `size` is the number of images in the gallery."""

    gallery: str
    features: str
    metric: Metric
    engine: str
    model: FeatureIdentity
    hits: tuple[Hit, ...]
    timings: Timings
    size: int

    @property
    def combination(self) -> Combination:
        """The feature type, metric and engine."""
        return Combination(self.features, self.metric, self.engine)

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form that the HTTP API and `search --json` share."""
        return {
            "gallery": self.gallery,
            "features": str(self.features),
            "metric": str(self.metric),
            "engine": str(self.engine),
            "model": self.model.title,
            "hits": [hit.to_json() for hit in self.hits],
            "timings_ms": {
                "decode": round(self.timings.decode, 3),
                "features": round(self.timings.features, 3),
                "search": round(self.timings.search, 3),
                "total": round(self.timings.total, 3),
            },
        }
