"""Compare the rankings of one query for all combinations of feature type, metric and engine."""

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from retrieval.analysis.agreement import hits_with_moves, kendall_tau, moves, positions, share_found
from retrieval.engines import DEFAULT_ENGINE, ENGINES
from retrieval.errors import QueryError
from retrieval.features import FEATURES
from retrieval.metrics import DEFINITIONS, Metric
from retrieval.search.embedding import QueryPictures, can_search
from retrieval.search.query import Combination, Query, Ranking
from retrieval.search.searcher import Searcher
from retrieval.storage.reader import GalleryIndex


@dataclass(frozen=True)
class Cell:
    """The ranking of one combination, and how it agrees with the baseline's, by the functions of `agreement`."""

    ranking: Ranking
    overlap: float
    moves: tuple[int | None, ...]
    tau: float
    recall: float | None  # the share of the exact scan's hits that an approximate engine found

    @property
    def combination(self) -> Combination:
        """The feature type, metric and engine."""
        return self.ranking.combination

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form; the move of a hit that is not in the baseline is null."""
        same, _ = equal_by_mathematics(self.ranking.features, self.ranking.metric)
        return {
            **self.combination.to_json(),
            **({"engine_note": self.ranking.engine_note} if self.ranking.engine_note else {}),
            "overlap": self.overlap,
            "tau": self.tau,
            "recall": self.recall,
            "equal_by_mathematics": [str(metric) for metric in same],
            "hits": hits_with_moves(self.ranking, self.moves),
            "timings_ms": self.ranking.to_json()["timings_ms"],
        }


@dataclass(frozen=True)
class Comparison:
    """The rankings of one query; `cells` are in the order of feature type, metric and engine and include `baseline`."""

    query: Query
    baseline: Cell
    cells: tuple[Cell, ...]

    def cell(self, combination: Combination) -> Cell:
        """Return the cell of a combination; a KeyError means that it was not compared."""
        return {cell.combination: cell for cell in self.cells}[combination]

    @property
    def notes(self) -> tuple[str, ...]:
        """The notes of all rankings, each once."""
        return tuple(dict.fromkeys(note for cell in self.cells for note in cell.ranking.notes))

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form that the HTTP API and `compare --json` share."""
        return {
            "gallery": self.baseline.ranking.gallery,
            "model": self.baseline.ranking.model.title,
            "pictures": self.baseline.ranking.size,
            "top_k": self.query.top_k,
            "notes": list(self.notes),
            "baseline": self.baseline.combination.to_json(),
            "cells": [cell.to_json() for cell in self.cells],
        }


def compare(
    searcher: Searcher,
    query: Query,
    baseline: Combination | None = None,
    engines: Collection[str] | None = None,
    index: GalleryIndex | None = None,
    check: Callable[[], None] = lambda: None,
) -> Comparison:
    """Search with all combinations of feature type, metric and engine; text without an image needs features for text.

    The query's own features, metric and engine are ignored. The baseline is the gallery's default feature type with
    cosine and the exact scan, unless another is given. `engines` can leave out ChromaDB, since only one process at
    a time can open its files. A caller that shows thumbnails passes the `index` it reads them from, since a new build
    can be published at any time. `check` is called before each search, and an error that it raises ends the comparison.
    Raise QueryError if the baseline is not one of the combinations.
    """
    index = index or searcher.indexes.get(query.gallery)
    asked = [name for name in index.engines if engines is None or name in engines]
    if not asked:
        index.check_matrices()
    baseline = baseline or Combination(index.default_features)
    if engines is None and baseline.engine not in asked:
        baseline = replace(baseline, engine=asked[0])
    combinations = [
        Combination(features, metric, engine)
        for features, metric, engine in product(index.features, Metric, asked)
        if can_search(index, query, features)
    ]
    if baseline not in combinations:
        if baseline.features not in index.features:
            why = f"the gallery has no {baseline.features} features"
        elif baseline.engine not in asked:
            why = f"only {', '.join(asked)} is compared"
        else:
            why = "text search needs features that support it"
        named = f"{baseline.features} {baseline.metric} {baseline.engine}"
        raise QueryError(f"The baseline {named} cannot be compared: {why}. Choose another baseline.")
    # A file is read only once, so that all rankings are about the same images.
    pictures = QueryPictures(searcher.embedder, index, query, index.features)
    rankings = {}
    for each in combinations:
        check()
        asked_for = replace(query, metric=each.metric, engine=each.engine)
        [rankings[each]] = searcher.search_each(asked_for, [each.features], index, pictures)
    there = positions(rankings[baseline])
    cells = {}
    for each, ranking in rankings.items():
        here = positions(ranking)
        exact = None if ENGINES[each.engine].exact else rankings.get(replace(each, engine=DEFAULT_ENGINE))
        recall = None if exact is None else share_found(here, positions(exact))
        cells[each] = Cell(ranking, share_found(here, there), moves(here, there), kendall_tau(here, there), recall)
    return Comparison(query, cells[baseline], tuple(cells.values()))


def equal_by_mathematics(features: str, metric: Metric) -> tuple[tuple[Metric, ...], str]:
    """Return the other metrics that order every gallery like this one, and the reason; usually an empty tuple and "".

    They are equal up to rounding: vectors are stored in float32, so two images whose cosines differ by about 1e-7 can
    change places.
    """
    twins = {Metric.L2: Metric.COSINE, Metric.COSINE: Metric.L2}
    if not FEATURES[features].unit_length or metric not in twins:
        return (), ""
    other = DEFINITIONS[twins[metric]].title
    reason = f"{FEATURES[features].title} have length 1, so L2² = 2 - 2 · cosine: {other} always gives the same order."
    return (twins[metric],), reason
