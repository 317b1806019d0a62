"""The four metrics. Each is a view of the vectors (unchanged, unit, or centred unit) and a comparison in that view."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt

QUANTILES = np.linspace(0, 1, 1001)  # of the scores of random pairs, which are stored with an index

Scores = npt.NDArray[np.float32]

REFINE_BYTES = 2**18  # of one block in float64; a few such blocks fit in a core's cache

Vectors = npt.NDArray[np.floating]

ZERO_AT_BEST = "0 is an identical image"
ONE_AT_BEST = "1 is the same direction, 0 unrelated, -1 opposite"


class Metric(StrEnum):
    """L1 (Manhattan distance), L2 (Euclidean distance), cosine similarity, correlation (Pearson's r)."""

    L1 = "l1"
    L2 = "l2"
    COSINE = "cosine"
    CORRELATION = "correlation"


class View(StrEnum):
    """What is done to a vector before it is compared: nothing, unit length, or centring and unit length."""

    PLAIN = "plain"
    UNIT = "unit"
    CENTRED = "centred"


@dataclass(frozen=True)
class Definition:
    """A metric; title, formula and scale are shown on the page."""

    title: str
    formula: str
    scale: str  # what its extreme values mean
    view: View
    smaller_is_closer: bool
    score: Callable[[Vectors, Vectors], Vectors]  # of rows a and b, in the view, shapes (n, d) or (1, d) -> (n,)
    neighbours: Metric | None = None  # the metric whose neighbours an approximate engine proposes; None: this one


def _dot(a: Vectors, b: Vectors) -> Vectors:
    products: Vectors = np.clip((b * a).sum(axis=1), -1.0, 1.0)
    return products


DEFINITIONS = {
    Metric.L1: Definition(
        "L1",
        "sum of |a - b|",
        ZERO_AT_BEST,
        View.PLAIN,
        True,
        lambda a, b: np.abs(b - a).sum(axis=1),
        neighbours=Metric.L2,
    ),
    Metric.L2: Definition(
        "L2",
        "square root of the sum of (a - b)²",
        ZERO_AT_BEST,
        View.PLAIN,
        True,
        lambda a, b: np.sqrt(np.square(b - a).sum(axis=1)),
    ),
    Metric.COSINE: Definition("Cosine", "a·b / (|a| |b|)", ONE_AT_BEST, View.UNIT, False, _dot),
    Metric.CORRELATION: Definition(
        "Correlation", "Pearson's r, the cosine of a - mean(a) and b - mean(b)", ONE_AT_BEST, View.CENTRED, False, _dot
    ),
}


def view_of(view: View, vectors: Vectors) -> Vectors:
    """Return the vectors, shape (n, d), in a view and the same dtype; a zero or centred constant vector becomes zero.

    Zero vectors therefore have cosine and correlation 0 with everything, never NaN.
    """
    if view is View.PLAIN:
        return vectors
    if view is View.CENTRED:
        centred = vectors - vectors.mean(axis=-1, keepdims=True)
        # A constant vector differs from its mean only by rounding.
        noise = 4 * np.finfo(vectors.dtype).eps * np.abs(vectors).max(axis=-1, keepdims=True, initial=0)
        vectors = np.where(np.abs(centred).max(axis=-1, keepdims=True, initial=0) <= noise, 0, centred)
    norms = np.sqrt(np.square(vectors).sum(axis=-1, keepdims=True))
    unit: Vectors = np.divide(vectors, norms, out=np.zeros_like(vectors), where=norms > 0)
    return unit


def score_pairs(metric: Metric, query: Vectors, gallery: Vectors) -> npt.NDArray[np.float64]:
    """Return the metric's value between a query, shape (d,), and each of n vectors, shape (n, d), in float64.

    With n queries, shape (n, d), row i is compared with row i. Equal vectors get bit-equal scores.
    """
    definition = DEFINITIONS[metric]
    scores = np.empty(len(gallery))
    block = max(1, REFINE_BYTES // (8 * max(1, gallery.shape[1])))
    one = view_of(definition.view, np.asarray(query, np.float64)[None]) if query.ndim == 1 else None
    for start in range(0, len(gallery), block):
        rows = slice(start, start + block)
        a = view_of(definition.view, np.asarray(query[rows], np.float64)) if one is None else one
        b = view_of(definition.view, np.asarray(gallery[start : start + block], np.float64))
        scores[start : start + block] = definition.score(a, b)
    return scores


def closeness(metric: Metric, scores: Vectors) -> Vectors:
    """Return scores with the sign changed where larger is closer, so that smaller is always closer."""
    return scores if DEFINITIONS[metric].smaller_is_closer else -scores


def closest(
    metric: Metric, query: Vectors, gallery: Vectors, positions: npt.NDArray[np.intp], k: int
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.float64]]:
    """Return the k candidates closest to a query, shape (d,), and their exact scores; ties are in gallery order.

    `positions` are the candidates, shape (c,); only their rows of the gallery, shape (n, d), are read.
    """
    positions = np.sort(positions)
    block = max(1, REFINE_BYTES // (8 * max(1, gallery.shape[1])))
    parts = [positions[start : start + block] for start in range(0, len(positions), block)]
    scores = np.concatenate([np.empty(0), *(score_pairs(metric, query, gallery[part]) for part in parts)])
    order = np.argsort(closeness(metric, scores), kind="stable")[:k]
    return positions[order], scores[order]
