"""All galleries of an index."""

import logging
import threading
from collections import defaultdict
from pathlib import Path

from retrieval.errors import IndexingError, QueryError, RetrievalError
from retrieval.gallery.source import DEFAULT_GALLERY
from retrieval.storage.folder import FolderLocation
from retrieval.storage.location import Location
from retrieval.storage.reader import GalleryIndex
from retrieval.storage.server.address import Server

log = logging.getLogger(__name__)


class Indexes:
    """All galleries of an index, in a folder or on a server. Thread-safe.

    A newly published build is picked up by the next call. `first` is the default gallery; without it, the default is
    the bundled photos if they are there, otherwise the first one by name.
    """

    def __init__(self, root: Path | Server, first: str | None = None) -> None:
        self.root = root
        self.location = location_of(root)
        self._first = first or DEFAULT_GALLERY
        self._open: dict[str, tuple[str, GalleryIndex]] = {}
        self._lock = threading.Lock()  # of the fields around it; never held while waiting
        self._opening: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        self._fetching: threading.Thread | None = None

    def names(self) -> list[str]:
        """Return the names of the published galleries, the default one first."""
        return sorted(self.location.names(), key=lambda name: name != self._first)

    def get(self, name: str = "") -> GalleryIndex:
        """Return the index of a gallery; an empty name stands for the default one.

        Raises:
            QueryError: there is no gallery of that name.
            IndexingError: nothing is published, or the index cannot be read.
        """
        names = self.names()
        if not names:
            raise self.location.no_index_error()
        if name and name not in names:
            raise QueryError(f"There is no gallery {name[:80]!r}. Available galleries: {', '.join(names)}.")
        name = name or names[0]
        version = self.location.version(name)
        with self._lock:
            known = self._open.get(name)
            opening = self._opening[name]
        if known and known[0] == version:
            return known[1]
        if known and not self.location.is_local(name):
            self._fetch(name)  # searches use the old build until the new one is downloaded
            return known[1]
        with opening:  # another thread that needs this gallery waits here and then finds it open
            while True:
                version = self.location.version(name)
                with self._lock:
                    known = self._open.get(name)
                if known and known[0] == version:
                    return known[1]
                published = self.location.published(name)
                if version is None or published is None:
                    raise IndexingError(f"The gallery {name!r} has just been removed. Choose another one.")
                try:
                    index = GalleryIndex(published)
                except IndexingError:
                    if self.location.version(name) == version:
                        raise
                    continue  # it was rebuilt in the meantime, and the old build deleted
                with self._lock:
                    # `ChromaFolder` releases the old build when the last search in it has ended.
                    self._open[name] = (version, index)
                return index

    def _fetch(self, name: str) -> None:
        """Download the published build of a gallery in the background, one gallery at a time."""

        def fetch() -> None:
            try:
                self.location.published(name)
            except RetrievalError as error:
                log.warning("%s", error)

        with self._lock:
            if self._fetching is None or not self._fetching.is_alive():
                self._fetching = threading.Thread(target=fetch, name=f"fetch {name}", daemon=True)
                self._fetching.start()

    def close(self) -> None:
        """Close every opened index."""
        with self._lock:
            for _, index in self._open.values():
                index.close()
            self._open.clear()
        self.location.close()


def location_of(index: Path | Server) -> Location:
    """Return the location for an index folder or server; nothing is opened yet."""
    if isinstance(index, Server):
        from retrieval.storage.server.location import ServerLocation  # imports chromadb

        return ServerLocation(index)
    return FolderLocation(index)
