"""One query, one ranking: the flow that the page, the HTTP API and the command line share."""

import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import product

import numpy as np
import numpy.typing as npt

from retrieval.engines.base import Positions
from retrieval.engines.choice import resolve
from retrieval.errors import QueryError, RetrievalError
from retrieval.features import FEATURES, Vectors, default_first
from retrieval.metrics import Metric, closeness
from retrieval.pictures.loading import DECODERS, OWNER, PictureLimits
from retrieval.search.chance import Chance
from retrieval.search.duplicates import DISTINCT_MAX, without_duplicates
from retrieval.search.embedding import Embedded, QueryEmbedder, QueryPictures
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
        self.chance = Chance(self.embedder)

    def search(self, query: Query, index: GalleryIndex | None = None) -> Ranking:
        """Return the gallery's images closest to the query.

        A caller that reads more of the gallery passes `index`, since a new build may be published in between. Raise any
        kind of RetrievalError.
        """
        [ranking] = self.search_each(query, [query.features], index)
        return ranking

    def search_each(
        self,
        query: Query,
        names: Sequence[str],
        index: GalleryIndex | None = None,
        pictures: QueryPictures | None = None,
    ) -> list[Ranking]:
        """Return what `search` does for each of several feature types; each image is decoded once.

        A caller that searches with the same images of an index repeatedly passes them as `pictures`.
        """
        used = index or self.indexes.get(query.gallery)
        try:
            return self._search_each(query, names, used, pictures)
        except RetrievalError:
            if index or not used.replaced:
                raise
        # The gallery was built again during the search.
        return self._search_each(query, names, self.indexes.get(query.gallery), pictures)

    def _search_each(
        self, query: Query, names: Sequence[str], index: GalleryIndex, pictures: QueryPictures | None
    ) -> list[Ranking]:
        pictures = pictures or QueryPictures(self.embedder, index, query, names)
        rankings = []
        for name in names:
            started, by = time.perf_counter(), replace(query, features=name)
            rankings.append(self.answer(index, by, self.embedder.embed(index, by, pictures), started))
        return rankings

    def answer(self, index: GalleryIndex, query: Query, embedded: Embedded, started: float | None = None) -> Ranking:
        """Return the images closest to an embedded query; `started` is when it arrived, by `time.perf_counter`.

        If the query leaves the engine open (`auto`), the ranking says which one was used. Raise QueryError for a label
        that the gallery does not have.
        """
        searching = time.perf_counter()
        among = index.with_labels(query.labels) if query.labels else None
        by = (query.features, query.metric)
        choice = resolve(query.engine, index, by, None if among is None else len(among))
        query = replace(query, engine=choice.engine)
        positions, scores, hidden_by = _ranked(index, query, embedded.vector, among)
        if query.min_score is not None:
            best = closeness(query.metric, scores) <= closeness(query.metric, np.array(query.min_score))
            positions, scores = positions[best], scores[best]
            hidden_by = hidden_by[: len(positions)]  # scores are in order, so the first ones are kept
        found = zip(index.entries(positions.tolist()), scores, hidden_by, strict=True)
        hits = []
        for place, (entry, score, hidden) in enumerate(found, start=1):
            hits.append(Hit(place, entry.position, entry.id, entry.label, entry.caption, float(score), hidden))
        ended = time.perf_counter()
        return Ranking(
            gallery=index.manifest.gallery,
            features=query.features,
            metric=query.metric,
            engine=query.engine,
            model=index.model(query.features),
            hits=tuple(hits),
            timings=Timings(
                embedded.decode, embedded.features, (ended - searching) * 1e3, (ended - (started or searching)) * 1e3
            ),
            size=len(index),
            engine_note=choice.note,
            notes=embedded.notes,
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
        for engine, features, metric in product(index.engines, default_first(index.features), Metric):
            [vector] = index.vectors_at(features, np.arange(1))
            rank(index, Combination(features, metric, engine), vector, 1)


def _ranked(
    index: GalleryIndex, query: Query, vector: Vectors, among: Positions | None
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.float64], list[int]]:
    """Return positions, scores and numbers of hidden near-duplicates of the hits, `top_k` if there are as many.

    Images of the gallery that are part of the query are not among its results.
    """
    if query.alike < KEEP_ALL and query.top_k > DISTINCT_MAX:
        raise QueryError(f"Without near-duplicates top_k must be at most {DISTINCT_MAX:,}, not {query.top_k:,}.")
    # One more shows that the ranking is complete, even if nothing is hidden.
    count = query.top_k + (query.alike < KEEP_ALL) + len(query.positions)
    while True:
        positions, scores = rank(index, query.combination, vector, count, among)
        is_all = len(positions) < count or count >= len(index)
        if query.positions:
            others = ~np.isin(positions, query.positions)
            positions, scores = positions[others], scores[others]
        if query.alike >= KEEP_ALL:
            return positions[: query.top_k], scores[: query.top_k], [0] * min(query.top_k, len(positions))
        vectors = index.vectors_at(index.default_features, positions)
        kept, duplicates, complete = without_duplicates(vectors, query.alike, query.top_k)
        if complete or is_all:
            return positions[kept], scores[kept], duplicates
        count *= 4
