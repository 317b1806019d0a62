"""ChromaDB: approximate nearest neighbours from an HNSW graph."""

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from typing_extensions import override

from retrieval.engines.base import Engine, EngineDamaged, GalleryVectors, OpenEngine, Positions
from retrieval.engines.chroma_digests import chroma_is_unchanged, delete_chroma
from retrieval.engines.separate import run_in_process
from retrieval.features import Vectors
from retrieval.metrics import DEFINITIONS, Metric, View, closeness, closest, score_pairs

if TYPE_CHECKING:
    from retrieval.engines.chroma_folder import ChromaFolder, Collections, Key

ROWS_AT_ONCE = 256  # rows per insert when the collections are filled from the gallery's vectors
SURPLUS = 16  # neighbours requested beyond k, so that ties at the end are seen
SHORTLIST = 100  # ChromaDB has no L1: at least this many neighbours by L2 are ordered by L1
FACTOR = 8  # and at least this many times k, which finds 99 % of the closest by raw pixels


class ChromaEngine(Engine):
    """ChromaDB in the folder of an index. Its files belong to one process at a time."""

    name = "chroma"
    title = "ChromaDB"

    @override
    def about(self, metric: Metric) -> str:
        about = super().about(metric)
        if (native := DEFINITIONS[metric].neighbours) is None:
            return about
        name, other = DEFINITIONS[metric].title, DEFINITIONS[native].title
        return (
            f"{self.title} does not support {name}: it finds candidates by {other}, which are sorted by {name}. {about}"
        )

    @override
    def build(self, gallery: GalleryVectors, folder: Path) -> None:
        # ChromaDB holds Python's global lock while it inserts, which would stop every other thread.
        from retrieval.engines.chroma_folder import keys_of  # imports chromadb, which takes a second

        run_in_process(fill, (gallery, folder, keys_of(gallery.features)), gallery.check_open)

    @override
    def probe(self, gallery: GalleryVectors, folder: Path) -> None:
        if not chroma_is_unchanged(folder):
            raise EngineDamaged("ChromaDB's files are missing or have changed since they were written")

    @override
    def open(self, gallery: GalleryVectors, folder: Path) -> OpenEngine:
        from retrieval.engines.chroma_folder import ChromaFolder, keys_of

        chroma = ChromaFolder(folder, reading=True)
        try:
            self.probe(gallery, chroma.build)  # after it is owned: before, another process may delete it
            return OpenChroma(gallery, chroma.open(keys_of(gallery.features)), chroma)
        except BaseException:
            chroma.close()
            raise

    @override
    def drop(self, folder: Path) -> None:
        delete_chroma(folder)


def fill(gallery: GalleryVectors, folder: Path, keys: "list[Key]") -> None:
    """Create the collections of a gallery, with these keys, in the folder of its index.

    Raises:
        IndexingError: ChromaDB cannot use the folder.
    """
    from retrieval.engines.chroma_folder import ChromaFolder

    with closing(ChromaFolder(folder, reading=False)) as chroma:
        collections = chroma.open(keys)
        for start in range(0, len(gallery.rows), ROWS_AT_ONCE):
            part = slice(start, start + ROWS_AT_ONCE)
            vectors = {each: gallery.vectors(each)[part] for each in gallery.features}
            collections.insert(gallery.rows[part].tolist(), gallery.metadata(part), vectors)
        chroma.sound = True


class OpenChroma(OpenEngine):
    """The collections of a gallery, opened for searching."""

    def __init__(self, gallery: GalleryVectors, collections: "Collections", folder: "ChromaFolder") -> None:
        self._gallery = gallery
        self._collections = collections
        self._folder = folder

    @override
    def close(self) -> None:
        self._folder.close()

    @override
    def candidates(
        self, features: str, metric: Metric, vectors: Vectors, k: int, among: Positions | None = None
    ) -> list[Positions]:
        allowed = self._allowed(among)
        return [self._candidates((features, metric), vector, k, allowed) for vector in vectors]

    def _candidates(self, by: tuple[str, Metric], vector: Vectors, k: int, allowed: "_Allowed") -> Positions:
        features, metric = by
        vectors = self._gallery.vectors(features)
        native = DEFINITIONS[metric].neighbours or metric
        count = k + SURPLUS if native is metric else max(SHORTLIST, FACTOR * k)
        while True:
            asked = min(count, allowed.searched)
            found, complete = self._nearest((features, DEFINITIONS[native].view), vector, asked, allowed)
            best, _ = closest(metric, vector, vectors, found, k)
            if complete:
                return best
            # If the last result is as far as the farthest candidate, the cut went through a tie: look further.
            if len(best) == k:
                last, farthest = closeness(native, score_pairs(native, vector, vectors[[best[-1], found[-1]]]))
                if last < farthest:
                    return best
            count *= 4

    def _allowed(self, among: Positions | None) -> "_Allowed":
        if among is None:
            return _Allowed(None, frozenset(), len(self._gallery.rows))
        rows = self._gallery.rows[among]
        if len(rows) <= self._collections.named_max:
            return _Allowed(rows, frozenset(), len(rows))
        labels = frozenset(self._gallery.labels[position] for position in among.tolist())
        return _Allowed(rows, labels, sum(label in labels for label in self._gallery.labels))

    def _nearest(
        self, key: tuple[str, View], vector: Vectors, count: int, allowed: "_Allowed"
    ) -> tuple[Positions, bool]:
        """Return the allowed ones of `count` nearest neighbours, closest first, and whether there are no more."""
        rows = self._gallery.rows
        found = self._collections.nearest(key, vector, count, allowed.rows, allowed.labels)
        complete = len(found) < count or count == allowed.searched
        positions = np.searchsorted(rows, found)
        if allowed.rows is not None:
            positions = positions[np.isin(found, allowed.rows)]
        return positions, complete


@dataclass(frozen=True)
class _Allowed:
    """The rows that a search may return; None for all."""

    rows: npt.NDArray[np.int64] | None
    labels: frozenset[str]  # their labels, if ChromaDB filters by label because the rows are too many to list
    searched: int  # number of items that pass ChromaDB's filter
