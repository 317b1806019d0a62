"""One query by every features x metric x engine, side by side: what the choices change, and what they cannot."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from retrieval.analysis.agreement import kendall_tau, moves, positions, share_found
from retrieval.errors import QueryError
from retrieval.features import Features
from retrieval.metrics import DEFINITIONS, Metric
from retrieval.pictures.loading import read_bytes
from retrieval.search.query import Engine, Query, Ranking
from retrieval.search.searcher import Searcher

Combination = tuple[Features, Metric, Engine]

BASELINE: Combination = (Features.CLIP, Metric.COSINE, Engine.EXACT)
ENGINES = tuple(Engine)


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
        return (self.ranking.features, self.ranking.metric, self.ranking.engine)

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

    def cell(self, features: Features, metric: Metric, engine: Engine) -> Cell:
        """Return the cell of a combination.

        Raises:
            KeyError: it was not compared.
        """
        return {cell.combination: cell for cell in self.cells}[features, metric, engine]

    def to_json(self) -> dict[str, Any]:
        """Return the public form, the same for the HTTP API and `compare --json`."""
        features, metric, engine = self.baseline.combination
        return {
            "gallery": self.baseline.ranking.gallery,
            "model": self.baseline.ranking.model.title,
            "pictures": self.baseline.ranking.size,
            "top_k": self.query.top_k,
            "baseline": {"features": str(features), "metric": str(metric), "engine": str(engine)},
            "cells": [cell.to_json() for cell in self.cells],
        }


def compare(
    searcher: Searcher,
    query: Query,
    baseline: Combination = BASELINE,
    engines: Sequence[Engine] = ENGINES,
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
    worded = bool(query.text.split() or query.without.split())
    combinations = [
        each
        for each in product(Features, Metric, Engine)
        if each[2] in engines and not (worded and each[0] == "pixels")
    ]
    if baseline not in combinations:
        why = "words need CLIP features" if worded else f"only {', '.join(engines)} is asked"
        raise QueryError(f"There is nothing to compare with: the baseline is {' '.join(baseline)}, but {why}.")
    # A file is read once, so that all answers are about the same picture.
    picture = read_bytes(query.picture) if isinstance(query.picture, Path) else query.picture
    rankings = {
        (features, metric, engine): searcher.search(
            replace(query, picture=picture, features=features, metric=metric, engine=engine)
        )
        for features, metric, engine in combinations
    }
    cells = {}
    for features, metric, engine in combinations:
        exact = None if engine is Engine.EXACT else rankings.get((features, metric, Engine.EXACT))
        cells[features, metric, engine] = _cell(rankings[features, metric, engine], rankings[baseline], exact)
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


def equal_by_mathematics(features: Features, metric: Metric) -> tuple[tuple[Metric, ...], str]:
    """Return the other metrics that must order any gallery as this one does, and why; none and "" for most.

    Equal up to rounding: vectors are stored in float32, so two pictures as close to each other as 1e-7 in cosine
    can change places.
    """
    twins = {Metric.L2: Metric.COSINE, Metric.COSINE: Metric.L2}
    if features is not Features.CLIP or metric not in twins:
        return (), ""
    other = DEFINITIONS[twins[metric]].title
    return (
        (twins[metric],),
        f"CLIP vectors have length 1, so L2² = 2 - 2 · cosine: {other} gives the same order, always.",
    )
