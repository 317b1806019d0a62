"""Search in ChromaDB's collections: neighbours in the metric's view, some more than are wanted."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from typing_extensions import override

from retrieval.engines.base import Candidates, GalleryVectors, OpenEngine, Positions
from retrieval.engines.item_ids import Ids, ItemIds
from retrieval.features import Vectors
from retrieval.metrics import DEFINITIONS, Metric, closeness, closest, score_pairs

if TYPE_CHECKING:
    from retrieval.engines.chroma_folder import ChromaFolder, Collections

SURPLUS = 16  # neighbours requested beyond k, so that ties at the end are seen
SHORTLIST = 100  # ChromaDB has no L1: at least this many neighbours by L2 are ordered by L1
FACTOR = 8  # and at least this many times k, which finds 99 % of the closest by raw pixels


def first_neighbours(metric: Metric, k: int) -> tuple[Metric, int]:
    """Return the metric by which ChromaDB proposes neighbours for a ranking of k, and their number at first."""
    native = DEFINITIONS[metric].neighbours or metric
    return native, k + SURPLUS if native is metric else max(SHORTLIST, FACTOR * k)


def is_enough(native: Metric, vector: Vectors, pair: Vectors) -> bool:
    """Return whether the last result, the first of a pair of vectors, is closer than the farthest neighbour.

    If not, the neighbours end within a tie, and more of them are needed.
    """
    last, farthest = closeness(native, score_pairs(native, vector, pair))
    return bool(last < farthest)


class OpenChroma(OpenEngine):
    """The collections of a gallery, opened for searching."""

    def __init__(self, gallery: GalleryVectors, collections: "Collections", folder: "ChromaFolder") -> None:
        self._gallery = gallery
        self._collections = collections
        self._folder = folder
        self._ids = ItemIds.of(gallery.ids)

    @override
    def close(self) -> None:
        self._folder.close()

    @override
    def candidates(
        self, features: str, metric: Metric, vectors: Vectors, k: int, among: Positions | None = None
    ) -> list[Candidates]:
        allowed, by, count = self._allowed(among), (features, metric), first_neighbours(metric, k)[1]
        # A graph may not lead to every item, and is slow if a filter leaves few of them.
        if allowed.count <= (k if among is None else count):
            return [Candidates(self._everything(allowed)) for _ in vectors]
        first = self._nearest(by, vectors, count, allowed)
        each = zip(vectors, first, strict=True)
        return [Candidates(self._candidates(by, vector, k, allowed, found)) for vector, found in each]

    def _candidates(
        self, by: tuple[str, Metric], vector: Vectors, k: int, allowed: "_Allowed", found: "_Nearest"
    ) -> Positions:
        features, metric = by
        vectors, count = self._gallery.vectors(features), found.count
        native, _ = first_neighbours(metric, k)
        while True:
            best, _ = closest(metric, vector, vectors, found.positions, k)
            if len(best) == k:
                last = vectors[[best[-1], found.positions[-1]]]
                if found.complete or is_enough(native, vector, last):
                    return best
            elif found.complete:
                return self._everything(allowed)
            count *= 4
            [found] = self._nearest(by, vector[None], count, allowed)

    def _everything(self, allowed: "_Allowed") -> Positions:
        return np.arange(len(self._gallery)) if allowed.positions is None else allowed.positions

    def _allowed(self, among: Positions | None) -> "_Allowed":
        if among is None:
            return _Allowed(None, None, frozenset(), len(self._gallery), len(self._ids.distinct))
        ids = np.unique(self._gallery.ids[among])
        if len(ids) <= self._collections.named_max:
            return _Allowed(among, ids, frozenset(), len(among), len(ids))
        labels = frozenset(self._gallery.labels[position] for position in among.tolist())
        passing = np.isin(self._gallery.labels, list(labels))
        return _Allowed(among, ids, labels, len(among), len(np.unique(self._gallery.ids[passing])))

    def _nearest(self, by: tuple[str, Metric], vectors: Vectors, count: int, allowed: "_Allowed") -> "list[_Nearest]":
        """Return the allowed ones of `count` nearest neighbours of each vector, shape (m, d)."""
        native, _ = first_neighbours(by[1], 1)
        asked = min(count, allowed.searched)
        key = (by[0], DEFINITIONS[native].view)
        found = []
        for each in self._collections.nearest(key, vectors, asked, allowed.ids, allowed.labels):
            complete = len(each) < asked or asked == allowed.searched
            # Of items with one id, the first ones are enough, if none of them is left out afterwards.
            positions, which = self._ids.positions(each, count if allowed.positions is None else len(self._gallery))
            positions = positions[np.argsort(which, kind="stable")]
            kept = positions if allowed.positions is None else positions[np.isin(positions, allowed.positions)]
            found.append(_Nearest(kept, count, complete))
        return found


@dataclass(frozen=True)
class _Allowed:
    """The positions that a search may return, and their distinct ids; None for all."""

    positions: Positions | None
    ids: Ids | None
    labels: frozenset[str]  # their labels, if ChromaDB filters by label because the ids are too many to list
    count: int  # number of these positions
    searched: int  # number of ids that pass ChromaDB's filter


@dataclass(frozen=True)
class _Nearest:
    """What ChromaDB found for one vector: the allowed ones of `count` neighbours, and whether there are no more."""

    positions: Positions  # closest first
    count: int
    complete: bool
