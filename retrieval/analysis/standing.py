"""The score and the rank of one image for a query, by every feature type and metric."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from retrieval.features import Vectors
from retrieval.metrics import Metric, closeness, score_pairs
from retrieval.search.embedding import QueryPictures, can_search
from retrieval.search.query import Query
from retrieval.search.searcher import Searcher
from retrieval.storage.reader import GalleryIndex

RANKED = 100_000  # images; ranks in a larger gallery would keep the visitor waiting


@dataclass(frozen=True)
class Standing:
    """The score of an image, and its rank from 1; None in a gallery that is too large or on a server."""

    features: str
    metric: Metric
    score: float
    rank: int | None


def standings(
    searcher: Searcher,
    query: Query,
    position: int,
    index: GalleryIndex,
    check: Callable[[], None] = lambda: None,
) -> list[Standing]:
    """Return how an image stands for a query by each feature type and metric.

    Feature types that do not support text use the images of the query alone, and are left out if there is none. `check`
    is called before each feature type, and may raise to stop.
    """
    pictures = QueryPictures(searcher.embedder, index, query, index.features)
    found = []
    for features in index.features:
        check()
        if can_search(index, query, features):
            by = replace(query, features=features)
            vector = searcher.embedder.embed(index, by, pictures).vector
            found += _of(index, by, vector, position)
    return found


def _of(index: GalleryIndex, query: Query, vector: Vectors, position: int) -> list[Standing]:
    own = index.vectors_at(query.features, np.array([position]))
    ranked = not index.manifest.collections and len(index) <= RANKED
    found = []
    for metric in Metric:
        [score] = score_pairs(metric, vector, own)
        rank = _rank(index, query, metric, vector, position) if ranked else None
        found.append(Standing(query.features, metric, float(score), rank))
    return found


def _rank(index: GalleryIndex, query: Query, metric: Metric, vector: Vectors, position: int) -> int:
    near = closeness(metric, index.scan(query.features).scores(metric, vector[None])[0])
    closer = near < near[position]
    closer[list(query.positions)] = False  # which are no results
    return int(closer.sum()) + 1
