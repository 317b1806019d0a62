"""The exact scan: every vector of a gallery is compared."""

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
from typing_extensions import override

from retrieval.engines.base import Engine, GalleryVectors, OpenEngine, Positions
from retrieval.features.base import Vectors
from retrieval.metrics import DEFINITIONS, REFINE_BYTES, Metric, Scores, View, closeness, closest, view_of

# Threads of ours: those of torch and of numpy's BLAS go on spinning after their work, and a search that waited for one
# of them among others on few cores took 8 ms longer. Starts none before the first large scan.
_THREADS = ThreadPoolExecutor(thread_name_prefix="scan")

ROUNDING = 2.0**-24  # of one float32 operation, relative
LANES = 4  # a dot product of contiguous vectors is summed in this many lanes at least, by BLAS
SCALED = 64  # operations on a score beside its sum: norms, quotients, roots
PART_BYTES = 4 * 2**20  # less than this of a matrix is not worth another thread
BLOCK_BYTES = 2**20  # compared at once by L1, which stay in a core's cache
PIECE = 4096  # numbers that are summed up at once; the rounding of one sum over more would blur large pictures
PATCH = 4  # side in pixels of the squares whose sums, one a colour, bound L1 from below
FIRST = 4  # so many times k pictures of the least bounds are measured, to know how far is too far
FEW = 3  # up to this part of the rows, picking them out is faster than reading all


def _cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Scan:
    """An exact scan of one matrix of gallery vectors by any metric, in float32, many queries at once.

    Cosine and correlation need no second matrix: with the norms known, both are a dot product with the plain
    vectors, since sum (g - mean g)(q - mean q) = sum g (q - mean q). L1 goes over each block in cache twice, not three
    times, since |g - q| = g + q - 2 min(g, q), with the sums of g known. Of raw pixels it first compares the sums of
    small patches, a sixteenth as much: |sum (g - q)| <= sum |g - q|, so most pictures are too far by that alone (for
    time series: B.-K. Yi and C. Faloutsos, "Fast Time Sequence Indexing for Arbitrary Lp Norms", 2000).
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
            if patches is not None:
                patches[start : start + block] = _patch_sums(part, self._side)
            part -= part.mean(axis=1, keepdims=True)
            centred = np.vecdot(part, part)
            self.squares[start : start + block] = squares
            self.centred_norms[start : start + block] = np.where(centred <= 1e-12 * squares, 0.0, np.sqrt(centred))
        self.norms = np.sqrt(self.squares)
        self._patches = None if patches is None else Scan(patches, threads=threads)

    def scores(self, metric: Metric, queries: Vectors, rows: npt.NDArray[np.intp] | None = None) -> Scores:
        """Return the metric between each of m queries, shape (m, d), and n gallery vectors: shape (m, n).

        L1 and L2 are differences of larger numbers, so a small distance has the rounding of those.

        Args:
            metric: the metric.
            queries: plain vectors.
            rows: the gallery vectors that are wanted, shape (n,); None is all.
        """
        queries = np.ascontiguousarray(queries, dtype=np.float32)
        at: slice | npt.NDArray[np.intp] = slice(None) if rows is None else rows
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

    def _dots(self, queries: Vectors, rows: npt.NDArray[np.intp] | None) -> Scores:
        """Return the dot products of m queries with gallery vectors, shape (m, n).

        One query waits for memory only, and vecdot reads as fast as memory gives.
        """
        if rows is not None:
            return self._by_blocks(queries, rows, lambda block, query, room, into: np.vecdot(block, query, out=into))
        if len(queries) > 1:
            return queries @ self.vectors.T
        dots = np.empty((1, len(self.vectors)), np.float32)
        self._in_parts(len(self.vectors), lambda part: np.vecdot(self.vectors[part], queries[0], out=dots[0, part]))
        return dots

    def _smaller(self, queries: Vectors, rows: npt.NDArray[np.intp] | None) -> Scores:
        """Return the sums of the smaller of two numbers each, of m queries and gallery vectors, shape (m, n)."""
        ones = np.ones(queries.shape[1], np.float32)

        def sum_up(block: Vectors, query: Vectors, room: Vectors, into: Scores) -> None:
            np.minimum(block, query, out=room)
            np.vecdot(room[:, :PIECE], ones[:PIECE], out=into)
            for start in range(PIECE, len(ones), PIECE):
                into += np.vecdot(room[:, start : start + PIECE], ones[start : start + PIECE])

        return self._by_blocks(queries, rows, sum_up)

    def _by_blocks(
        self,
        queries: Vectors,
        rows: npt.NDArray[np.intp] | None,
        score: Callable[[Vectors, Vectors, Vectors, Scores], object],
    ) -> Scores:
        """Return what `score` fills in for gallery vectors and each query, as many at once as fit a core's cache."""
        count = len(self.vectors) if rows is None else len(rows)
        scores = np.empty((len(queries), count), np.float32)
        size = max(1, BLOCK_BYTES // (4 * max(1, queries.shape[1])))

        def fill(part: slice) -> None:
            room = np.empty((size, queries.shape[1]), np.float32)
            for start in range(part.start, part.stop, size):
                some = slice(start, min(start + size, part.stop))
                block = self.vectors[some if rows is None else rows[some]]
                for query, into in zip(queries, scores, strict=True):
                    score(block, query, room[: len(block)], into[some])

        self._in_parts(count, fill, len(queries))
        return scores

    def _in_parts(self, rows: int, work: Callable[[slice], object], times: int = 1) -> None:
        """Let several threads each do the work of some rows, where reading them so many times is worth it."""
        count = min(self._threads, 1 + times * rows * self.vectors.shape[1] * 4 // PART_BYTES)
        edges = [rows * part // count for part in range(count + 1)]
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
            k: how many are wanted, 1 or more.
            among: the only positions that count; None lets all count.
        """
        among = np.arange(len(self.vectors)) if among is None else among
        if k >= len(among):
            return among
        # Where many are wanted, measuring the first would be most of the scan.
        if metric is Metric.L1 and self._patches is not None and k * FIRST * FEW < len(among):
            among = self._not_too_far(self._patches, query, k, among)
        near, slack = self._bounds(metric, query, among)
        kth = np.partition(near + slack, k - 1)[k - 1]
        found: npt.NDArray[np.intp] = among[near - slack <= kth]
        return found

    def _not_too_far(
        self, patches: "Scan", query: Vectors, k: int, among: npt.NDArray[np.intp]
    ) -> npt.NDArray[np.intp]:
        """Return those of some positions whose patches alone do not put them farther by L1 than k others are."""
        sums = _patch_sums(query.astype(np.float64)[None], self._side)[0].astype(np.float32)
        near, slack = patches._bounds(Metric.L1, sums, among)
        least = near - slack
        first = among[np.argpartition(least, k * FIRST)[: k * FIRST]]
        farthest = closest(Metric.L1, query, self.vectors, first, k)[1][-1]
        # Rounded as float64 is, `farthest` and the bounds may be apart where they are equal: far less than `slack`.
        near_enough: npt.NDArray[np.intp] = among[least <= farthest]
        return near_enough

    def _bounds(
        self, metric: Metric, query: Vectors, among: npt.NDArray[np.intp]
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Return how close some rows are to a query, smaller is closer, and by how much rounding can have moved that.

        Of L2 it is the square.
        """
        few = len(among) * FEW <= len(self.vectors)
        scores = self.scores(metric, query[None], among if few else None)[0]
        near = closeness(metric, scores if few else scores[among]).astype(np.float64)
        # Where all terms are alike all roundings can be too, so the margin grows with the terms of a lane.
        terms = self.vectors.shape[1] / LANES
        scale: npt.NDArray[np.floating] | float = 1.0
        # L1, and the square of L2, are differences of large numbers: the error is relative to those.
        if metric is Metric.L1:
            terms = min(self.vectors.shape[1], PIECE) / LANES + self.vectors.shape[1] / PIECE
            scale = 2 * (self.absolute_sums[among] + float(np.abs(query).sum()))
        elif metric is Metric.L2:
            near, scale = np.square(near), self.squares[among] + float(np.square(query).sum())
        elif metric is Metric.CORRELATION:
            # The dot product is with plain vectors: of a pale picture its error is large beside what is left
            # when the mean is taken away, and of one that looks constant nothing is known.
            norms = self.norms[among]
            with np.errstate(divide="ignore"):
                scale = np.divide(norms, self.centred_norms[among], out=np.zeros_like(norms), where=norms > 0)
        return near, np.broadcast_to(ROUNDING * (terms + SCALED) * scale, near.shape)


def _patch_sums(pixels: npt.NDArray[np.float64], side: int) -> npt.NDArray[np.float64]:
    """Return what the pixels of n pictures, shape (n, side * side * 3), sum up to in each patch and colour."""
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
        """Return the scan over all items by a feature type; its norms are computed on first use."""
        with self._lock:
            if features not in self._scans:
                self._scans[features] = Scan(self._gallery.vectors(features))
            return self._scans[features]

    @override
    def candidates(
        self, features: str, metric: Metric, vectors: Vectors, k: int, among: Positions | None = None
    ) -> list[Positions]:
        scan = self.scan(features)
        return [scan.candidates(metric, vector, k, among) for vector in vectors]
