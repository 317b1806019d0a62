"""The exact scan: every vector of a gallery is compared."""

import copy
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from retrieval.features import Vectors
from retrieval.metrics import DEFINITIONS, REFINE_BYTES, Metric, Scores, View, closeness, view_of

# Threads of ours: those of torch and of numpy's BLAS go on spinning after their work, and a search that waited for one
# of them among others on few cores took 8 ms longer. Starts none before the first large scan.
_THREADS = ThreadPoolExecutor(thread_name_prefix="scan")

ROUNDING = 2.0**-24  # of one float32 operation, relative
LANES = 4  # a dot product of contiguous vectors is summed in this many lanes at least, by BLAS
SCALED = 64  # operations on a score beside its sum: norms, quotients, roots
PART_BYTES = 4 * 2**20  # less than this of a matrix is not worth another thread
BLOCK_BYTES = 2**19  # compared at once by L1, which stay in a core's cache
PATCH = 4  # pixels; what a square of so many of one colour sums up to stands for it where L1 is bounded
FIRST = 4  # times k pictures of the least bounds, whose distances say how far is too far
FEW = 4  # a scan of a quarter of the rows or fewer copies them first


def _cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Scan:
    """An exact scan of one matrix of gallery vectors by any metric, in float32, many queries at once.

    Cosine and correlation need no second matrix: with the norms known, both are a dot product with the plain
    vectors, since sum (g - mean g)(q - mean q) = sum g (q - mean q). L1 goes over a matrix in cache twice, not three
    times, since |g - q| = g + q - 2 min(g, q), with the sums of g known. Of raw pixels it first compares the sums of
    small patches, a sixteenth as much: a sum of differences is in amount at most the sum of their amounts, so most
    pictures are too far by that alone (for time series: B.-K. Yi and C. Faloutsos, "Fast Time Sequence Indexing for
    Arbitrary Lp Norms", 2000).
    """

    def __init__(self, vectors: Vectors, *, side: int | None = None, threads: int | None = None) -> None:
        """Look at every vector once.

        Args:
            vectors: of a gallery, shape (n, d), float32.
            side: of the pictures whose raw pixels they are, see `embed_pixels`; None if they are something else.
            threads: that share them; None is one a core.
        """
        self.vectors = np.ascontiguousarray(vectors)  # as they are, without the slow slices of a mapped file
        self.squares, self.centred_norms, self.sums, self.absolute_sums = np.empty((4, len(vectors)), np.float32)
        self._threads = threads or _cores()
        self._side = side or 0
        patches = np.empty((len(vectors), 3 * (-(side // -PATCH)) ** 2), np.float32) if side else None
        block = max(1, REFINE_BYTES // (8 * max(1, vectors.shape[1])))
        for start in range(0, len(vectors), block):
            part = vectors[start : start + block].astype(np.float64)
            squares = np.vecdot(part, part)
            self.sums[start : start + block] = part.sum(axis=1)
            self.absolute_sums[start : start + block] = np.abs(part).sum(axis=1)
            if side and patches is not None:
                patches[start : start + block] = _patch_sums(part, side)
            part -= part.mean(axis=1, keepdims=True)
            centred = np.vecdot(part, part)
            self.squares[start : start + block] = squares
            self.centred_norms[start : start + block] = np.where(centred <= 1e-12 * squares, 0.0, np.sqrt(centred))
        self.norms = np.sqrt(self.squares)
        self._patches = None if patches is None else Scan(patches, threads=threads)

    def scores(self, metric: Metric, queries: Vectors) -> Scores:
        """Return the metric between each of m queries, shape (m, d), and the n gallery vectors: shape (m, n)."""
        queries = np.ascontiguousarray(queries, dtype=np.float32)
        if metric is Metric.L1:
            return self._differences(queries)
        if metric is Metric.L2:
            square = self._dots(queries)
            square *= -2
            square += self.squares
            square += np.vecdot(queries, queries)[:, None]
            return np.sqrt(np.maximum(square, 0, out=square), out=square)
        view = DEFINITIONS[metric].view
        norms = self.centred_norms if view is View.CENTRED else self.norms
        dots = self._dots(view_of(view, queries.astype(np.float64)).astype(np.float32))
        cosines = np.divide(dots, norms, out=np.zeros_like(dots), where=norms > 0)
        return np.clip(cosines, -1, 1, out=cosines)

    def _dots(self, queries: Vectors) -> Scores:
        """Return the dot products of m queries with the gallery, shape (m, n).

        One query waits for memory only, and vecdot reads as fast as memory gives.
        """
        if len(queries) > 1:
            return queries @ self.vectors.T
        dots = np.empty((1, len(self.vectors)), np.float32)
        self._in_parts(lambda rows: np.vecdot(self.vectors[rows], queries[0], out=dots[0, rows]))
        return dots

    def _differences(self, queries: Vectors) -> Scores:
        """Return the sums of absolute differences of m queries and the gallery, shape (m, n)."""
        width = queries.shape[1]
        smaller, ones = np.empty((len(queries), len(self.vectors)), np.float32), np.ones(width, np.float32)
        block = max(1, BLOCK_BYTES // (4 * max(1, width)))

        def fill(rows: slice) -> None:
            room = np.empty((block, width), np.float32)
            for start in range(rows.start, rows.stop, block):
                part = slice(start, min(start + block, rows.stop))
                least = room[: part.stop - start]
                for query, into in zip(queries, smaller, strict=True):
                    np.minimum(self.vectors[part], query, out=least)
                    np.vecdot(least, ones, out=into[part])

        self._in_parts(fill, len(queries))
        smaller *= -2
        smaller += self.sums
        smaller += queries.sum(axis=1, dtype=np.float64).astype(np.float32)[:, None]
        return np.maximum(smaller, 0, out=smaller)

    def _in_parts(self, work: Callable[[slice], object], times: int = 1) -> None:
        """Let several threads each do some rows' work, where reading them so many times is worth it."""
        count = min(self._threads, 1 + times * self.vectors.nbytes // PART_BYTES)
        edges = [len(self.vectors) * part // count for part in range(count + 1)]
        others = [_THREADS.submit(work, slice(*part)) for part in pairwise(edges[1:])]
        work(slice(*edges[:2]))
        for other in others:
            other.result()

    def candidates(
        self, metric: Metric, query: Vectors, k: int, among: npt.NDArray[np.intp] | None = None
    ) -> npt.NDArray[np.intp]:
        """Return every position that can be among the k closest once float32 rounding is taken into account.

        Ties at the k-th place are all included, so that the exact order can decide among them.

        Args:
            metric: the metric.
            query: one plain vector, shape (d,).
            k: how many are wanted.
            among: the only positions that count; None lets all count.
        """
        among = np.arange(len(self.vectors)) if among is None else among
        if k >= len(among):
            return among
        if metric is Metric.L1 and self._patches:
            among = self._not_too_far(self._patches, query, k, among)
        near, slack = self._bounds(metric, query, among)
        kth = np.partition(near + slack, k - 1)[k - 1]
        found: npt.NDArray[np.intp] = among[near - slack <= kth]
        return found

    def _not_too_far(
        self, patches: "Scan", query: Vectors, k: int, among: npt.NDArray[np.intp]
    ) -> npt.NDArray[np.intp]:
        """Return those of some positions whose sums alone do not put them farther by L1 than k others are."""
        sums = _patch_sums(query.astype(np.float64)[None], self._side)[0].astype(np.float32)
        near, slack = patches._bounds(Metric.L1, sums, among)
        least = near - slack
        first = np.argpartition(least, k - 1)[: FIRST * k]
        near, slack = self._bounds(Metric.L1, query, among[first])
        near_enough: npt.NDArray[np.intp] = among[least <= np.partition(near + slack, k - 1)[k - 1]]
        return near_enough

    def _bounds(
        self, metric: Metric, query: Vectors, rows: npt.NDArray[np.intp]
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Return how close some rows are to a query, smaller is closer, and by how much rounding can have moved that.

        Of L2 it is the square.
        """
        if len(rows) * FEW > len(self.vectors):
            near, slack = self._all_bounds(metric, query)
            return (near, slack) if len(rows) == len(near) else (near[rows], slack[rows])
        part = copy.copy(self)
        part.vectors = self.vectors[rows]
        for name in ("squares", "norms", "centred_norms", "sums", "absolute_sums"):
            setattr(part, name, getattr(self, name)[rows])
        return part._all_bounds(metric, query)

    def _all_bounds(self, metric: Metric, query: Vectors) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Return the same of all rows."""
        near = closeness(metric, self.scores(metric, query[None])[0]).astype(np.float64)
        # Where all terms are alike all roundings can be too, so the margin grows with the terms of a lane.
        terms = self.vectors.shape[1] / LANES
        scale: npt.NDArray[np.floating] | float = 1.0
        # L1, and the square of L2, are differences of large numbers: the error is relative to those.
        if metric is Metric.L1:
            scale = 2 * (self.absolute_sums + float(np.abs(query).sum()))
        elif metric is Metric.L2:
            near, scale = np.square(near), self.squares + float(np.square(query).sum())
        elif metric is Metric.CORRELATION:
            # The dot product is with plain vectors: of a pale picture its error is large beside what is left
            # when the mean is taken away, and of one that looks constant nothing is known.
            with np.errstate(divide="ignore"):
                scale = np.divide(self.norms, self.centred_norms, out=np.zeros_like(self.norms), where=self.squares > 0)
        return near, np.broadcast_to(ROUNDING * (terms + SCALED) * scale, near.shape)


def _patch_sums(pixels: npt.NDArray[np.float64], side: int) -> npt.NDArray[np.float64]:
    """Return what the pixels of n pictures, shape (n, side * side * 3), sum up to in each patch and colour."""
    edges = np.arange(0, side, PATCH)
    rows = np.add.reduceat(pixels.reshape(-1, side, side * 3), edges, axis=1)
    sums: npt.NDArray[np.float64] = np.add.reduceat(rows.reshape(len(rows), len(edges), side, 3), edges, axis=2)
    return sums.reshape(len(pixels), -1)
