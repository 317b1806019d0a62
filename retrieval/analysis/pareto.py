"""Which feature type and metric suit a gallery: quality against time per query and size per image.

A configuration is on the Pareto front if no other is at least as good in mAP, time and size, and better in one of them
(Pareto, *Manuale di economia politica*, 1906).
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from retrieval.analysis.evaluation import MAIN
from retrieval.analysis.leaderboard import Figure, Leaderboard, Row
from retrieval.analysis.results import cells, csv_text
from retrieval.analysis.statistics import CONFIDENCE, SEED
from retrieval.errors import QueryError
from retrieval.search.embedding import QueryEmbedder
from retrieval.search.query import Combination
from retrieval.search.ranking import rank
from retrieval.storage.reader import GalleryIndex

TIMED = 20  # queries
RESULTS = 10  # of each
RESAMPLES = 2_000
COMPARED = ("P@5", MAIN)


@dataclass(frozen=True)
class Cost:
    """A configuration with its costs.

    Attributes:
        milliseconds: to embed a query image and to rank the gallery, the median with its 95 % interval.
        bytes: of the vector of one image.
        best: whether it is on the Pareto front.
    """

    row: Row
    milliseconds: Figure
    bytes: int
    best: bool


def costs(board: Leaderboard, embedder: QueryEmbedder) -> list[Cost]:
    """Return the configurations of a leaderboard with their costs, measured with images of the gallery.

    Raise QueryError if they have no mAP, since an approximate engine does not rank the whole gallery.
    """
    rows = [row for row in board.rows if row.result.by is not None]
    if any(row.figures[MAIN].value is None for row in rows):
        raise QueryError("The Pareto front needs mAP, which only the exact scan has. Leave out `--engine`.")
    index = board.evaluation.index
    embedding = {name: _embedding(index, embedder, name) for name in board.evaluation.queries.vectors}
    found = []
    for row in rows:
        by = row.result.by or Combination()
        total = embedding[by.features] + _searching(index, by, len(embedding[by.features]))
        size = 4 * index.manifest.dimensions(by.features)
        found.append((row, _median(total), size))
    table = np.array([[-(row.figures[MAIN].value or 0), each.value, size] for row, each, size in found], float)
    return [Cost(*each, best) for each, best in zip(found, front(table), strict=True)]


def front(costs: np.ndarray) -> list[bool]:
    """Return which rows of costs, shape (n, c), no other row beats: nowhere larger, and smaller somewhere."""
    return [not any((other <= row).all() and (other < row).any() for other in costs) for row in costs]


def _timed(index: GalleryIndex) -> np.ndarray:
    return np.unique(np.linspace(0, len(index) - 1, TIMED).astype(np.intp))


def _embedding(index: GalleryIndex, embedder: QueryEmbedder, features: str) -> np.ndarray:
    """Return the milliseconds to embed each of some thumbnails of the gallery, one at a time."""
    embed = embedder.feature_set(index, features).embed_query
    pictures = [index.picture(at) for at in _timed(index).tolist()]
    embed(pictures[:1])  # the first call also allocates
    spent = []
    for picture in pictures:
        started = time.perf_counter()
        embed([picture])
        spent.append((time.perf_counter() - started) * 1e3)
    return np.array(spent)


def _searching(index: GalleryIndex, by: Combination, count: int) -> np.ndarray:
    """Return the milliseconds of each of some searches."""
    vectors = index.vectors_at(by.features, _timed(index))
    rank(index, by, vectors[0], RESULTS)
    spent = []
    for vector in vectors[:count]:
        started = time.perf_counter()
        rank(index, by, vector, RESULTS)
        spent.append((time.perf_counter() - started) * 1e3)
    return np.array(spent)


def _median(values: np.ndarray) -> Figure:
    drawn = np.random.default_rng(SEED).integers(0, len(values), (RESAMPLES, len(values)))
    outside = (1 - CONFIDENCE) / 2
    low, high = np.quantile(np.median(values[drawn], axis=1), [outside, 1 - outside])
    return Figure(float(np.median(values)), float(low), float(high))


def to_csv(found: Sequence[Cost]) -> str:
    """Return one line per configuration."""
    return csv_text(
        {
            "place": each.row.place,
            "title": each.row.result.title,
            **cells({name: each.row.figures[name] for name in COMPARED if name in each.row.figures}),
            **cells({"milliseconds": each.milliseconds}),
            "bytes": each.bytes,
            "pareto": int(each.best),
        }
        for each in found
    )


def sentence(found: Sequence[Cost]) -> str:
    """Return which configurations are on the Pareto front, best first."""
    named = [
        f"{each.row.result.title} (mAP {each.row.figures[MAIN].value:.3f}, {each.milliseconds.value:.1f} ms, "
        f"{each.bytes:,} bytes)"
        for each in found
        if each.best
    ]
    return f"No other configuration is at once better, faster and smaller than: {'; '.join(named)}."
