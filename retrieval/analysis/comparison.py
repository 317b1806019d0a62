"""One query by every features x metric x engine, side by side: what the choices change, and what they cannot."""

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

    `overlap` is the share of the baseline's hits that are here too, and `tau` the agreement of both orders, see
    `kendall_tau`. `moves` has one entry for each hit: how many places higher it stands here than in the baseline
    (below 0: lower), None if it is not in the baseline. `recall` is, for ChromaDB, the share of the hits of the
    exact scan by the same features and metric that it found; None for the exact scan itself.
    """

    ranking: Ranking
    overlap: float
    moves: tuple[int | None, ...]
    tau: float
    recall: float | None

    @property
    def combination(self) -> Combination:
        """The features, metric and engine."""
        return self.ranking.combination

    def to_json(self) -> dict[str, Any]:
        """Return the public form: as of `search`, with what was compared; a move of null is a new picture."""
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
    """The answers to one query; `cells` go by features, metric and engine, and `baseline` is one of them."""

    query: Query
    baseline: Cell
    cells: tuple[Cell, ...]

    def cell(self, combination: Combination) -> Cell:
        """Return the cell of a combination.

        Raises:
            KeyError: it was not compared.
        """
        return {cell.combination: cell for cell in self.cells}[combination]

    def to_json(self) -> dict[str, Any]:
        """Return the public form, the same for the HTTP API and `compare --json`."""
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
    """Answer a query by every features x metric x engine, or with words by those of CLIP features alone.

    Args:
        searcher: the galleries.
        query: what is searched, where, and how many; its own features, metric and engine do not count.
        baseline: the combination that the others are compared with.
        engines: which engines are asked; ChromaDB can be left out, since one process at a time can use it.

    Raises:
        QueryError: the baseline is not among the combinations compared.
        RetrievalError: as of `Searcher.search`.
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
        raise QueryError(f"There is nothing to compare with: the baseline is {named}, but {why}.")
    # A file is read once, so that all rankings are of the same image.
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
    """Return the other metrics that must order any gallery as this one does, and why; none and "" for most.

    Equal up to rounding: vectors are stored in float32, so two pictures as close to each other as 1e-7 in cosine
    can change places.
    """
    twins = {Metric.L2: Metric.COSINE, Metric.COSINE: Metric.L2}
    if not FEATURES[features].unit_length or metric not in twins:
        return (), ""
    other = DEFINITIONS[twins[metric]].title
    return (
        (twins[metric],),
        f"{FEATURES[features].title} have length 1, so L2² = 2 - 2 · cosine: {other} always gives the same order.",
    )
