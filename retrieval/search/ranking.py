"""The k closest items of a gallery."""

import numpy as np
import numpy.typing as npt

from retrieval.engines.base import Positions
from retrieval.features import Vectors
from retrieval.metrics import closest
from retrieval.search.query import Combination
from retrieval.storage.reader import GalleryIndex


def rank(
    index: GalleryIndex, by: Combination, vector: Vectors, k: int, among: Positions | None = None
) -> tuple[Positions, npt.NDArray[np.float64]]:
    """Return positions and exact scores of the k items closest to a vector of shape (d,), ties in gallery order.

    `among` lists the only positions allowed, ascending.
    """
    index.check_features(by.features)
    [found] = index.engine(by.engine).candidates(by.features, by.metric, vector[None], k, among)
    if found.vectors is None:
        return closest(by.metric, vector, index.vectors(by.features), found.positions, k)
    places, scores = closest(by.metric, vector, found.vectors, np.arange(len(found.positions)), k)
    return found.positions[places], scores
