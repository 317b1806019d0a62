"""The four metrics: formula, direction, the view of a vector that each compares, and their order.

A metric is a *view* of the vectors (as is, unit length, or centred and unit length) and a comparison in that
view. In its view every metric but L1 is native to an index of nearest neighbours: L2 as Euclidean distance,
cosine and correlation as an inner product.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt

QUANTILES = np.linspace(0, 1, 1001)  # at which the background of random pairs is kept

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
    """A metric.

    Attributes:
        title: its name on the page.
        formula: shown on the page.
        scale: what its extreme values mean, shown on the page.
        view: of the vectors that it compares.
        smaller_is_closer: the direction of its scores.
        score: returns the scores of rows a and b, in the view, shapes (n, d) or (1, d), as shape (n,).
        neighbours: the metric whose nearest neighbours an approximate engine proposes; None for its own.
    """

    title: str
    formula: str
    scale: str
    view: View
    smaller_is_closer: bool
    score: Callable[[Vectors, Vectors], Vectors]
    neighbours: Metric | None = None


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
        "Correlation",
        "Pearson's r, the cosine of a - mean(a) and b - mean(b)",
        ONE_AT_BEST,
        View.CENTRED,
        False,
        _dot,
    ),
}


def view_of(view: View, vectors: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    """Return the vectors, shape (n, d), in a view; a zero (or constant, if centred) vector becomes zero.

    The dtype is kept. Zero vectors thus have cosine and correlation 0 with everything, never NaN.
    """
    if view is View.PLAIN:
        return vectors
    if view is View.CENTRED:
        centred = vectors - vectors.mean(axis=-1, keepdims=True)
        # What is left of a constant vector is rounding, not shape.
        noise = 4 * np.finfo(vectors.dtype).eps * np.abs(vectors).max(axis=-1, keepdims=True, initial=0)
        vectors = np.where(np.abs(centred).max(axis=-1, keepdims=True, initial=0) <= noise, 0, centred)
    norms = np.sqrt(np.square(vectors).sum(axis=-1, keepdims=True))
    unit: npt.NDArray[np.floating] = np.divide(vectors, norms, out=np.zeros_like(vectors), where=norms > 0)
    return unit


def score_pairs(
    metric: Metric, query: npt.NDArray[np.floating], gallery: npt.NDArray[np.floating]
) -> npt.NDArray[np.float64]:
    """Return the metric's value between a query, shape (d,), and each of n vectors, shape (n, d), in float64.

    With n queries, shape (n, d), row i is compared with row i. Every row is treated alike, so equal vectors get
    bit-equal scores.
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


def closeness(metric: Metric, scores: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    """Return scores turned so that smaller is closer, whatever the metric's direction."""
    return scores if DEFINITIONS[metric].smaller_is_closer else -scores


def closest(
    metric: Metric,
    query: npt.NDArray[np.floating],
    gallery: npt.NDArray[np.floating],
    positions: npt.NDArray[np.intp],
    k: int,
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.float64]]:
    """Order candidate positions by the metric's exact value and return the k closest with their scores.

    Both engines end here: an engine only proposes candidates. Ties go by position, which is gallery order.

    Args:
        metric: the metric.
        query: one vector, shape (d,).
        gallery: all gallery vectors, shape (n, d); only the candidates' rows are read.
        positions: candidate rows, shape (c,).
        k: how many to return, at most c.
    """
    positions = np.sort(positions)
    block = max(1, REFINE_BYTES // (8 * max(1, gallery.shape[1])))
    parts = [positions[start : start + block] for start in range(0, len(positions), block)]
    scores = np.concatenate([np.empty(0), *(score_pairs(metric, query, gallery[part]) for part in parts)])
    order = np.argsort(closeness(metric, scores), kind="stable")[:k]
    return positions[order], scores[order]
