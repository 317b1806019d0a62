"""All galleries of an index folder."""

import threading
from collections import defaultdict
from contextlib import suppress
from pathlib import Path

from retrieval.engines.recall import FLOOR
from retrieval.errors import IndexingError, QueryError, RetrievalError
from retrieval.features import default_first
from retrieval.gallery.source import DEFAULT_GALLERY
from retrieval.installation import BUILDER
from retrieval.storage.manifest import FILE, Manifest, read_manifest
from retrieval.storage.reader import GalleryIndex


class Indexes:
    """All galleries of an index folder. Thread-safe.

    A newly published snapshot is picked up by the next call. `first` is the default gallery; without it, the default is
    the bundled photos if they are there, otherwise the first one by name. `server` is the address of the ChromaDB
    server that holds the vectors of galleries that were built for one, and `floor` the recall@10 that engines must
    reach whose files have to be built.
    """

    def __init__(self, root: Path, first: str | None = None, server: str | None = None, floor: float = FLOOR) -> None:
        self.root = root
        self.server = server
        self._floor = floor
        self._first = first or DEFAULT_GALLERY
        self._open: dict[str, tuple[int, GalleryIndex]] = {}
        self._lock = threading.Lock()  # of the fields around it; never held while waiting
        self._opening: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)

    def names(self) -> list[str]:
        """Return the names of the published galleries, the default one first."""
        names = sorted(path.parent.name for path in self.root.glob(f"*/{FILE}"))
        with self._lock:
            for gone in self._open.keys() - names:  # renamed or deleted; running searches keep their snapshot
                del self._open[gone]
        return sorted(names, key=lambda name: name != self._first)

    def manifest(self, name: str) -> Manifest | None:
        """Return the manifest of a gallery, or None; raise IndexingError if it cannot be read."""
        return read_manifest(self.root / name)

    def features(self) -> list[str]:
        """Return the feature types of all galleries whose manifests can be read, the default one first."""
        found = dict[str, None]()
        for name in self.names():
            with suppress(RetrievalError):
                if manifest := self.manifest(name):
                    found |= dict.fromkeys(manifest.known)
        return default_first(found)

    def get(self, name: str = "") -> GalleryIndex:
        """Return the index of a gallery; an empty name stands for the default one.

        Raises:
            QueryError: there is no gallery of that name.
            IndexingError: nothing is published, or the index cannot be read.
        """
        names = self.names()
        if not names:
            raise self._no_index()
        if name:
            self.check_name(name)
        name = name or names[0]
        if known := self._known(name):
            return known
        with self._lock:
            opening = self._opening[name]
        with opening:  # another thread that needs this gallery waits here and then finds it open
            while (known := self._known(name)) is None:
                version = self._version(name)
                manifest = self.manifest(name)
                if version is None or manifest is None:
                    raise IndexingError(f"The gallery {name!r} has just been removed. Choose another one.")
                try:
                    index = GalleryIndex(self.root / name, manifest, self.server, self._floor)
                except IndexingError:
                    if self._version(name) == version:
                        raise
                    continue  # it was built again in the meantime, and the old snapshot deleted
                with self._lock:
                    # `ChromaFolder` releases the old snapshot when the last search in it has ended.
                    self._open[name] = (version, index)
            return known

    def check_name(self, name: str) -> None:
        """Raise QueryError if there is no gallery of that name."""
        if name not in (names := self.names()):
            raise QueryError(f"There is no gallery {name[:80]!r}. Available galleries: {', '.join(names) or 'none'}.")

    def _known(self, name: str) -> GalleryIndex | None:
        """Return the opened index of a gallery if it is the published one."""
        version = self._version(name)
        with self._lock:
            opened, index = self._open.get(name, (None, None))
        return index if version is not None and opened == version else None

    def _version(self, name: str) -> int | None:
        """Return a number that changes whenever a snapshot is published, or None if there is none."""
        try:
            return (self.root / name / FILE).stat().st_mtime_ns
        except OSError:
            return None

    def _no_index(self) -> IndexingError:
        if self.root.exists() and not self.root.is_dir():
            return IndexingError(f"`{self.root}` is a file. Name the folder of an index with `--index`.")
        return IndexingError(f"There is no finished index in `{self.root}`. Build one: `{BUILDER} --index {self.root}`")

    def close(self) -> None:
        """Close every opened index."""
        with self._lock:
            for _, index in self._open.values():
                index.close()
            self._open.clear()
