"""The k closest items of a gallery."""

import numpy as np
import numpy.typing as npt

from retrieval.features import Features, Vectors
from retrieval.metrics import DEFINITIONS, Metric, closeness, closest, score_pairs
from retrieval.search.query import Engine
from retrieval.storage.reader import GalleryIndex

SURPLUS = 16  # neighbours asked of Chroma beyond k, so that ties at the end are seen


L1_SHORTLIST = 100  # neighbours by L2 among which the closest by L1 are looked for, at least


L1_FACTOR = 8  # ... and at least so many times k: finds 99 % by raw pixels; 20 times find all, in three times the time


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
