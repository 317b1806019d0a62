"""A query and its answer, as values: what is asked, what was found, and how long it took."""

from dataclasses import dataclass
from typing import Any

from retrieval.engines import DEFAULT_ENGINE
from retrieval.features import DEFAULT_FEATURES
from retrieval.features.base import FeatureIdentity
from retrieval.metrics import Metric
from retrieval.pictures.distortion import UNDISTORTED, Distortion
from retrieval.pictures.loading import PictureSource, Region

MAX_TOP_K = 10_000
KEEP_ALL = 1.0  # of near-duplicates


@dataclass(frozen=True)
class Combination:
    """What is compared, how, and which engine proposes the candidates."""

    features: str = DEFAULT_FEATURES
    metric: Metric = Metric.COSINE
    engine: str = DEFAULT_ENGINE


@dataclass(frozen=True)
class Query:
    """What is searched, and how: a picture or an item of the gallery by its position, words, or both.

    `balance` is the share of the words where there are both, from 0 (picture alone) to 1 (words alone).
    `without` is what to stay away from, in words. `labels` keeps only pictures of these classes; empty keeps all.
    `region` is the part of the picture that counts, and `distortion` what is done to it first, to see what a ranking
    withstands. Of pictures whose CLIP vectors have a cosine of `alike` or more only the closest is kept; above 1
    would keep all, and so does 1 itself.
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
        """The features, metric and engine."""
        return Combination(self.features, self.metric, self.engine)

    @property
    def has_picture(self) -> bool:
        """Whether there is a picture to search with, given or of the gallery."""
        return self.picture is not None or self.position is not None

    @property
    def as_it_is(self) -> bool:
        """Whether the picture is searched whole and undistorted."""
        return self.region is None and self.distortion == UNDISTORTED


@dataclass(frozen=True)
class Hit:
    """A picture found; `score` is the metric's own value, and `position` its place in the gallery.

    `duplicates` counts the near-duplicates that rank below it and were left out for it.
    """

    rank: int
    position: int
    id: str
    label: str
    caption: str
    score: float
    duplicates: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return the public form; duplicates are named only where some were left out."""
        found = {"rank": self.rank, "id": self.id, "label": self.label, "caption": self.caption, "score": self.score}
        return found | ({"duplicates": self.duplicates} if self.duplicates else {})


@dataclass(frozen=True)
class Timings:
    """Milliseconds of each part of a search."""

    decode: float
    features: float
    search: float
    total: float


@dataclass(frozen=True)
class Ranking:
    """The answer to a query: the closest pictures, closest first."""

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
        """The features, metric and engine."""
        return Combination(self.features, self.metric, self.engine)

    def to_json(self) -> dict[str, Any]:
        """Return the public form, the same for the HTTP API and `search --json`."""
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
