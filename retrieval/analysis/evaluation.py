"""Rank the gallery for many queries by each feature type and metric, and measure the rankings.

**Ties** are in gallery order. Many queries are compared in float32, so images whose scores differ by less than its
rounding can change places compared to a search; images with equal vectors have equal scores. A single query is ranked
as a search does.
"""

import hashlib
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import pairwise, product

import numpy as np
import numpy.typing as npt

from retrieval.analysis.explanation import combination
from retrieval.analysis.measures import WHOLE, Found, Ints, measure, measure_names
from retrieval.analysis.queries import Judgements, Pairs, Queries, one_item
from retrieval.engines import DEFAULT_ENGINE, ENGINES
from retrieval.engines.exact import Scan
from retrieval.errors import QueryError
from retrieval.features import Vectors
from retrieval.metrics import Metric, Scores, closeness
from retrieval.search.embedding import QueryEmbedder, QueryPictures, can_search
from retrieval.search.query import Combination, Query
from retrieval.search.ranking import rank
from retrieval.storage.reader import GalleryIndex

KS = (1, 5, 10)  # of P@k and the other measures with a cutoff, unless others are asked for
THREADS_MAX = 8
MAIN, FIRST = "mAP", "P@5"  # the measure by which configurations are placed, and the one for an approximate engine

Values = npt.NDArray[np.float64]
# A block of queries, and which of n items they ignore, shape (m, n) -> float32 numbers of shape (m, n), which are
# smaller for closer items, and infinite for ignored ones.
Nearness = Callable[[slice, npt.NDArray[np.bool_]], Scores]


@dataclass(frozen=True, eq=False)
class Result:
    """All measures of each query for one configuration.

    Attributes:
        by: feature type, metric and engine; None for a run that was made elsewhere.
        title: what to call the configuration.
        names: of the measures.
        values: of m queries, shape (m, measures); NaN where an approximate engine does not rank enough images.
    """

    by: Combination | None
    title: str
    names: tuple[str, ...]
    values: Values

    def of_queries(self, name: str) -> Values:
        """Return a measure of each query, shape (m,)."""
        column: Values = self.values[:, self.names.index(name)]
        return column

    def mean(self, name: str) -> float | None:
        """Return the mean of a measure over the queries; None if the engine does not rank enough images."""
        value = float(self.of_queries(name).mean())
        return None if np.isnan(value) else value


class Evaluation:
    """Judged queries of a gallery, and the results by each combination so far."""

    def __init__(self, index: GalleryIndex, queries: Queries, ks: Sequence[int] = KS) -> None:
        """Judge the queries; raise GalleryError if none has a relevant image."""
        self.index = index
        self.ks = tuple(ks)
        self.names = measure_names(self.ks)
        self.judgements = Judgements(index.manifest.gallery, index.labels, queries, max(self.ks))
        self.results: list[Result] = []

    @property
    def queries(self) -> Queries:
        """The queries that have a relevant image."""
        return self.judgements.queries

    @property
    def main(self) -> str:
        """The measure by which configurations are placed: mAP, or P@5 if an engine does not rank the whole gallery."""
        whole = all(result.mean(MAIN) is not None for result in self.results)
        return MAIN if whole else FIRST if FIRST in self.names else self.names[0]

    def run(self, engine: str = DEFAULT_ENGINE) -> Iterator[Result]:
        """Yield the result of each combination of feature type and metric, one at a time, and keep it."""
        for features, metric in product(self.queries.vectors, Metric):
            by = Combination(features, metric, engine)
            together = ENGINES[engine].exact and len(self.queries) > 1
            found = self._together(by) if together else self._as_searches(by)
            yield self._keep(by, title_of(by), found)

    def add_run(self, title: str, ranked: Callable[[int], Ints]) -> Result:
        """Measure a run that was made elsewhere, given the ranked positions of each query by its number.

        Items that it does not rank count as not found.
        """
        return self._keep(None, title, self._of_rankings(ranked))

    def rankings(self, by: Combination, depth: int, only: Collection[int] | None = None) -> Iterator[tuple[int, Ints]]:
        """Yield each query, or those in `only`, and the positions of its first `depth` items, closest first."""
        exact = ENGINES[by.engine].exact
        whole = ExactRanking(self.index.scan(by.features), by.metric, self.queries.vectors[by.features])
        for part in self.judgements.blocks():
            chosen = [at for at in range(part.start, part.stop) if only is None or at in only]
            if chosen:
                _, ignored = self.judgements.grades(part)
                order = whole.order(part, ignored) if exact else None  # by block, since rounding depends on it
                for at in chosen:
                    row = self._first(by, at, depth) if order is None else order[at - part.start]
                    yield at, row[~ignored[at - part.start, row]][:depth]

    def _keep(self, by: Combination | None, title: str, found: Found) -> Result:
        values = measure(found, self.judgements.judged, self.ks)
        if by and not ENGINES[by.engine].exact:
            values[:, [self.names.index(name) for name in WHOLE]] = np.nan
        result = Result(by, title, self.names, values)
        self.results.append(result)
        return result

    def _together(self, by: Combination) -> Found:
        vectors = self.queries.vectors[by.features]
        return found_in(self.judgements, ExactRanking(self.index.scan(by.features), by.metric, vectors).near)

    def _as_searches(self, by: Combination) -> Found:
        depth = len(self.index) if ENGINES[by.engine].exact else max(self.ks)
        return self._of_rankings(lambda at: self._first(by, at, depth))

    def _first(self, by: Combination, at: int, depth: int) -> Ints:
        """Return the positions of the first items for a query, at least `depth` without those that it ignores."""
        left_out = len(self.queries.ignored.between(at, at + 1).queries) + 1  # perhaps also the query itself
        return rank(self.index, by, self.queries.vectors[by.features][at], depth + left_out)[0]

    def _of_rankings(self, ranked: Callable[[int], Ints]) -> Found:
        blocks = [slice(at, at + 1) for at in range(len(self.queries))]
        parts = list[Found]()
        for part in blocks:
            grades, ignored = self.judgements.grades(part)
            order = ranked(part.start)
            parts.append(_relevant(grades[:, order[~ignored[0, order]]]))
        return _joined(parts, blocks)


def found_in(judgements: Judgements, nearness: Nearness) -> Found:
    """Return the relevant items in whole rankings, which are computed in several threads."""

    def found(part: slice) -> Found:
        grades, ignored = judgements.grades(part)
        return relevant_in(nearness(part, ignored), grades)

    blocks = list(judgements.blocks())
    with ThreadPoolExecutor(min(THREADS_MAX, os.cpu_count() or 1)) as pool:
        return _joined(list(pool.map(found, blocks)), blocks)


def relevant_in(near: Scores, grades: npt.NDArray[np.int16]) -> Found:
    """Return the items with a grade in rankings by float32 numbers, smallest first, both of shape (m, n).

    The numbers are sorted without their positions, which takes half of the time, and the relevant ones are looked up.
    """
    ordered = np.sort(near, axis=1)
    queries, items = np.nonzero(grades)
    values = near[queries, items]
    before, until = np.empty(len(items), np.intp), np.empty(len(items), np.intp)
    starts = np.searchsorted(queries, np.arange(len(near) + 1))
    for row, (start, stop) in enumerate(pairwise(starts)):
        before[start:stop] = np.searchsorted(ordered[row], values[start:stop])
        until[start:stop] = np.searchsorted(ordered[row], values[start:stop], side="right")
    for row in np.unique(queries[until - before > 1]):  # ties: only the positions tell which item comes first
        own = slice(starts[row], starts[row + 1])
        before[own] = np.argsort(ranked_in_order(near[row, None])[0])[items[own]]
    order = np.lexsort((before, queries))
    return Found(queries, before[order] + 1, grades[queries, items][order])


def title_of(by: Combination) -> str:
    """Return what to call a configuration; the engine is named unless it is the exact scan."""
    engine = "" if ENGINES[by.engine].exact else f" · {ENGINES[by.engine].title}"
    return combination(by.features, by.metric) + engine


class ExactRanking:
    """Rankings of a whole gallery, many queries at once."""

    def __init__(self, scan: Scan, metric: Metric, queries: Vectors) -> None:
        self._scan, self._metric, self._queries = scan, metric, queries
        self._first = first_equal(scan.vectors)

    def order(self, part: slice, ignored: npt.NDArray[np.bool_]) -> Ints:
        """Return the positions of n items for some queries, closest first, shape (m, n); ignored items come last."""
        return ranked_in_order(self.near(part, ignored))

    def near(self, part: slice, ignored: npt.NDArray[np.bool_]) -> Scores:
        """Return how close n items are to some queries; see `Nearness`."""
        near = closeness(self._metric, self._scan.scores(self._metric, self._queries[part]))
        if self._first is not None:
            near = near[:, self._first]  # rounding can depend on the place in the matrix
        near[ignored] = np.inf
        return np.asarray(near, np.float32)


def first_equal(vectors: Vectors) -> Ints | None:
    """Return for each vector the position of the first that is equal, shape (n,); None if all are different."""
    seen: dict[bytes, int] = {}
    digests = (hashlib.blake2b(vector.tobytes(), digest_size=16).digest() for vector in vectors)
    first = np.array([seen.setdefault(digest, at) for at, digest in enumerate(digests)], np.intp)
    return None if len(seen) == len(vectors) else first


def ranked_in_order(near: Scores) -> Ints:
    """Return the order of each row of m x n float32 numbers, smallest first, ties in their own order; shape (m, n).

    Numbers and positions are sorted together as 64-bit integers, which takes a third of the time of a stable argsort.
    """
    near = near + np.float32(0)  # -0 and 0 are equal
    bits = near.view(np.int32)
    bits ^= (bits >> 31) & 0x7FFFFFFF  # negative numbers are stored as sign and magnitude
    keys = bits.astype(np.int64)
    keys <<= 32
    keys |= np.arange(near.shape[1])
    keys.sort(axis=1)
    keys &= 0xFFFFFFFF
    return keys


def _relevant(grades: npt.NDArray[np.int16]) -> Found:
    """Return the relevant items, given the grades by rank of m queries, shape (m, n)."""
    queries, ranks = np.nonzero(grades)
    return Found(queries, ranks + 1, grades[queries, ranks])


def _joined(parts: Sequence[Found], blocks: Sequence[slice]) -> Found:
    return Found(
        np.concatenate([each.queries + part.start for each, part in zip(parts, blocks, strict=True)]),
        np.concatenate([each.ranks for each in parts]),
        np.concatenate([each.grades for each in parts]),
    )


def evaluate(
    index: GalleryIndex, queries: Queries, engine: str = DEFAULT_ENGINE, ks: Sequence[int] = KS
) -> Iterator[Result]:
    """Yield the result of each combination of feature type and metric; see `Evaluation`."""
    yield from Evaluation(index, queries, ks).run(engine)


def of_query(index: GalleryIndex, embedder: QueryEmbedder, query: Query, label: str) -> Evaluation:
    """Return the evaluation of one query, not yet run; the images with `label` are relevant.

    Only the feature types that can search for it are evaluated, and the query's own items are left out. Its metric,
    engine, labels and number of results are ignored. Raise QueryError if no image other than the query has the label.
    """
    if not np.setdiff1d(index.with_labels([label]), query.positions).size:
        raise QueryError(
            f"No other image has the label {label[:40]!r}, so there is nothing to find. Choose another label."
        )
    used = [name for name in index.features if can_search(index, query, name)]
    pictures = QueryPictures(embedder, index, query, used)
    vectors = {name: embedder.embed(index, replace(query, features=name), pictures).vector[None] for name in used}
    ignored = Pairs.of([(0, position, 0) for position in query.positions])
    if query.position is not None:
        return Evaluation(index, replace(one_item(index, query.position, label), vectors=vectors, ignored=ignored))
    outside = np.array([-1], np.intp)
    return Evaluation(index, Queries(("query",), vectors, outside, (label,), "one query", ignored=ignored))
