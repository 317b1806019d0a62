"""The exact scan: every vector of a gallery is compared."""

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
from typing_extensions import override

from retrieval.engines.base import Candidates, Engine, GalleryVectors, OpenEngine, Positions
from retrieval.features import FEATURES
from retrieval.features.base import Vectors
from retrieval.metrics import DEFINITIONS, REFINE_BYTES, Metric, Scores, View, closeness, closest, score_pairs, view_of

FAST = (Metric.L1, Metric.L2, Metric.COSINE, Metric.CORRELATION)  # others are scored exactly, which takes longer
ROUNDING = 2.0**-24  # of one float32 operation, relative
LANES = 4  # a dot product of contiguous vectors is summed in at least this many lanes
SCALED = 64  # operations on a score besides its sum: norms, quotients, roots
BLOCK_BYTES = 2**20  # vectors compared at once by L1; they stay in a core's cache
PIECE = 4096  # numbers summed at once; the rounding error of longer sums would blur large images
PATCH = 4  # side in pixels of the squares whose sums, one per channel, bound L1 from below
FIRST = 4  # the images with the smallest bounds, this many times k, are measured to find out how far is too far
FEW = 3  # up to this fraction of the rows, picking them out is faster than reading all


class Scan:
    """An exact scan of one matrix by any metric, in float32, for many queries at once.

    Cosine and correlation need no second matrix: with the norms known, both are a dot product with the plain vectors,
    because sum (g - mean g)(q - mean q) = sum g (q - mean q). L1 uses |g - q| = g + q - 2 min(g, q), where the sums of
    g are known. For raw pixels it first compares the sums of small patches, a sixteenth as many numbers:
    |sum (g - q)| <= sum |g - q|, so that alone puts most images too far away (for time series: B.-K. Yi and
    C. Faloutsos, "Fast Time Sequence Indexing for Arbitrary Lp Norms", 2000). On 10,000 icons of 16 x 16 that takes a
    third of the time.
    """

    def __init__(self, vectors: Vectors, *, side: int | None = None) -> None:
        """Read every vector, shape (n, d), once; `side` is that of the square images whose pixels they are, if any."""
        self.vectors = np.ascontiguousarray(vectors)  # without the slow slices of a memory-mapped file
        self.squares, self.centred_norms, self.sums, self.absolute_sums = np.empty((4, len(vectors)), np.float32)
        self._side = side or 0
        patches = np.empty((len(vectors), 3 * (-(side // -PATCH)) ** 2), np.float32) if side else None
        block = max(1, REFINE_BYTES // (8 * max(1, vectors.shape[1])))
        for start in range(0, len(vectors), block):
            rows = slice(start, start + block)
            part = vectors[rows].astype(np.float64)
            squares = np.vecdot(part, part)
            self.sums[rows] = part.sum(axis=1)
            self.absolute_sums[rows] = np.abs(part).sum(axis=1)
            if patches is not None:
                patches[rows] = _patch_sums(part, self._side)
            part -= part.mean(axis=1, keepdims=True)
            centred = np.vecdot(part, part)
            self.squares[rows] = squares
            self.centred_norms[rows] = np.where(centred <= 1e-12 * squares, 0.0, np.sqrt(centred))
        self.norms = np.sqrt(self.squares)
        self._patches = None if patches is None else Scan(patches)

    def scores(self, metric: Metric, queries: Vectors, rows: Positions | None = None) -> Scores:
        """Return the metric between each of m queries, shape (m, d), and n gallery vectors: shape (m, n).

        L1 and L2 are differences of larger numbers, so a small distance has the rounding error of those. `rows` are
        the gallery vectors to compare; None compares all.
        """
        queries = np.ascontiguousarray(queries, dtype=np.float32)
        if metric not in FAST:
            vectors = self.vectors if rows is None else self.vectors[rows]
            return np.array([score_pairs(metric, query, vectors) for query in queries], np.float32)
        at: slice | Positions = slice(None) if rows is None else rows
        if metric is Metric.L1:
            scores = self._smaller(queries, rows)
            scores *= -2
            scores += self.sums[at]
            scores += queries.sum(axis=1, dtype=np.float64).astype(np.float32)[:, None]
            return np.maximum(scores, 0, out=scores)
        if metric is Metric.L2:
            square = self._dots(queries, rows)
            square *= -2
            square += self.squares[at]
            square += np.vecdot(queries, queries)[:, None]
            return np.sqrt(np.maximum(square, 0, out=square), out=square)
        view = DEFINITIONS[metric].view
        norms = (self.centred_norms if view is View.CENTRED else self.norms)[at]
        dots = self._dots(view_of(view, queries.astype(np.float64)).astype(np.float32), rows)
        cosines = np.divide(dots, norms, out=np.zeros_like(dots), where=norms > 0)
        return np.clip(cosines, -1, 1, out=cosines)

    def _dots(self, queries: Vectors, rows: Positions | None) -> Scores:
        """Return the dot products of m queries with gallery vectors, shape (m, n)."""
        if rows is not None:
            return self._by_blocks(queries, rows, lambda block, query, into: np.vecdot(block, query, out=into))
        if len(queries) > 1:
            return queries @ self.vectors.T
        # Not by BLAS, whose threads spin after their work and compete with those of torch for the cores.
        dots: Scores = np.vecdot(self.vectors, queries[0])[None]
        return dots

    def _smaller(self, queries: Vectors, rows: Positions | None) -> Scores:
        """Return the sums of the smaller of two numbers each, of m queries and gallery vectors, shape (m, n)."""
        ones = np.ones(queries.shape[1], np.float32)

        def sum_up(block: Vectors, query: Vectors, into: Scores) -> None:
            smaller = np.minimum(block, query)
            np.vecdot(smaller[:, :PIECE], ones[:PIECE], out=into)
            for start in range(PIECE, len(ones), PIECE):
                into += np.vecdot(smaller[:, start : start + PIECE], ones[start : start + PIECE])

        return self._by_blocks(queries, rows, sum_up)

    def _by_blocks(
        self, queries: Vectors, rows: Positions | None, score: Callable[[Vectors, Vectors, Scores], object]
    ) -> Scores:
        """Return what `score` computes for gallery vectors and each query, as many at once as fit a core's cache."""
        count = len(self.vectors) if rows is None else len(rows)
        scores = np.empty((len(queries), count), np.float32)
        size = max(1, BLOCK_BYTES // (4 * max(1, queries.shape[1])))
        for start in range(0, count, size):
            part = slice(start, min(start + size, count))
            block = self.vectors[part if rows is None else rows[part]]
            for query, into in zip(queries, scores, strict=True):
                score(block, query, into[part])
        return scores

    def candidates(self, metric: Metric, query: Vectors, k: int, among: Positions | None = None) -> Positions:
        """Return every position that can be among the k closest, given the rounding errors of float32.

        All ties at the k-th place are included, so that the exact scores can decide among them.
        """
        among = np.arange(len(self.vectors)) if among is None else among
        if k >= len(among) or metric not in FAST:
            return among
        # If many results are wanted, measuring the first ones would be most of the scan.
        if metric is Metric.L1 and self._patches is not None and k * FIRST * FEW < len(among):
            among = self._not_too_far(self._patches, query, k, among)
        near, slack = self._bounds(metric, query, among)
        kth = np.partition(near + slack, k - 1)[k - 1]
        found: Positions = among[near - slack <= kth]
        return found

    def _not_too_far(self, patches: "Scan", query: Vectors, k: int, among: Positions) -> Positions:
        """Return the positions that their patches alone do not put farther away by L1 than k others are."""
        sums = _patch_sums(query.astype(np.float64)[None], self._side)[0].astype(np.float32)
        near, slack = patches._bounds(Metric.L1, sums, among)
        least = near - slack
        first = among[np.argpartition(least, k * FIRST)[: k * FIRST]]
        farthest = closest(Metric.L1, query, self.vectors, first, k)[1][-1]
        # Where they are equal, float64 rounding can separate `farthest` and the bounds, but by far less than `slack`.
        near_enough: Positions = among[least <= farthest]
        return near_enough

    def _bounds(
        self, metric: Metric, query: Vectors, among: Positions
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Return how close some rows are to a query (smaller is closer; for L2 the square), and the rounding error."""
        few = len(among) * FEW <= len(self.vectors)
        scores = self.scores(metric, query[None], among if few else None)[0]
        near = closeness(metric, scores if few else scores[among]).astype(np.float64)
        # If all terms are alike, all rounding errors can be too, so the margin grows with the terms of a lane.
        terms = self.vectors.shape[1] / LANES
        scale: npt.NDArray[np.floating] | float = 1.0
        # L1, and the square of L2, are differences of large numbers: their error is relative to those.
        if metric is Metric.L1:
            terms = min(self.vectors.shape[1], PIECE) / LANES + self.vectors.shape[1] / PIECE
            scale = 2 * (self.absolute_sums[among] + float(np.abs(query).sum()))
        elif metric is Metric.L2:
            near, scale = np.square(near), self.squares[among] + float(np.square(query).sum())
        elif metric is Metric.CORRELATION:
            # The dot product is with plain vectors: for a pale image its error is large compared to what remains
            # without the mean, and for one that looks constant it can be anything.
            norms = self.norms[among]
            with np.errstate(divide="ignore"):
                scale = np.divide(norms, self.centred_norms[among], out=np.zeros_like(norms), where=norms > 0)
        return near, np.broadcast_to(ROUNDING * (terms + SCALED) * scale, near.shape)


def _patch_sums(pixels: npt.NDArray[np.float64], side: int) -> npt.NDArray[np.float64]:
    """Return the sums of n images' pixels, shape (n, side * side * 3), over each patch and channel."""
    edges = np.arange(0, side, PATCH)
    rows = np.add.reduceat(pixels.reshape(-1, side, side * 3), edges, axis=1)
    sums: npt.NDArray[np.float64] = np.add.reduceat(rows.reshape(len(rows), len(edges), side, 3), edges, axis=2)
    return sums.reshape(len(pixels), -1)


class ExactEngine(Engine):
    """A scan of every vector; it needs no files."""

    name = "exact"
    title = "Exact scan"
    exact = True

    @override
    def open(self, gallery: GalleryVectors, folder: Path) -> "OpenExact":
        return OpenExact(gallery)


class OpenExact(OpenEngine):
    """A scan for each feature type of a gallery."""

    def __init__(self, gallery: GalleryVectors) -> None:
        self._gallery = gallery
        self._scans: dict[str, Scan] = {}
        self._lock = threading.Lock()

    def scan(self, features: str) -> Scan:
        """Return the scan over all items by a feature type, made on first use."""
        with self._lock:
            if features not in self._scans:
                vectors = self._gallery.vectors(features)
                self._scans[features] = Scan(vectors, side=FEATURES[features].image_side(vectors.shape[1]))
            return self._scans[features]

    @override
    def candidates(
        self, features: str, metric: Metric, vectors: Vectors, k: int, among: Positions | None = None
    ) -> list[Candidates]:
        scan = self.scan(features)
        return [Candidates(scan.candidates(metric, vector, k, among)) for vector in vectors]
