"""Fill ChromaDB's collections with a gallery's vectors, or bring those of an earlier state up to date."""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np

from retrieval.engines.base import Earlier, GalleryVectors, Positions
from retrieval.engines.chroma_digests import RECALL
from retrieval.engines.chroma_folder import ChromaFolder, Collections, Key
from retrieval.engines.chroma_tuning import tuned
from retrieval.engines.item_ids import ItemIds
from retrieval.engines.recall import MeasuredRecall, read_recall, write_recall

AT_ONCE = 256  # images in one call
MOST_CHANGED = 0.2  # share of the images; a graph keeps what was deleted, so it grows with every change


def fill(gallery: GalleryVectors, folder: Path, keys: Sequence[Key], floor: float, earlier: Earlier | None) -> None:
    """Create the collections of a gallery, with these keys, in the folder of its index, and measure their recall.

    Those of an earlier state are copied and changed, unless too much has changed or their recall falls below the floor.

    Raises:
        IndexingError: ChromaDB cannot use the folder.
    """
    with closing(ChromaFolder(folder, reading=False)) as chroma:
        measured = _updated(gallery, chroma, keys, floor, earlier) if earlier else None
        if measured is None:
            chroma.delete()
            collections, positions = chroma.open(keys), np.sort(ItemIds.of(gallery.ids).first_positions)
            for key in keys:
                _insert(gallery, collections, key, positions)
            measured = tuned(gallery, chroma, keys, floor)
        write_recall(folder / RECALL, measured)
        chroma.sound = True


def _updated(
    gallery: GalleryVectors, chroma: ChromaFolder, keys: Sequence[Key], floor: float, earlier: Earlier
) -> MeasuredRecall | None:
    """Change a copy of the collections of an earlier state; None if they cannot be used."""
    before = read_recall(earlier.folder / RECALL)
    ids, present = ItemIds.of(gallery.ids), np.unique(earlier.gallery.ids)
    missing, gone = np.setdiff1d(ids.distinct, present), np.setdiff1d(present, ids.distinct)
    if before is None:
        return None
    changed = before.changed + len(missing) + len(gone)
    if changed > MOST_CHANGED * len(ids.distinct) or not chroma.copy(earlier.folder):
        return None
    kept = [key for key in keys if key[0] in earlier.gallery.features]
    collections = chroma.open(keys, kept=kept)
    if (len(kept), changed, floor) == (len(keys), before.changed, before.floor):
        return before
    for key in kept:
        collections.delete(key, gone)
    for key in keys:
        wanted = missing if key in kept else ids.distinct
        _insert(gallery, collections, key, np.sort(ids.first_positions[np.searchsorted(ids.distinct, wanted)]))
    points = [each for each in before.curve if each.features in earlier.gallery.features]
    measured = replace(tuned(gallery, chroma, keys, floor, points), changed=changed)
    return measured if _reaches(measured, floor) or not _reaches(before, floor) else None


def _insert(gallery: GalleryVectors, collections: Collections, key: Key, positions: Positions) -> None:
    for start in range(0, len(positions), AT_ONCE):
        some = positions[start : start + AT_ONCE]
        labels = [gallery.labels[position] for position in some.tolist()]
        collections.insert(key, gallery.ids[some], labels, gallery.vectors(key[0])[some])


def _reaches(measured: MeasuredRecall, floor: float) -> bool:
    return all(each.recall >= floor for each in measured.curve if each.chosen)
