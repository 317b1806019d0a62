"""What a lane says about its ranking: how many results are correct, and where their scores lie among all scores."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from retrieval.features import Vectors
from retrieval.metrics import DEFINITIONS
from retrieval.search.query import Query, Ranking
from retrieval.storage.reader import GalleryIndex

BINS = 32
SAMPLE = 10_000  # images; a larger gallery shows the scores of this many, evenly spread


@dataclass(frozen=True)
class Scores:
    """The scores of a gallery's images for one query; closer ones have larger shares.

    Attributes:
        heights: of the bars of a histogram, from 0 to 1, shape (BINS,), the closest images last.
        marks: where the results are, as shares of the histogram's width from 0 to 1.
        counted: the number of images.
    """

    heights: tuple[float, ...]
    marks: tuple[float, ...]
    counted: int


def correct(ranking: Ranking, label: str) -> list[bool] | None:
    """Return for each hit whether it has the query's label; None if the label is unknown."""
    return [hit.label == label for hit in ranking.hits] if label else None


def scores_of(index: GalleryIndex, query: Query, vector: Vectors, ranking: Ranking) -> Scores:
    """Return the scores of all images for a query's vector, shape (d,), with those of its ranking marked."""
    rows = np.unique(np.linspace(0, len(index) - 1, min(len(index), SAMPLE)).astype(np.intp))
    [found] = index.scan(query.features).scores(query.metric, vector[None], rows)
    hits = np.array([hit.score for hit in ranking.hits])
    if DEFINITIONS[query.metric].smaller_is_closer:
        found, hits = -found, -hits
    together = np.concatenate([found, hits])
    low, high = float(together.min()), float(together.max())
    width = (high - low) or 1.0
    counts, _ = np.histogram(found, BINS, (low, low + width))
    return Scores(_floats(counts / counts.max()), _floats((hits - low) / width), len(rows))


def _floats(values: npt.NDArray[np.floating]) -> tuple[float, ...]:
    return tuple(round(float(each), 4) for each in values)
