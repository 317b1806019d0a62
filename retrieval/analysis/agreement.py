"""How far two rankings agree: overlap, moves, Kendall's tau."""

from collections.abc import Sequence

import numpy as np

from retrieval.search.query import Ranking


def positions(ranking: Ranking) -> list[int]:
    """Return the positions of the hits in the gallery, closest first; they tell pictures apart, ids need not."""
    return [hit.position for hit in ranking.hits]


def share_found(found: Sequence[int], wanted: Sequence[int]) -> float:
    """Return the share of the wanted pictures that were found: overlap at k, or recall at k. 1 if none is wanted."""
    return len(set(found) & set(wanted)) / len(wanted) if wanted else 1.0


def moves(here: Sequence[int], there: Sequence[int]) -> tuple[int | None, ...]:
    """Return for each picture how many places higher it stands here than there; None if it is not there."""
    places = {picture: place for place, picture in enumerate(there)}
    return tuple(places[picture] - place if picture in places else None for place, picture in enumerate(here))


def move(places: int | None) -> str:
    """Return how far a hit stands above or below its place in the baseline, as an arrow and a number."""
    if places is None:
        return "new"
    return "" if places == 0 else f"↑{places}" if places > 0 else f"↓{-places}"


def kendall_tau(a: Sequence[int], b: Sequence[int]) -> float:
    """Return how far two top-k lists agree in order, from -1 to 1, over the pictures that are in either.

    It is tau-b, (C - D) / sqrt((P - A) (P - B)), with C pairs of pictures in the same order in both lists, D in
    opposite order, P all pairs, and A and B those tied in one list (Kendall, "The treatment of ties in ranking
    problems", Biometrika 33, 1945). A picture absent from a list is farther than all in it, and absent ones are
    tied with each other, since the list says no more about them: the place k + 1 of Fagin, Kumar and Sivakumar,
    "Comparing top k lists", SIAM J. Discrete Math. 17, 2003, 3. So two lists with no picture in common are at
    -2k / (3k - 1), about -0.67 and not -1: the order within either list is left open by the other.

    Two equal lists agree by 1, even where the formula is 0 / 0; a list agrees with an empty one by 0.

    Args:
        a: pictures of one list by their positions in the gallery, closest first, none twice.
        b: those of the other; the lists may differ in length.
    """
    if list(a) == list(b):
        return 1.0
    if not a or not b:
        return 0.0
    union = list(dict.fromkeys([*a, *b]))
    first, second = (_places(ranked, union) for ranked in (a, b))
    same = pairs_a = pairs_b = 0
    for i in range(len(union)):  # row by row: all pairs at once would not fit in memory for thousands of hits
        signs_a, signs_b = (np.sign(places[i + 1 :] - places[i]) for places in (first, second))
        same += int((signs_a * signs_b).sum())
        pairs_a += int(np.count_nonzero(signs_a))
        pairs_b += int(np.count_nonzero(signs_b))
    return float(same / np.sqrt(float(pairs_a) * pairs_b))


def _places(ranked: Sequence[int], union: Sequence[int]) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    places = {picture: place for place, picture in enumerate(ranked)}
    return np.array([places.get(picture, len(ranked)) for picture in union], np.int64)
