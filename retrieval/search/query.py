"""A query and its result: what is searched, the hits, and the timings."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from retrieval.engines import DEFAULT_ENGINE
from retrieval.features import DEFAULT_FEATURES
from retrieval.features.base import FeatureIdentity
from retrieval.metrics import Metric
from retrieval.pictures.distortion import UNDISTORTED, Distortion
from retrieval.pictures.loading import PictureSource, Region

MAX_TOP_K = 10_000
MAX_ADDED = 16  # images added to a query; each is decoded and embedded
KEEP_ALL = 1.0  # the similarity threshold that hides no near-duplicates


@dataclass(frozen=True)
class Combination:
    """A feature type, a metric, and the engine that proposes the candidates."""

    features: str = DEFAULT_FEATURES
    metric: Metric = Metric.COSINE
    engine: str = DEFAULT_ENGINE

    def to_json(self) -> dict[str, str]:
        """Return the three names, as they stand in every result."""
        return {"features": self.features, "metric": str(self.metric), "engine": self.engine}


@dataclass(frozen=True)
class Added:
    """An image added to a query: a gallery item, or any other image. Results should resemble it, or not (`more`)."""

    picture: PictureSource | None = None
    position: int | None = None  # of the gallery item, instead of `picture`
    more: bool = True


@dataclass(frozen=True)
class Query:
    """A search by images, by text, or by both, and its settings."""

    picture: PictureSource | None = None
    position: int | None = None  # of the gallery item that is the query image, instead of `picture`
    added: tuple[Added, ...] = ()  # more images, at most `MAX_ADDED`
    text: str = ""  # terms, each after + or -; see `retrieval.search.terms`
    without: str = ""  # one more term that the results should avoid
    balance: float = 0.5  # from 0 (image only) to 1 (text only)
    labels: tuple[str, ...] = ()  # to keep; empty keeps all
    region: Region | None = None  # the part of the image to search with
    distortion: Distortion = UNDISTORTED  # applied to the image first, to measure robustness
    alike: float = KEEP_ALL  # of images whose CLIP vectors have at least this cosine, only the closest is shown
    features: str = DEFAULT_FEATURES
    metric: Metric = Metric.COSINE
    engine: str = DEFAULT_ENGINE  # or `auto`
    top_k: int = 10
    min_score: float | None = None  # leaves out worse scores: smaller ones, or larger ones of a distance
    gallery: str = ""  # empty is the first one

    @property
    def combination(self) -> Combination:
        """The feature type, metric and engine."""
        return Combination(self.features, self.metric, self.engine)

    @property
    def has_text(self) -> bool:
        """Whether there is text to find or to exclude."""
        return bool(self.text.split() or self.without.split())

    @property
    def has_picture(self) -> bool:
        """Whether the query has a query image, either uploaded or from the gallery."""
        return self.picture is not None or self.position is not None

    @property
    def shows(self) -> bool:
        """Whether there is any image that the results should resemble."""
        return self.has_picture or any(each.more for each in self.added)

    @property
    def is_mixed(self) -> bool:
        """Whether the query is more than a single image, so that its scores are not those of two images."""
        return self.has_text or bool(self.added)

    @property
    def positions(self) -> tuple[int, ...]:
        """The gallery items that are part of the query, and therefore not among its results."""
        parts = (self.position, *(each.position for each in self.added))
        return tuple(position for position in parts if position is not None)

    @property
    def is_whole_picture(self) -> bool:
        """Whether the image is used without a region or a distortion."""
        return self.region is None and self.distortion == UNDISTORTED


@dataclass(frozen=True)
class Hit:
    """One result."""

    rank: int  # from 1
    position: int  # in the gallery, from 0
    id: str
    label: str
    caption: str
    score: float  # the metric's value
    duplicates: int = 0  # hidden near-duplicates of this hit, which rank below it

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
    """The result of a query: the hits, closest first; `size` is the number of images in the gallery."""

    gallery: str
    features: str
    metric: Metric
    engine: str
    model: FeatureIdentity
    hits: tuple[Hit, ...]
    timings: Timings
    size: int
    engine_note: str = ""  # why this engine was chosen, or why its results cannot be trusted
    notes: tuple[str, ...] = ()  # sentences on what of the query was not searched, or otherwise than given

    @property
    def combination(self) -> Combination:
        """The feature type, metric and engine."""
        return Combination(self.features, self.metric, self.engine)

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form that the HTTP API and `search --json` share; without a note, it has no `engine_note`."""
        return {
            "gallery": self.gallery,
            **self.combination.to_json(),
            **({"engine_note": self.engine_note} if self.engine_note else {}),
            "model": self.model.title,
            "notes": list(self.notes),
            "hits": [hit.to_json() for hit in self.hits],
            "timings_ms": {part: round(spent, 3) for part, spent in asdict(self.timings).items()},
        }


def rankings_to_json(rankings: Sequence[Ranking]) -> dict[str, Any]:
    """Return the JSON form of a search by one feature type, which is that of its ranking, or of one by several."""
    if len(rankings) == 1:
        return rankings[0].to_json()
    return {"gallery": rankings[0].gallery, "rankings": [each.to_json() for each in rankings]}
