"""Change the vectors of a gallery, or fuse two feature types, and see what that does to its figures."""

from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from retrieval.analysis.evaluation import ExactRanking, Nearness, found_in, ranked_in_order
from retrieval.analysis.leaderboard import Figure
from retrieval.analysis.measures import Floats, Ints, measure, measure_names
from retrieval.analysis.queries import SEED, Judgements, Queries
from retrieval.analysis.statistics import ALPHA, intervals, paired_p
from retrieval.engines.exact import Scan
from retrieval.errors import GalleryError
from retrieval.features import FEATURES, Vectors
from retrieval.metrics import Metric, Scores, View, view_of
from retrieval.storage.reader import GalleryIndex

IMAGES_MAX = 2_000  # of a larger gallery, evenly spaced ones
NUMBERS_MAX = 2**24  # of all vectors of a feature type: 64 MB
QUERIES_MAX = 500
OVERLAP = 10  # results
RANK_CONSTANT = 60  # of reciprocal rank fusion
SMALLEST = 1e-6  # variance of a component, as a share of the largest one, that whitening still scales up
KS = (5,)
SHOWN = ("mAP", "P@5")


class Change(StrEnum):
    """What is done to the vectors of a gallery before they are compared."""

    NONE = "none"
    UNIT = "unit"
    CENTRED = "centred"
    WHITENED = "whitened"
    TRUNCATED = "truncated"
    INT8 = "int8"
    BINARY = "binary"


CHANGES = {
    Change.NONE: "unchanged",
    Change.UNIT: "scaled to length 1",
    Change.CENTRED: "centred: the gallery's mean is subtracted",
    Change.WHITENED: "whitened: principal components, scaled to the same variance",
    Change.TRUNCATED: "truncated: only the first numbers",
    Change.INT8: "int8: whole numbers from -127 to 127",
    Change.BINARY: "binary: 1 where a number is above the gallery's mean, -1 elsewhere",
}


class Fusion(StrEnum):
    """How two feature types are combined."""

    WEIGHTS = "weights"  # early: one vector of both
    RANKS = "ranks"  # late: reciprocal rank fusion


@dataclass(frozen=True)
class Experiment:
    """Settings of an experiment.

    Attributes:
        dimensions: numbers that remain after whitening or truncation; 0 keeps all.
        other: a second feature type, unchanged but for its length, or None.
        weight: of the second feature type, from 0 to 1.
    """

    features: str
    change: Change = Change.NONE
    dimensions: int = 0
    metric: Metric = Metric.COSINE
    other: str | None = None
    fusion: Fusion = Fusion.WEIGHTS
    weight: float = 0.5


@dataclass(frozen=True)
class Outcome:
    """Figures before and after, by measure; the share of the first ten results that stay; bytes per image; a sentence.

    Attributes:
        before: of the first feature type, unchanged.
    """

    before: dict[str, Figure]
    after: dict[str, Figure]
    overlap: float
    bytes_before: int
    bytes_after: int
    sentence: str


def changed(vectors: Vectors, change: Change, dimensions: int = 0) -> Vectors:
    """Return changed vectors of all n images, shape (n, d): shape (n, dimensions) or (n, d), float32."""
    kept = dimensions or vectors.shape[1]
    if change is Change.UNIT:
        return np.asarray(view_of(View.UNIT, vectors), np.float32)
    if change is Change.TRUNCATED:
        return vectors[:, :kept]
    if change is Change.INT8:
        largest = float(np.abs(vectors).max(initial=0)) or 1.0
        return np.round(vectors * (127 / largest)).astype(np.float32)
    if change is Change.NONE:
        return vectors
    centred = vectors - vectors.mean(axis=0)
    if change is Change.BINARY:
        return np.where(centred > 0, np.float32(1), np.float32(-1))
    return centred if change is Change.CENTRED else _whitened(centred, kept)


def _whitened(centred: Vectors, kept: int) -> Vectors:
    """Return the first principal components, each with variance 1 (Jégou and Chum, "Negative Evidences and
    Co-occurences in Image Retrieval", 2012).
    """
    count, numbers = centred.shape
    fewer = numbers > count  # then the smaller matrix of products of images has the same components
    products = centred @ centred.T if fewer else centred.T @ centred
    variances, vectors = np.linalg.eigh(products / count)
    order = np.argsort(-variances)[:kept]
    order = order[variances[order] > SMALLEST * variances.max()]
    whitened = (
        vectors[:, order] * np.sqrt(count) if fewer else centred @ (vectors[:, order] / np.sqrt(variances[order]))
    )
    return np.asarray(whitened, np.float32)


def run(index: GalleryIndex, asked: Experiment) -> Outcome:
    """Return what an experiment does to leave-one-out figures.

    Raise GalleryError if no two images share a label, QueryError if the gallery lacks a feature type.
    """
    used = [name for name in (asked.features, asked.other) if name]
    for name in used:
        index.check_features(name)
    longest = max(index.manifest.dimensions(name) for name in used)
    most = max(1, min(len(index), IMAGES_MAX, NUMBERS_MAX // longest))
    images = np.unique(np.linspace(0, len(index) - 1, most).astype(np.intp))
    labels = np.array(index.labels, object)[images]
    judgements = Judgements(index.manifest.gallery, labels.tolist(), _queries(index, labels), max(KS))
    vectors = {name: np.asarray(index.vectors_at(name, images)) for name in used}
    own = vectors[asked.features]
    after = changed(own, asked.change, asked.dimensions)
    first = _Observed(_nearness(judgements, own, asked.metric))
    second = _Observed(
        _fused(judgements, after, vectors[asked.other], asked)
        if asked.other
        else _nearness(judgements, after, asked.metric)
    )
    tables = [measure(found_in(judgements, each), judgements.judged, KS) for each in (first, second)]
    columns = [measure_names(KS).index(name) for name in SHOWN]
    before_values, after_values = (table[:, columns] for table in tables)
    size = _bytes(after, asked.change) + (4 * vectors[asked.other].shape[1] if asked.other else 0)
    return Outcome(
        _figures(before_values),
        _figures(after_values),
        _overlap(first, second),
        4 * own.shape[1],
        size,
        _sentence(before_values[:, 0], after_values[:, 0]),
    )


def _queries(index: GalleryIndex, labels: np.ndarray) -> Queries:
    names, codes, counts = np.unique(labels, return_inverse=True, return_counts=True)
    positions = np.flatnonzero((counts[codes] > 1) & (names[codes] != ""))
    if not len(positions):
        raise GalleryError(f"The gallery {index.manifest.gallery!r} has no label that two images share.")
    if len(positions) > QUERIES_MAX:
        positions = np.sort(np.random.default_rng(SEED).choice(positions, QUERIES_MAX, replace=False))
    ids = tuple(str(position) for position in positions)
    return Queries(ids, {}, positions, tuple(labels[positions]), "leave-one-out")


def _nearness(judgements: Judgements, vectors: Vectors, metric: Metric) -> Nearness:
    return ExactRanking(Scan(vectors), metric, vectors[judgements.queries.positions]).near


def _fused(judgements: Judgements, vectors: Vectors, other: Vectors, asked: Experiment) -> Nearness:
    """Return the nearness by two feature types together.

    By weights, vectors of length 1 are joined, so that their cosine is the weighted mean of both cosines. By ranks,
    images are ordered by the weighted sum of 1 / (60 + rank) (Cormack, Clarke and Büttcher, "Reciprocal Rank Fusion
    Outperforms Condorcet and Individual Rank Learning Methods", 2009).
    """
    shares = (1 - asked.weight, asked.weight)
    if asked.fusion is Fusion.WEIGHTS:
        units = [
            np.sqrt(share) * view_of(View.UNIT, each) for share, each in zip(shares, (vectors, other), strict=True)
        ]
        return _nearness(judgements, np.concatenate(units, axis=1).astype(np.float32), asked.metric)
    both = [_nearness(judgements, each, asked.metric) for each in (vectors, other)]

    def near(part: slice, ignored: np.ndarray) -> Scores:
        score = np.zeros(ignored.shape)
        for share, each in zip(shares, both, strict=True):
            score += share / (RANK_CONSTANT + 1 + np.argsort(ranked_in_order(each(part, ignored)), axis=1))
        score[ignored] = -np.inf
        return -score.astype(np.float32)

    return near


class _Observed:
    """A nearness that remembers its first results, by the first query of a block."""

    def __init__(self, nearness: Nearness) -> None:
        self._nearness = nearness
        self.first: dict[int, Ints] = {}

    def __call__(self, part: slice, ignored: np.ndarray) -> Scores:
        near = self._nearness(part, ignored)
        self.first[part.start] = ranked_in_order(near)[:, :OVERLAP]
        return near


def _overlap(one: _Observed, other: _Observed) -> float:
    """Return the mean share of the first results that both have."""
    shares = [
        np.isin(row, second).mean()
        for start, rows in one.first.items()
        for row, second in zip(rows, other.first[start], strict=True)
    ]
    return float(np.mean(shares))


def _bytes(vectors: Vectors, change: Change) -> int:
    """Return the bytes that a changed vector needs."""
    numbers: int = vectors.shape[1]
    return {Change.INT8: numbers, Change.BINARY: -(-numbers // 8)}.get(change, 4 * numbers)


def _figures(values: Floats) -> dict[str, Figure]:
    means, (low, high) = values.mean(axis=0), intervals(values)
    limits = np.stack([means, low, high], axis=1).tolist()
    return {name: Figure(*row) for name, row in zip(SHOWN, limits, strict=True)}


def _sentence(before: Floats, after: Floats) -> str:
    p = float(paired_p(np.stack([before, after], axis=1))[0, 1])
    difference = float(after.mean() - before.mean())
    if p >= ALPHA:
        return f"mAP changes by {difference:+.3f}, which these queries cannot distinguish from no change (p {p:.3f})."
    word = "better" if difference > 0 else "worse"
    return f"mAP changes by {difference:+.3f}: significantly {word} (paired randomisation test, p {p:.4f})."


def title(asked: Experiment) -> str:
    """Return what is compared with the unchanged feature type."""
    name = f"{FEATURES[asked.features].title}, {CHANGES[asked.change].partition(':')[0]}"
    if asked.dimensions and asked.change in (Change.WHITENED, Change.TRUNCATED):
        name += f" to {asked.dimensions}"
    return f"{name}, with {FEATURES[asked.other].title} by {asked.fusion}" if asked.other else name
