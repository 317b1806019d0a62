"""One query, one ranking: the flow that the page, the HTTP API and the command line share."""

import time
from collections.abc import Sequence
from itertools import product

import numpy as np
import numpy.typing as npt

from retrieval.embedding import Embedded, QueryEmbedder
from retrieval.errors import QueryError, RetrievalError
from retrieval.features import Features, Vectors
from retrieval.features.choice import choose_model
from retrieval.images import MAX_PIXELS
from retrieval.indexes import GalleryIndex, Indexes
from retrieval.metrics import DEFINITIONS, Metric, closeness, closest, score_pairs
from retrieval.query import KEEP_ALL, Engine, Hit, Query, Ranking, Timings
from retrieval.settings import TEMPLATES

BLOCK = 256  # pictures compared with each other at once when near-duplicates are left out
DISTINCT_MAX = 1000  # pictures shown without near-duplicates; each is compared with every candidate
SURPLUS = 16  # neighbours asked of Chroma beyond k, so that ties at the end are seen
L1_SHORTLIST = 100  # neighbours by L2 among which the closest by L1 are looked for, at least
L1_FACTOR = 8  # ... and at least so many times k: finds 99 % by raw pixels; 20 times find all, in three times the time


class Searcher:
    """Answers queries over all galleries of an index folder; safe for many threads."""

    def __init__(self, indexes: Indexes, templates: Sequence[str] = TEMPLATES, most_pixels: int = MAX_PIXELS) -> None:
        """Take the galleries; models are loaded when a query needs them.

        Args:
            indexes: the galleries.
            templates: the sentences that words are put into.
            most_pixels: that a query's picture may have.
        """
        self.indexes = indexes
        self.embedder = QueryEmbedder(templates, most_pixels)

    def search(self, query: Query, index: GalleryIndex | None = None) -> Ranking:
        """Return the gallery's pictures closest to the query.

        Args:
            query: what is asked, and where.
            index: the query's gallery, for who shows more of it than the answer: between two looks at a gallery a
                new build of it can be published.

        Raises:
            RetrievalError: any of its children, worded for the person who asked.
        """
        started = time.perf_counter()
        index = index or self.indexes.get(query.gallery)
        return self.answer(index, query, self.embedder.embed(index, query), started)

    def answer(self, index: GalleryIndex, query: Query, embedded: Embedded, started: float | None = None) -> Ranking:
        """Return the pictures closest to a query whose vector is known already.

        Args:
            index: the gallery.
            query: what is asked of it; its picture and words do not count any more.
            embedded: its vector, by the query's features.
            started: when the query came, by `time.perf_counter`; None is now.

        Raises:
            QueryError: a label that the gallery does not have.
        """
        searching = time.perf_counter()
        positions, scores, duplicates = _ranked(index, query, embedded.vector)
        hits = []
        for place, (position, score) in enumerate(zip(positions, scores, strict=True), start=1):
            entry = index.entry(int(position))
            left_out = duplicates[place - 1]
            hits.append(Hit(place, entry.position, entry.id, entry.label, entry.caption, float(score), left_out))
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
        """Have the files of every gallery's model on this machine, for when the Hub is not asked any more.

        Returns:
            Why some of them cannot be had.

        Raises:
            IndexingError: a server does not tell which galleries there are.
        """
        problems = []
        for name in self.indexes.names():
            try:
                model = self.indexes.get(name).manifest.model
                choose_model(model.name, model.commit)
            except RetrievalError as error:
                problems.append(error)
        return problems

    def warm(self) -> None:
        """Load what the first search by each engine would wait for: model, matrices, ChromaDB's graphs.

        Raises:
            RetrievalError: something is missing or in use; searches that do not need it still work.
        """
        index = self.indexes.get()
        self.embedder.encoders.get(index.manifest.model)
        # The exact scan by CLIP features first, which most begin with; ChromaDB takes longest.
        for engine, features, metric in product(
            (Engine.EXACT, Engine.CHROMA), (Features.CLIP, Features.PIXELS), Metric
        ):
            rank(index, features, metric, engine, index.vectors(features)[0], 1)


def _ranked(
    index: GalleryIndex, query: Query, vector: Vectors
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.float64], list[int]]:
    """Return positions, scores and near-duplicates left out of a query's hits, as many as are asked for if possible."""
    if query.alike < KEEP_ALL and query.top_k > DISTINCT_MAX:
        raise QueryError(f"Without near-duplicates top_k must be at most {DISTINCT_MAX:,}, not {query.top_k:,}.")
    # One more tells that there are more to keep, where nothing is left out.
    count = query.top_k if query.alike >= KEEP_ALL else query.top_k + 1
    while True:
        positions, scores = rank(index, query.features, query.metric, query.engine, vector, count, query.labels)
        if query.alike >= KEEP_ALL:
            return positions, scores, [0] * len(positions)
        vectors = index.vectors(Features.CLIP)[positions]
        kept, duplicates, complete = without_duplicates(vectors, query.alike, query.top_k)
        if complete or len(positions) < count or count >= len(index):
            return positions[kept], scores[kept], duplicates
        count *= 4


def without_duplicates(vectors: Vectors, alike: float, enough: int) -> tuple[list[int], list[int], bool]:
    """Return which of some ranked pictures are kept, and how many near-duplicates each of them stands for.

    The third value says whether there were more to keep than `enough`; otherwise a longer ranking could add to both.

    A picture is left out for the first kept one whose vector has a cosine of `alike` or more with its own.

    Args:
        vectors: CLIP vectors of unit length, shape (n, d), closest picture first.
        alike: cosine, 0 to 1.
        enough: how many pictures to keep at most; none is looked at beyond.
    """
    kept: list[int] = []
    duplicates: list[int] = []
    seen = np.empty((min(enough, len(vectors)), vectors.shape[1]), np.float32)  # vectors of those kept
    for start in range(0, len(vectors), BLOCK):
        block = vectors[start : start + BLOCK]
        before = len(kept)
        near_kept: npt.NDArray[np.bool_] = np.greater_equal(block @ seen[:before].T, alike)
        stands_for = near_kept.argmax(axis=1) if before else np.zeros(len(block), np.intp)
        left_out: npt.NDArray[np.bool_] = np.any(near_kept, axis=1)
        near: npt.NDArray[np.bool_] = np.greater_equal(block @ block.T, alike)
        new: list[int] = []  # places in the block of those kept from it
        for place in range(len(block)):
            if left_out[place]:
                duplicates[stands_for[place]] += 1
            elif new and near[place, new].any():
                duplicates[before + int(near[place, new].argmax())] += 1
            elif len(kept) == enough:
                return kept, duplicates, True
            else:
                seen[len(kept)] = block[place]
                kept.append(start + place)
                duplicates.append(0)
                new.append(place)
    return kept, duplicates, False


def rank(
    index: GalleryIndex,
    features: Features,
    metric: Metric,
    engine: Engine,
    vector: Vectors,
    k: int,
    labels: tuple[str, ...] = (),
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.float64]]:
    """Return positions and scores of the k closest items, closest first, ties in gallery order.

    An engine only proposes candidates; both end in the same exact comparison in float64, so a score is the
    metric's own value whichever engine found the picture.

    Args:
        index: the gallery.
        features: which vectors are compared.
        metric: how they are compared.
        engine: who proposes candidates.
        vector: the query's plain vector, shape (d,).
        k: how many; at most all items are returned.
        labels: keep only items of these classes; empty keeps all.

    Raises:
        QueryError: a label that the gallery does not have.
    """
    vectors = index.vectors(features)
    among = index.with_labels(labels) if labels else None
    if engine is Engine.EXACT:
        return closest(metric, vector, vectors, index.scan(features).candidates(metric, vector, k, among), k)
    definition = DEFINITIONS[metric]
    # Chroma knows no L1: its neighbours by L2 are the shortlist.
    native = Metric.L2 if metric is Metric.L1 else metric
    count = max(L1_SHORTLIST, L1_FACTOR * k) if metric is Metric.L1 else k + SURPLUS
    available = len(index) if among is None else len(among)
    while True:
        positions = index.nearest(features, definition.view, vector, min(count, available), labels, among)
        # The shortlist for L1 is many times k: in float32 first.
        likely = index.scan(features).candidates(metric, vector, k, positions) if metric is Metric.L1 else positions
        found, scores = closest(metric, vector, vectors, likely, k)
        if len(positions) < count or count >= available:
            return found, scores
        # If the last hit is as far as the farthest candidate, the cut went through a tie: look further.
        last, farthest = closeness(native, score_pairs(native, vector, vectors[[found[-1], positions[-1]]]))
        if last < farthest:
            return found, scores
        count *= 4
