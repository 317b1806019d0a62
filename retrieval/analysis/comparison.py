"""Compare the rankings of one query for all combinations of feature type, metric and engine."""

from collections.abc import Collection
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from retrieval.analysis.agreement import kendall_tau, moves, positions, share_found
from retrieval.engines import DEFAULT_ENGINE, ENGINES
from retrieval.errors import QueryError
from retrieval.features import FEATURES
from retrieval.metrics import DEFINITIONS, Metric
from retrieval.pictures.loading import read_bytes
from retrieval.search.query import Combination, Query, Ranking
from retrieval.search.searcher import Searcher

BASELINE = Combination()


@dataclass(frozen=True)
class Cell:
    """The ranking of one combination, and how it differs from the baseline's.

    Attributes:
        ranking: the ranking.
        overlap: the share of the baseline's hits that are in this ranking too.
        moves: for each hit, by how many ranks it is higher than in the baseline; None if it is not in the baseline.
        tau: the agreement with the baseline's order, see `kendall_tau`.
        recall: the share of the exact scan's hits, with the same features and metric, that ChromaDB found; None for
            the exact scan itself.
    """

    ranking: Ranking
    overlap: float
    moves: tuple[int | None, ...]
    tau: float
    recall: float | None

    @property
    def combination(self) -> Combination:
        """The feature type, metric and engine."""
        return self.ranking.combination

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form: that of a ranking, and the comparison; a hit whose move is null is new."""
        answer = self.ranking.to_json()
        hits = [hit | {"move": move} for hit, move in zip(answer["hits"], self.moves, strict=True)]
        same, _ = equal_by_mathematics(self.ranking.features, self.ranking.metric)
        return {
            "features": answer["features"],
            "metric": answer["metric"],
            "engine": answer["engine"],
            "overlap": self.overlap,
            "tau": self.tau,
            "recall": self.recall,
            "equal_by_mathematics": [str(metric) for metric in same],
            "hits": hits,
            "timings_ms": answer["timings_ms"],
        }


@dataclass(frozen=True)
class Comparison:
    """The rankings of one query; `cells` are in the order of feature type, metric and engine and include `baseline`."""

    query: Query
    baseline: Cell
    cells: tuple[Cell, ...]

    def cell(self, combination: Combination) -> Cell:
        """Return the cell of a combination.

        Raises:
            KeyError: the combination was not compared.
        """
        return {cell.combination: cell for cell in self.cells}[combination]

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form that the HTTP API and `compare --json` share."""
        base = self.baseline.combination
        return {
            "gallery": self.baseline.ranking.gallery,
            "model": self.baseline.ranking.model.title,
            "pictures": self.baseline.ranking.size,
            "top_k": self.query.top_k,
            "baseline": {"features": base.features, "metric": str(base.metric), "engine": base.engine},
            "cells": [cell.to_json() for cell in self.cells],
        }


def compare(
    searcher: Searcher,
    query: Query,
    baseline: Combination = BASELINE,
    engines: Collection[str] | None = None,
) -> Comparison:
    """Search with all combinations of feature type, metric and engine; a query with text needs CLIP features.

    Args:
        searcher: the galleries.
        query: what is searched; its own features, metric and engine are ignored.
        baseline: the combination that the others are compared with.
        engines: the engines to use. ChromaDB can be left out, since only one process at a time can open its files.

    Raises:
        QueryError: the baseline is not one of the combinations.
        RetrievalError: see `Searcher.search`.
    """
    index = searcher.indexes.get(query.gallery)
    with_text = bool(query.text.split() or query.without.split())
    asked = ENGINES if engines is None else engines
    combinations = [
        Combination(features, metric, engine)
        for features, metric, engine in product(index.features, Metric, ENGINES)
        if engine in asked and (FEATURES[features].takes_text or not with_text)
    ]
    if baseline not in combinations:
        why = "text search needs features that support it" if with_text else f"only {', '.join(asked)} is compared"
        named = f"{baseline.features} {baseline.metric} {baseline.engine}"
        raise QueryError(f"The baseline {named} cannot be compared: {why}. Choose another baseline.")
    # A file is read only once, so that all rankings are about the same image.
    picture = read_bytes(query.picture) if isinstance(query.picture, Path) else query.picture
    rankings = {
        each: searcher.search(
            replace(query, picture=picture, features=each.features, metric=each.metric, engine=each.engine), index
        )
        for each in combinations
    }
    cells = {}
    for each in combinations:
        exact = None if ENGINES[each.engine].exact else rankings.get(replace(each, engine=DEFAULT_ENGINE))
        cells[each] = _cell(rankings[each], rankings[baseline], exact)
    return Comparison(query, cells[baseline], tuple(cells.values()))


def _cell(ranking: Ranking, baseline: Ranking, exact: Ranking | None) -> Cell:
    here, there = positions(ranking), positions(baseline)
    return Cell(
        ranking=ranking,
        overlap=share_found(here, there),
        moves=moves(here, there),
        tau=kendall_tau(here, there),
        recall=None if exact is None else share_found(here, positions(exact)),
    )


def equal_by_mathematics(features: str, metric: Metric) -> tuple[tuple[Metric, ...], str]:
    """Return the other metrics that order every gallery like this one, and the reason; usually an empty tuple and "".

    They are equal up to rounding: vectors are stored in float32, so two images whose cosines differ by about 1e-7 can
    change places.
    """
    twins = {Metric.L2: Metric.COSINE, Metric.COSINE: Metric.L2}
    if not FEATURES[features].unit_length or metric not in twins:
        return (), ""
    other = DEFINITIONS[twins[metric]].title
    return (
        (twins[metric],),
        f"{FEATURES[features].title} have length 1, so L2² = 2 - 2 · cosine: {other} always gives the same order.",
    )
