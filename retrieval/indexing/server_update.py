"""Bring the collections of a gallery on a ChromaDB server up to date with a snapshot, by upsert and delete.

Before a snapshot is published, its images are inserted; afterwards, those that it does not have are deleted. Readers of
either snapshot therefore find all their images, and ignore the others. It can be stopped at any time and repeated.
"""

import re
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np

from retrieval.engines.chroma_folder import Key
from retrieval.engines.chroma_server import ChromaServer, names_of
from retrieval.engines.item_ids import ID_BYTES, Ids, ItemIds, as_hex, from_hex, id_array, known, with_keys
from retrieval.features import Vectors
from retrieval.features.base import FeatureIdentity
from retrieval.files import whole_file
from retrieval.indexing.embeddings import EmbeddingStore, PartDamaged
from retrieval.storage.items import Items
from retrieval.storage.manifest import Manifest

NAME = "collections"  # the file with the beginning of the collections' names
NAMED = 40  # characters of the gallery's name in it
ROWS_AT_ONCE = 4096

Progress = Callable[[int, int], None]  # entries done, of how many


def collections_of(gallery: Path) -> str:
    """Return how the names of a gallery's collections begin, which is decided once; raise OSError if that fails.

    It has a random part, since other folders with a gallery of this name can use the same server.
    """
    path = gallery / NAME
    if not path.exists():
        named = re.sub("[^a-zA-Z0-9]+", "-", gallery.name)[:NAMED].strip("-")
        with whole_file(path) as file:
            file.write(f"{named or 'gallery'}-{uuid.uuid4().hex[:12]}".encode())
    return path.read_text(encoding="utf-8")


class Update:
    """The update of all collections of a gallery to a snapshot."""

    def __init__(
        self,
        url: str,
        snapshot: Path,
        collections: str,
        features: Mapping[str, FeatureIdentity],
        progress: Progress = lambda done, total: None,
    ) -> None:
        """Connect to the server; raise IndexingError if it cannot be used."""
        self.server = ChromaServer(url, collections, features)
        self._features = features
        self._progress = progress
        self._ids = ItemIds.read(snapshot)
        self._items = Items(snapshot)
        self.wanted = self._ids.distinct

    def insert(self, store: EmbeddingStore, published: Ids | None, again: bool = False) -> None:
        """Insert what is missing, from the parts of the store.

        Args:
            store: the store.
            published: the ids of the last snapshot. A collection with as many entries has exactly these, because it
                never lacks any of them; only if it has others, its ids are listed.
            again: insert everything again, whatever is there.

        Raises:
            PartDamaged: a vector is missing in the store, and has to be computed again.
            IndexingError: the server cannot be used.
        """
        self.server.create()
        missing = {
            key: self.wanted if again else np.setdiff1d(self.wanted, self._present(key, published))
            for key in self.server.names
        }
        left = {key: np.ones(len(ids), np.bool_) for key, ids in missing.items()}
        total = sum(map(len, missing.values()))
        for features, identity in self._features.items():
            keys = [key for key in self.server.names if key[0] == features and len(missing[key])]
            for part_keys, vectors in _parts(store, features, identity) if keys else ():
                for key in keys:
                    places, rows = with_keys(missing[key], part_keys)
                    ids = missing[key][places]
                    self.server.upsert(key, ids, self._labels(ids), vectors[rows])
                    left[key][places] = False
                    self._progress(total - sum(int(each.sum()) for each in left.values()), total)
            if lost := max((int(left[key].sum()) for key in keys), default=0):
                raise PartDamaged(f"{lost:,} vectors of {features} are missing in the store. They are computed again.")

    def delete_others(self, replaced: Ids | None) -> None:
        """Delete the entries that the snapshot does not have; `replaced` has the ids of the snapshot before."""
        gone = [] if replaced is None else as_hex(np.setdiff1d(replaced, self.wanted))
        for key in self.server.names:
            self.server.delete(key, gone)
            if self.server.count(key) != len(self.wanted):  # a killed build has left more
                self.server.delete(key, [each for page in self.server.ids(key) for each in self._others(page)])

    def drop(self, replaced: Manifest) -> None:
        """Delete the collections of a replaced snapshot that this one does not use."""
        if replaced.collections:
            old = names_of(replaced.collections, replaced.known).values()
            self.server.drop([name for name in old if name not in self.server.names.values()])

    def differences(self) -> Iterator[str]:
        """Yield a sentence for each collection that does not have exactly the images of the snapshot."""
        for key, name in self.server.names.items():
            count, others = 0, 0
            for page in self.server.ids(key):
                count, others = count + len(page), others + len(self._others(page))
            lacking = len(self.wanted) - (count - others)
            if lacking or others:
                yield f"the collection {name} lacks {lacking:,} images and has {others:,} others"

    def _present(self, key: Key, published: Ids | None) -> Ids:
        if published is not None and self.server.count(key) == len(published):
            return published
        return self._listed(key)

    def _listed(self, key: Key) -> Ids:
        found = (from_hex(each) for page in self.server.ids(key) for each in page)
        return np.unique(id_array(each for each in found if each))

    def _others(self, page: list[str]) -> list[str]:
        """Return those ids of a collection that are not wanted."""
        ids = id_array(from_hex(each) or bytes(ID_BYTES) for each in page)
        return [each for each, wanted in zip(page, known(self.wanted, ids), strict=True) if not wanted]

    def _labels(self, ids: Ids) -> list[str]:
        places = np.searchsorted(self.wanted, ids)
        codes = self._items.label_codes[self._ids.first_positions[places]]
        return [self._items.label_names[code] for code in codes.tolist()]


def ids_of(folder: Path, published: Manifest | None) -> Ids | None:
    """Return the ids of a published snapshot in collections; None without one, or if it is damaged."""
    try:
        return ItemIds.read(folder / published.snapshot).distinct if published and published.collections else None
    except (OSError, ValueError):
        return None


def _parts(store: EmbeddingStore, features: str, identity: FeatureIdentity) -> Iterator[tuple[list[bytes], Vectors]]:
    """Yield the keys and vectors of each part of the store, at most `ROWS_AT_ONCE` at once."""
    for _, part in store.vectors(features, identity).read():
        for start in range(0, part.num_rows, ROWS_AT_ONCE):
            some = part.slice(start, ROWS_AT_ONCE).combine_chunks()
            flat = some["vector"].combine_chunks().flatten().to_numpy()
            yield some["key"].to_pylist(), flat.reshape(-1, identity.dimensions)
