"""One vector from a query and examples for and against it, by Rocchio's formula."""

import math
from collections.abc import Sequence

import numpy as np

from retrieval.features import Vectors

MORE_WEIGHT = 0.75
LESS_WEIGHT = 0.5


def rocchio(start: Vectors, more: Sequence[Vectors], less: Sequence[Vectors]) -> Vectors:
    """Return start + MORE_WEIGHT * mean(more) - LESS_WEIGHT * mean(less), at unit length; all have shape (d,).

    The examples are scaled to unit length first, and an empty list counts as zero. The formula is Rocchio's (1971,
    "Relevance feedback in information retrieval"), in the form of Manning, Raghavan and Schütze, *Introduction to
    Information Retrieval*, 9.1.1, which suggests weights of 0.75 and 0.15. More weight on what to avoid finds more with
    every built-in feature type, on the bundled photos: see `benchmarks/feedback.py`.
    """
    found = start.copy()
    for examples, weight in ((more, MORE_WEIGHT), (less, -LESS_WEIGHT)):
        for each in examples:
            found += np.float32(weight / len(examples)) * unit(each)
    return unit(found)


def unit(vector: Vectors) -> Vectors:
    """Return a vector at length 1; zero stays zero."""
    norm = length(vector)
    return vector / np.float32(norm) if norm > 0 else vector


def length(vector: Vectors) -> float:
    """Return the Euclidean length of a vector."""
    return math.sqrt(vector @ vector)
