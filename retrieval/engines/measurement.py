"""Measure the recall of an approximate engine against the exact scan, on queries drawn from the gallery.

Each query is an item of the gallery, which searches among the others.
"""

import math
import time
from collections.abc import Mapping
from functools import cache, cached_property
from itertools import product
from pathlib import Path

import numpy as np

from retrieval.engines.base import GalleryVectors, OpenEngine, Positions
from retrieval.engines.exact import ExactEngine
from retrieval.engines.recall import K, Recall
from retrieval.metrics import Metric, closest

QUERIES = 200
LABELS = 8  # by which the queries with a filter are filtered, an equal number by each
TIMED = 20  # queries of which the time is taken, one at a time
SEED = 0
BLOCK_BYTES = 2**24  # of query vectors at once
Z = 1.959964  # standard deviations on both sides of the mean that hold 95 % of a normal distribution


def wilson(share: float, n: int) -> tuple[float, float]:
    """Return the 95 % confidence interval of a mean of n values from 0 to 1 (E. B. Wilson, 1927).

    It is that of n values that are 0 or 1, which vary most, so it is too wide rather than too narrow. Unlike the
    bootstrap, it does not shrink to a point if all n values are 1.
    """
    middle = (share + Z * Z / (2 * n)) / (1 + Z * Z / n)
    half = Z / (1 + Z * Z / n) * math.sqrt(share * (1 - share) / n + Z * Z / (4 * n * n))
    return max(0.0, middle - half), min(1.0, middle + half)


class RecallMeasurement:
    """Queries drawn from a gallery with a fixed seed, and their closest items by the exact scan."""

    def __init__(self, gallery: GalleryVectors) -> None:
        self.gallery = gallery
        self._exact = ExactEngine().open(gallery, Path())
        self._chance = np.random.default_rng(SEED)
        n = len(gallery)
        self._queries = np.sort(self._chance.choice(n, min(n, QUERIES), replace=False)) if n > 1 else np.arange(0)
        self._true = cache(self._found_exactly)

    @cached_property
    def _filters(self) -> list[tuple[Positions, Positions]]:
        """Groups of queries, each with the positions that its label leaves, of which there are at least K others."""
        names, codes, counts = np.unique(self.gallery.labels, return_inverse=True, return_counts=True)
        usable = np.flatnonzero((counts > K) & (counts < len(codes)) & (names != ""))
        if not len(self._queries) or not len(usable):
            return []
        labels = self._chance.choice(usable, min(len(usable), LABELS), replace=False)
        groups = np.array_split(self._chance.permutation(self._queries), len(labels))
        return [(np.sort(group), np.flatnonzero(codes == label)) for group, label in zip(groups, labels, strict=True)]

    def groups(self, filtered: bool) -> list[tuple[Positions, Positions | None]]:
        """Return groups of queries, each with the only positions allowed, or None."""
        if filtered:
            return list(self._filters)
        return [(self._queries, None)] if len(self._queries) else []

    def recall_of(self, engine: OpenEngine, features: str, metric: Metric, filtered: bool = False) -> Recall | None:
        """Return the recall of an engine; None if the gallery has too few items for a query, or for a filter."""
        groups = self.groups(filtered)
        if not groups:
            return None
        shares = []
        for number, (queries, among) in enumerate(groups):
            true = self._true(features, metric, filtered, number)
            found = self._found(engine, (features, metric), queries, among)
            shares += [len(one & other) / len(one) for one, other in zip(true, found, strict=True) if one]
        mean = float(np.mean(shares))
        low, high = wilson(mean, len(shares))
        timed = [self._milliseconds(each, (features, metric), *groups[0]) for each in (engine, self._exact)]
        rounded = (round(each, 4) for each in (mean, low, high, *timed))
        return Recall(features, metric, filtered, len(shares), *rounded)

    def _found_exactly(self, features: str, metric: Metric, filtered: bool, group: int) -> list[set[int]]:
        return self._found(self._exact, (features, metric), *self.groups(filtered)[group])

    def _found(
        self, engine: OpenEngine, by: tuple[str, Metric], queries: Positions, among: Positions | None
    ) -> list[set[int]]:
        """Return the K items that an engine finds for each query, without the query itself."""
        vectors, found = self.gallery.vectors(by[0]), []
        block = max(1, BLOCK_BYTES // (4 * vectors.shape[1]))
        for some in (queries[start : start + block] for start in range(0, len(queries), block)):
            candidates = engine.candidates(*by, vectors[some], K + 1, among)
            for own, each in zip(some, candidates, strict=True):
                ranked, _ = closest(by[1], vectors[own], vectors, each.positions, K + 1)
                found.append(set(ranked[ranked != own][:K].tolist()))
        return found

    def _milliseconds(
        self, engine: OpenEngine, by: tuple[str, Metric], queries: Positions, among: Positions | None
    ) -> float:
        """Return the median time of a search for the K closest, including their exact scores."""
        spent = []
        for query in queries[:TIMED]:
            started = time.perf_counter()
            self._found(engine, by, query[None], among)
            spent.append((time.perf_counter() - started) * 1e3)
        return float(np.median(spent))


def measure_all(
    measurement: RecallMeasurement, engine: OpenEngine, known: Mapping[tuple[str, Metric], Recall]
) -> tuple[Recall, ...]:
    """Return the recall of an engine by every feature type and metric, without and with filters by label.

    `known` has figures without a filter that were measured before.
    """
    found: list[Recall | None] = []
    for by in product(measurement.gallery.features, Metric):
        found.append(known.get(by) or measurement.recall_of(engine, *by))
        found.append(measurement.recall_of(engine, *by, filtered=True))
    return tuple(each for each in found if each is not None)
