"""The images of a gallery as they are at their source, while the source still has them."""

import threading
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from retrieval import hub
from retrieval.errors import RetrievalError
from retrieval.indexing.embeddings import key_of
from retrieval.pictures.loading import read_bytes
from retrieval.storage.reader import GalleryIndex

if TYPE_CHECKING:
    from retrieval.gallery.rows import Gallery


def is_public(index: GalleryIndex) -> bool:
    """Return whether everyone can have the images of a gallery: it is bundled, or from the Hub."""
    source = index.manifest.source
    return source.bundled is not None or (source.path is None and hub.is_id(source.dataset))


class Originals:
    """Reads the files of gallery items. Nothing is downloaded. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # An entry lasts as long as its index is in use; None stands for a source that cannot be opened.
        self._opened: WeakKeyDictionary[GalleryIndex, Gallery | None] = WeakKeyDictionary()

    def read(self, index: GalleryIndex, position: int) -> bytes | None:
        """Return the bytes of an item's image; None if the source is gone, or does not have the same content now."""
        origin = index.origin(position)
        if origin.key is None:
            return None
        try:
            content = self._read(index, position, origin.path)
        except RetrievalError:
            return None
        # The manifest of an index from elsewhere can name any file, but only one that it was built from has this key.
        return content if content is not None and key_of(content) == origin.key else None

    def _read(self, index: GalleryIndex, position: int, path: str) -> bytes | None:
        source = index.manifest.source
        folder = source.path
        if folder is None and hub.is_id(source.dataset):
            folder = hub.cached("dataset", source.dataset, source.revision)
        if folder is None:
            return None
        if path:
            return read_bytes(folder / path)
        if source.path is None:  # reading rows of a dataset could download it
            return None
        gallery = self._gallery(index)
        item = gallery.item(int(index.rows[position])) if gallery else None
        return item.read() if item else None

    def _gallery(self, index: GalleryIndex) -> "Gallery | None":
        with self._lock:
            if index not in self._opened:
                from retrieval.gallery.rows import Gallery  # imports datasets

                self._opened[index] = None
                self._opened[index] = Gallery(index.manifest.source)
            return self._opened[index]
