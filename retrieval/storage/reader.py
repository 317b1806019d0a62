"""Read a published index: items, vectors, thumbnails, maps and engines of one gallery."""

import threading
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt
from PIL import Image

from retrieval.digests import check
from retrieval.engines import ENGINES
from retrieval.engines.base import EngineDamaged, GalleryVectors, OpenEngine, Positions
from retrieval.engines.chroma import ChromaEngine
from retrieval.engines.exact import ExactEngine, OpenExact, Scan
from retrieval.engines.item_ids import IDS, KEY_BYTES, POSITIONS, ItemIds, from_hex, id_of
from retrieval.engines.lock import IndexInUse
from retrieval.engines.recall import FLOOR, MeasuredRecall
from retrieval.errors import GalleryChanged, IndexingError, PictureError, QueryError
from retrieval.features import FEATURES, Vectors, default_first
from retrieval.features.base import FeatureIdentity
from retrieval.gallery.source import valid_unicode
from retrieval.installation import BUILDER
from retrieval.pictures.loading import load_picture
from retrieval.storage.engine_files import open_engine
from retrieval.storage.manifest import (
    STORE,
    Manifest,
    build_command,
    read_manifest,
    rebuild_command,
    stored_thumbnail,
    thumbnail_path,
)
from retrieval.storage.projection import Method, Projection, projection_path, read_projection
from retrieval.storage.vectors import ItemVectors

if TYPE_CHECKING:
    from retrieval.engines.chroma_server import OpenServer

PAUSE = 30.0  # seconds before another attempt to open an engine, since a rebuild can take minutes


@dataclass(frozen=True)
class Entry:
    """An item of a gallery; `position` is its index among the indexed images, from 0."""

    position: int
    id: str
    label: str
    caption: str


@dataclass(frozen=True)
class Origin:
    """Where an item comes from.

    Attributes:
        key: of the content of its image, see `retrieval.indexing.embeddings`; None in an imported index.
        path: of its file below the gallery's folder; empty if it was not a file of its own.
    """

    author: str
    license: str
    key: bytes | None
    path: str


@dataclass
class _Opening:
    """An engine that is opened on first use; after a failure, `error` is raised again until `again`."""

    lock: threading.Lock
    engine: OpenEngine | None = None
    error: IndexingError | None = None
    again: float = 0.0


class GalleryIndex:
    """The published index of one gallery. Vectors are memory-mapped; engines and maps are opened on first use.

    If the vectors are in collections on a ChromaDB server, only searches by it work, and there are no maps.
    """

    def __init__(self, folder: Path, manifest: Manifest, server: str | None = None, floor: float = FLOOR) -> None:
        """Open the published snapshot in a gallery's folder; raise IndexingError if its files are damaged.

        `server` is the address of the ChromaDB server, if any, and `floor` the recall of engines that are built here.
        """
        self.manifest = manifest
        self._server = server
        self._floor = floor
        self.snapshot = folder.resolve() / manifest.snapshot
        self._lock = threading.Lock()
        self._engines = {name: _Opening(threading.Lock()) for name in ENGINES}
        self._maps: dict[tuple[str, Method], Projection] = {}
        try:
            self._items = ItemVectors.of(self.snapshot, manifest)
            self._ids = self._open_ids() if manifest.collections else None
        except (OSError, ValueError, KeyError) as error:
            raise self._damaged(error) from error
        self._exact: OpenExact = ExactEngine().open(self._items, self.snapshot)
        if len(self) != manifest.pictures:
            raise self._damaged(f"{len(self)} of {manifest.pictures} items")

    def _open_ids(self) -> ItemIds:
        for name in (IDS, POSITIONS):
            check(self.snapshot, name, self.manifest.digests)
        return ItemIds.read(self.snapshot)

    def __len__(self) -> int:
        return len(self._items.items)

    @property
    def in_folder(self) -> GalleryVectors:
        """Items and vectors as engines are built from them; QueryError if the vectors are on a server."""
        self.check_matrices()
        return self._items

    @property
    def rows(self) -> npt.NDArray[np.int64]:
        """The row of every item in its dataset, ascending."""
        return self._items.rows

    @property
    def engines(self) -> tuple[str, ...]:
        """The names of the engines that can search the gallery, the default one first."""
        return (ChromaEngine.name,) if self.manifest.collections else tuple(ENGINES)

    def recall(self, engine: str) -> MeasuredRecall | None:
        """Return the recall of an engine that was measured when its files were built; None if it was not."""
        return None if self.manifest.collections else ENGINES[engine].recall(self.snapshot)

    def entry(self, position: int) -> Entry:
        """Return the item at a position, 0 <= position < len."""
        row = self._row(position)
        return Entry(position, row["id"], row["label"], row["caption"])

    def origin(self, position: int) -> Origin:
        """Return where the item at a position comes from, 0 <= position < len."""
        row = self._row(position)
        texts = {name: row.get(name) or "" for name in ("author", "license", "path")}
        return Origin(key=row.get("key"), **texts)

    def _row(self, position: int) -> dict[str, Any]:
        try:
            return self._items.items.row(position)
        except (OSError, ValueError) as error:
            raise self._damaged(error) from error

    def entries(self, positions: Sequence[int]) -> list[Entry]:
        """Return the items at some positions; they are read in gallery order, which is faster than one by one."""
        found = {position: self.entry(position) for position in sorted(positions)}
        return [found[position] for position in positions]

    def position(self, id: str) -> int:
        """Return the position of the first item with an id; raise QueryError if there is none."""
        found = self._items.items.position(valid_unicode(id))
        if found is None:
            raise QueryError(f"The gallery {self.manifest.gallery!r} has no image {id[:80]!r}.")
        return found

    @property
    def features(self) -> tuple[str, ...]:
        """The names of the gallery's feature types."""
        return self._items.features

    @property
    def default_features(self) -> str:
        """The feature type to use where none is asked for."""
        return default_first(self.features)[0]

    def supports_text(self, features: str) -> bool:
        """Return whether a query by a feature type can be text."""
        return FEATURES[features].supports_text(self.manifest.features[features])

    @property
    def text_needs(self) -> str:
        """A sentence on which feature types of the gallery support text."""
        phrases = [FEATURES[name].phrase for name in default_first(self.features) if self.supports_text(name)]
        if not phrases:
            return "No feature type of this gallery supports text. Search with an image."
        return f"Text search needs {' or '.join(phrases)}."

    def model(self, features: str) -> FeatureIdentity:
        """Return the model of a feature type; if it has none, the first model of the gallery."""
        return self.manifest.models.get(features, self.manifest.model)

    @property
    def labels(self) -> list[str]:
        """The label of every item, in gallery order; empty for unlabelled items."""
        return self._items.labels

    @property
    def classes(self) -> list[str]:
        """The distinct labels, sorted."""
        return [name for name in self._items.items.label_names if name]

    def with_labels(self, labels: Collection[str]) -> npt.NDArray[np.intp]:
        """Return the ascending positions of items with one of the labels; raise QueryError if no item has a label."""
        if unknown := sorted(set(labels) - set(self.classes)):
            known = ", ".join(self.classes[:20]) + (", ..." if len(self.classes) > 20 else "")
            raise QueryError(f"No image has the label {unknown[0][:40]!r}. Available labels: {known or 'none'}.")
        chosen = np.isin(self._items.items.label_names, list(labels))
        return np.flatnonzero(chosen[self._items.items.label_codes])

    def thumbnail(self, position: int) -> Path:
        """Return the path of an item's thumbnail, a JPEG file."""
        if self._ids:
            return stored_thumbnail(self.snapshot.parent.parent, self._row(position)["key"])
        return thumbnail_path(self.snapshot, int(self.rows[position]))

    def picture(self, position: int) -> Image.Image:
        """Return an item's thumbnail, decoded; raise IndexingError if it is missing or damaged."""
        try:
            return load_picture(self.thumbnail(position))
        except PictureError as error:
            raise self._unusable(
                f"The thumbnail {self.thumbnail(position).name} in `{self.snapshot}` cannot be used. {error} "
                f"Make it again: `{rebuild_command(self.snapshot.parent)}`"
            ) from error

    def at_thumbnail(self, path: Path) -> int | None:
        """Return the position of the item with this thumbnail path, or None."""
        if self._ids:
            key = from_hex(path.stem, KEY_BYTES)
            place = self._ids.position(key) if key else None
            return place if place is not None and self.thumbnail(place) == path else None
        row = int(path.stem) if path.stem.isdecimal() else -1
        position = int(np.searchsorted(self.rows, row))
        found = position < len(self) and self.rows[position] == row and self.thumbnail(position) == path
        return position if found else None

    @property
    def thumbnails(self) -> Path:
        """The folder that holds only thumbnails."""
        return (self.snapshot.parent.parent / STORE if self._ids else self.snapshot) / "thumbnails"

    def check_features(self, features: str) -> None:
        """Raise QueryError if the gallery does not have a feature type, IndexingError if its matrix is damaged."""
        if features not in self.features:
            has = (
                f"The gallery {self.manifest.gallery!r} has no {features} features; it has {', '.join(self.features)}."
            )
            names = ",".join((*self.features, features))
            add = f" Add them with `{BUILDER} --features {names}` and the other flags of its first build."
            raise QueryError(has + (add if features in FEATURES else ""))
        if not self.manifest.collections:
            self._matrix(features)

    def vectors_at(self, features: str, positions: Positions) -> Vectors:
        """Return the vectors of some items, shape (n, d), also if they are on a server; raise as `vectors` does."""
        if not self._ids:
            found: Vectors = self.vectors(features)[positions]
            return found
        self.check_features(features)
        return self._on_server().vectors(features, self._server_ids(positions))

    def _server_ids(self, positions: Positions) -> list[bytes]:
        rows = map(self._row, positions.tolist())
        return [id_of(row["key"], row["label"]) for row in rows]

    def vectors(self, features: str) -> Vectors:
        """Return the vectors of all items, shape (n, d), float32, memory-mapped.

        Raises:
            QueryError: the gallery does not have this feature type, or its vectors are on a server.
            IndexingError: the vectors are damaged.
        """
        self.check_features(features)
        self.check_matrices()
        return self._matrix(features)

    def _matrix(self, features: str) -> Vectors:
        try:
            return self._items.vectors(features)
        except (OSError, ValueError, EOFError) as error:
            raise self._damaged(error) from error

    def check_matrices(self) -> None:
        """Raise QueryError if the vectors are on a server."""
        if self.manifest.collections:
            raise QueryError(
                f"The vectors of the gallery {self.manifest.gallery!r} are on a ChromaDB server. The exact scan, maps, "
                "evaluation and publishing need them in a folder. Search with ChromaDB (`--engine chroma`), or build "
                "the gallery, or a part of it (`--limit`), in a folder of its own: `--index DIR` without `--files`."
            )

    def scan(self, features: str) -> Scan:
        """Return the exact scan over all items."""
        self.vectors(features)
        return self._exact.scan(features)

    def engine(self, name: str) -> OpenEngine:
        """Return an opened engine; its files are rebuilt from the vectors if they are missing or damaged.

        Other threads wait for a rebuild only if they want the same engine.

        Raises:
            IndexingError: another process has the files open, they cannot be read or rebuilt, or the index was closed.
        """
        if name not in self.engines:
            self.check_matrices()
        if name == ExactEngine.name:
            return self._exact
        opening = self._engines[name]
        with opening.lock:
            if opening.engine is None:
                if opening.error and time.monotonic() < opening.again:
                    raise opening.error
                try:
                    opening.engine = self._open_engine(name)
                except IndexInUse:
                    raise  # it costs nothing to find out that the other process has ended
                except IndexingError as error:
                    opening.error, opening.again = error, time.monotonic() + PAUSE
                    raise
            return opening.engine

    def _on_server(self) -> "OpenServer":
        return cast("OpenServer", self.engine(ChromaEngine.name))

    def _open_server(self, ids: ItemIds) -> OpenEngine:
        from retrieval.engines.chroma_server import ChromaServer, OpenServer  # imports chromadb, which takes a second

        if not self._server:
            raise IndexingError(
                f"The vectors of the gallery {self.manifest.gallery!r} are on a ChromaDB server. Name its address and "
                f"this folder: `--index http://HOST:PORT --files {self.snapshot.parent.parent}`"
            )
        identities = {name: self.manifest.features[name] for name in self.features}
        items = self._items.items

        def labels_of(among: Positions) -> list[str]:
            return [items.label_names[code] for code in np.unique(items.label_codes[among])]

        server = ChromaServer(self._server, self.manifest.collections, identities)
        return OpenServer(server, ids, labels_of, self._server_ids)

    def _open_engine(self, name: str) -> OpenEngine:
        if self._ids:
            return self._open_server(self._ids)
        try:
            engine = open_engine(self.snapshot, name, self._items, self._floor)
        except OSError as error:
            reason = error.strerror or error
            raise self._unusable(
                f"The files of {ENGINES[name].title} in `{self.snapshot}` cannot be used: {reason}. Try again "
                "later, or use the exact scan."
            ) from error
        except (EngineDamaged, ValueError, EOFError) as error:
            raise self._damaged(error) from error
        try:
            self._items.check_open()
        except IndexingError:
            engine.close()
            raise
        return engine

    @property
    def maps(self) -> list[tuple[str, Method]]:
        """The available maps, as pairs of feature type and method; a builder may add maps to a published index."""
        kinds = product(default_first(self.features), Method)
        return [each for each in kinds if projection_path(self.snapshot, *each).is_file()]

    def map(self, features: str, method: Method) -> Projection:
        """Return a map; raise QueryError if the gallery lacks it, IndexingError if it is damaged."""
        self.check_matrices()
        with self._lock:
            if (features, method) not in self._maps:
                try:
                    dimensions = self.manifest.dimensions(features)
                    self._maps[features, method] = read_projection(
                        self.snapshot, features, method, len(self), dimensions
                    )
                except FileNotFoundError as error:
                    raise QueryError(
                        f"The gallery {self.manifest.gallery!r} has no map of {features} by {method}. Add one with "
                        f"`{BUILDER} --map {method}` and the other flags of its first build."
                    ) from error
                except (OSError, ValueError) as error:
                    raise IndexingError(
                        f"A map of the index in `{self.snapshot}` is damaged ({error}). Recompute it with "
                        f"`{BUILDER} --map {method}` and the other flags of its first build."
                    ) from error
            return self._maps[features, method]

    def close(self) -> None:
        """Close the open engines; one that is being opened or rebuilt in another thread stops soon."""
        self._items.close()
        for opening in self._engines.values():
            if opening.lock.acquire(timeout=1):
                if opening.engine is not None:
                    opening.engine.close()
                opening.engine = None
                opening.lock.release()

    @property
    def replaced(self) -> bool:
        """Whether the gallery was built again since this snapshot was opened, so that its files may be gone."""
        published = read_manifest(self.snapshot.parent)
        return published is None or published.snapshot != self.manifest.snapshot

    def _damaged(self, reason: object) -> IndexingError:
        repair = build_command(self.snapshot.parent)
        return self._unusable(f"The index in `{self.snapshot}` is damaged ({reason}). Repair it: `{repair}`")

    def _unusable(self, message: str) -> IndexingError:
        """Return an error with a message about this snapshot's files, or about the new snapshot if there is one."""
        if self.replaced:
            return GalleryChanged(f"The gallery {self.manifest.gallery!r} was just changed. Try again.")
        return IndexingError(message)
