"""One query, one ranking: the flow that the page, the HTTP API and the command line share."""

import time
from collections.abc import Sequence
from itertools import product

import numpy as np
import numpy.typing as npt

from retrieval.engines import ENGINES
from retrieval.errors import QueryError, RetrievalError
from retrieval.features import DEFAULT_FEATURES, FEATURES, Vectors, default_first
from retrieval.metrics import Metric
from retrieval.pictures.loading import DECODERS, OWNER, PictureLimits
from retrieval.search.duplicates import DISTINCT_MAX, without_duplicates
from retrieval.search.embedding import Embedded, QueryEmbedder
from retrieval.search.query import KEEP_ALL, Combination, Hit, Query, Ranking, Timings
from retrieval.search.ranking import rank
from retrieval.settings import TEMPLATES
from retrieval.storage.catalog import Indexes
from retrieval.storage.reader import GalleryIndex


class Searcher:
    """Answers queries over all galleries of an index folder; thread-safe. Models are loaded when a query needs them."""

    def __init__(self, indexes: Indexes, templates: Sequence[str] = TEMPLATES, limits: PictureLimits = OWNER) -> None:
        self.indexes = indexes
        DECODERS.start()  # while models load
        self.embedder = QueryEmbedder(templates, limits)

    def search(self, query: Query, index: GalleryIndex | None = None) -> Ranking:
        """Return the gallery's images closest to the query.

        A caller that reads more of the gallery passes `index`, since a new build may be published in between. Raise any
        kind of RetrievalError.
        """
        started = time.perf_counter()
        index = index or self.indexes.get(query.gallery)
        return self.answer(index, query, self.embedder.embed(index, query), started)

    def answer(self, index: GalleryIndex, query: Query, embedded: Embedded, started: float | None = None) -> Ranking:
        """Return the images closest to an embedded query; `started` is when it arrived, by `time.perf_counter`.

        Raise QueryError for a label that the gallery does not have.
        """
        searching = time.perf_counter()
        found = zip(*_ranked(index, query, embedded.vector), strict=True)
        hits = []
        for place, (position, score, hidden) in enumerate(found, start=1):
            entry = index.entry(int(position))
            hits.append(Hit(place, entry.position, entry.id, entry.label, entry.caption, float(score), hidden))
        ended = time.perf_counter()
        return Ranking(
            gallery=index.manifest.gallery,
            features=query.features,
            metric=query.metric,
            engine=query.engine,
            model=index.manifest.model,
            hits=tuple(hits),
            timings=Timings(
                embedded.decode, embedded.features, (ended - searching) * 1e3, (ended - (started or searching)) * 1e3
            ),
            size=len(index),
        )

    def fetch_models(self) -> list[RetrievalError]:
        """Download the models of all galleries, and return the errors of those that are not available."""
        problems = []
        for name in self.indexes.names():
            try:
                index = self.indexes.get(name)
                for features in index.features:
                    FEATURES[features].find(index.manifest.features[features])
            except RetrievalError as error:
                problems.append(error)
        return problems

    def warm(self) -> None:
        """Load what the first search by each engine would wait for: model, matrices, ChromaDB's graphs.

        Raise RetrievalError if something is missing or in use; searches that do not need it still work.
        """
        index = self.indexes.get()
        for name in index.features:
            self.embedder.feature_set(index, name)
        # Default features and exact scan first, since most visitors begin with them and ChromaDB takes longest.
        names = [name for name in default_first() if name in index.features]
        for engine, features, metric in product(ENGINES, names, Metric):
            rank(index, Combination(features, metric, engine), index.vectors(features)[0], 1)


def _ranked(
    index: GalleryIndex, query: Query, vector: Vectors
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.float64], list[int]]:
    """Return positions, scores and numbers of hidden near-duplicates of the hits, `top_k` if there are as many."""
    if query.alike < KEEP_ALL and query.top_k > DISTINCT_MAX:
        raise QueryError(f"Without near-duplicates top_k must be at most {DISTINCT_MAX:,}, not {query.top_k:,}.")
    among = index.with_labels(query.labels) if query.labels else None
    # One more shows that the ranking is complete, even if nothing is hidden.
    count = query.top_k if query.alike >= KEEP_ALL else query.top_k + 1
    while True:
        positions, scores = rank(index, query.combination, vector, count, among)
        if query.alike >= KEEP_ALL:
            return positions, scores, [0] * len(positions)
        vectors = index.vectors(DEFAULT_FEATURES)[positions]
        kept, duplicates, complete = without_duplicates(vectors, query.alike, query.top_k)
        if complete or len(positions) < count or count >= len(index):
            return positions[kept], scores[kept], duplicates
        count *= 4
