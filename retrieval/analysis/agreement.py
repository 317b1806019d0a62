"""Measure how far two rankings agree: overlap, rank moves, Kendall's tau."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from retrieval.search.query import Ranking


def positions(ranking: Ranking) -> list[int]:
    """Return the gallery positions of the hits, closest first; unlike ids, positions are unique."""
    return [hit.position for hit in ranking.hits]


def share_found(found: Sequence[int], wanted: Sequence[int]) -> float:
    """Return the share of `wanted` that is in `found`: overlap@k or recall@k; 1 if `wanted` is empty."""
    return len(set(found) & set(wanted)) / len(wanted) if wanted else 1.0


def moves(here: Sequence[int], there: Sequence[int]) -> tuple[int | None, ...]:
    """Return for each image by how many ranks it is higher in `here` than in `there`; None if it is not in `there`."""
    places = {picture: place for place, picture in enumerate(there)}
    return tuple(places[picture] - place if picture in places else None for place, picture in enumerate(here))


def hits_with_moves(ranking: Ranking, moved: Sequence[int | None]) -> list[dict[str, Any]]:
    """Return the JSON form of the hits with their `moves`."""
    return [hit.to_json() | {"move": each} for hit, each in zip(ranking.hits, moved, strict=True)]


def move(places: int | None) -> str:
    """Return how many ranks a hit is above or below its rank in the baseline, as an arrow and a number."""
    if places is None:
        return "new"
    return "" if places == 0 else f"↑{places}" if places > 0 else f"↓{-places}"


def kendall_tau(a: Sequence[int], b: Sequence[int]) -> float:
    """Return Kendall's tau-b of two top-k lists, from -1 to 1, over all images in either list.

    It is (C - D) / sqrt((P - A) (P - B)), with C pairs of images in the same order in both lists, D pairs in opposite
    order, P pairs in all, and A and B pairs tied in the one or the other list (Kendall, "The treatment of ties in
    ranking problems", Biometrika 33, 1945). Images that are missing from a list are tied at rank k + 1 (Fagin, Kumar
    and Sivakumar, "Comparing top k lists", SIAM J. Discrete Math. 17, 2003, section 3). Two lists without a common
    image therefore have -2k / (3k - 1), about -0.67 and not -1, since neither list contradicts the order in the other.

    The value is 1 for two equal lists, even where the formula is 0 / 0, and 0 if only one list is empty. The lists are
    gallery positions, closest first, without repetitions; their lengths may differ.
    """
    if list(a) == list(b):
        return 1.0
    if not a or not b:
        return 0.0
    union = list(dict.fromkeys([*a, *b]))
    first, second = (_places(ranked, union) for ranked in (a, b))
    same = pairs_a = pairs_b = 0
    for i in range(len(union)):  # row by row, since all pairs of thousands of hits would not fit in memory
        signs_a, signs_b = (np.sign(places[i + 1 :] - places[i]) for places in (first, second))
        same += int((signs_a * signs_b).sum())
        pairs_a += int(np.count_nonzero(signs_a))
        pairs_b += int(np.count_nonzero(signs_b))
    return float(same / np.sqrt(float(pairs_a) * pairs_b))


def _places(ranked: Sequence[int], union: Sequence[int]) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    places = {picture: place for place, picture in enumerate(ranked)}
    return np.array([places.get(picture, len(ranked)) for picture in union], np.int64)
