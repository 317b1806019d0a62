"""Build the index of a gallery: items -> embedding store -> published snapshot. A stopped build can be resumed."""

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from hashlib import sha256
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING

from retrieval.digests import check
from retrieval.engines import ENGINES
from retrieval.engines.base import Earlier
from retrieval.engines.lock import held
from retrieval.engines.recall import FLOOR
from retrieval.errors import IndexingError, PictureError, disk_errors
from retrieval.features.base import FeatureSet
from retrieval.gallery.rows import Gallery
from retrieval.gallery.source import Stamp
from retrieval.indexing.embed import THUMBNAIL_SIZE, Embedder
from retrieval.indexing.embeddings import EmbeddingStore, PartDamaged, key_of
from retrieval.indexing.fit_projection import keep_tsne, write_projections
from retrieval.indexing.outcome import Outcome, reasons
from retrieval.indexing.progress import BuildCallbacks
from retrieval.indexing.publish import (
    SnapshotItem,
    background_of,
    keys_of,
    known_stamps,
    next_snapshot,
    publish,
    sweep,
    uncertain_keys,
    write_server_snapshot,
    write_snapshot,
)
from retrieval.storage.engine_files import build_engine
from retrieval.storage.items import ITEMS
from retrieval.storage.manifest import FORMAT, SKIPPED_LISTED, STORE, Changes, Manifest, Skipped, read_manifest, size_of
from retrieval.storage.projection import Method, read_projection
from retrieval.storage.vectors import ItemVectors

if TYPE_CHECKING:
    from retrieval.indexing.server_update import Update

log = logging.getLogger(__name__)

UNCERTAIN_NS = 2 * 10**9  # the coarsest time that a file system records
ATTEMPTS = 3  # at a snapshot, since parts of the store can turn out to be damaged


@dataclass(frozen=True)
class BuildPlan:
    """What to build, from which dataset, and how."""

    index: Path  # may hold several galleries
    name: str
    gallery: Gallery
    features: Mapping[str, FeatureSet]  # by the name of the feature type
    workers: int  # threads that decode and embed
    batch_size: int | None = None  # images in one forward pass; None: as many as the model prefers
    rebuild: bool = False  # embed everything again, and replace a gallery of another dataset
    tsne: bool = False  # add t-SNE maps to the PCA maps
    complete: bool = True  # with maps and the files of engines
    recall_floor: float = FLOOR  # of approximate engines
    server: str | None = None  # the address of the ChromaDB server that gets the vectors, in place of matrices and maps

    @property
    def methods(self) -> tuple[Method, ...]:
        """The kinds of maps to compute."""
        if self.server or not self.complete:
            return ()
        return tuple(Method) if self.tsne else (Method.PCA,)

    def fingerprint(self) -> str:
        """Return a digest of everything that determines the contents of the index."""
        identities = {name: each.identity for name, each in self.features.items()}
        seen = (self.gallery.fingerprint, sorted(self.gallery.ignored.items()), self.gallery.notes)
        parts = (FORMAT, seen, identities, THUMBNAIL_SIZE, *(["server"] if self.server else []))
        return sha256(repr(parts).encode()).hexdigest()[:16]


def build_index(plan: BuildPlan, callbacks: BuildCallbacks | None = None) -> Outcome:
    """Bring the index of a gallery up to date and publish it.

    A new snapshot replaces the published one only when it is complete, so that readers never see half an index. If the
    gallery has not changed, only missing maps and files of engines are added.

    Raises:
        IndexingError: the gallery's name belongs to another dataset, or the index is in use or not writable.
        GalleryError: the dataset cannot be read.
    """
    _check_place(plan)
    with held(plan.index / plan.name):  # no other builder changes the gallery
        EmbeddingStore(plan.index).wait_for_prune()
        return _Run(plan, callbacks or BuildCallbacks()).run()


def embed_rows(plan: BuildPlan, callbacks: BuildCallbacks, wanted: Callable[[int], bool]) -> tuple[int, int]:
    """Embed the rows of a gallery that are `wanted`, by their number, without publishing anything.

    Returns:
        The number of these rows, and how many of them were embedded now.
    """
    _check_place(plan)
    store = EmbeddingStore(plan.index)
    items = (item for item in plan.gallery.items() if wanted(item.row))
    with store.in_use():
        embedder = Embedder(store, plan.features, plan.batch_size)
        with closing(embedder.run(items, {}, plan.workers)) as counts:
            for count in counts:
                callbacks.progress(count, None, embedder.reused)
    return len(embedder.read), len(embedder.embedded)


def _check_place(plan: BuildPlan) -> None:
    if plan.name == STORE:
        raise IndexingError(f"The folder {STORE!r} of an index holds the embeddings. Choose another `--gallery`.")
    source = plan.gallery.source.path
    if source and source.is_dir() and (plan.index / plan.name).resolve().is_relative_to(source):
        raise IndexingError(
            f"The gallery's folder `{plan.index / plan.name}` is inside the dataset `{source}`, so its thumbnails "
            "would be indexed as images. Choose another folder with `--index`."
        )


class _Run:
    def __init__(self, plan: BuildPlan, callbacks: BuildCallbacks) -> None:
        self._plan = plan
        self._folder = plan.index / plan.name
        self._callbacks = callbacks
        self._started = time.perf_counter()
        # A file with a later time may have changed again without a new time.
        self._latest = plan.gallery.opened_ns - UNCERTAIN_NS
        self._fingerprint = plan.fingerprint()
        self._store = EmbeddingStore(plan.index)

    def run(self) -> Outcome:
        plan = self._plan
        published = self._published()
        if published or not plan.rebuild:  # unless the manifest cannot be read
            sweep(self._folder)  # of what killed builds left
        if published and not plan.rebuild:
            if published.source.identity != plan.gallery.source.identity:
                raise IndexingError(
                    f"The gallery {plan.name!r} was built from another dataset ({published.source.dataset}). "
                    "Choose another name with `--gallery`, or replace the gallery with `--rebuild`."
                )
            same = published.fingerprint == self._fingerprint and not published.retry
            if same and self._is_whole(published) and not self._recent_file_changed(published):
                with suppress(PartDamaged):  # then the images are embedded again
                    return self._complete(published, None, already_done=True)
        for attempt in range(ATTEMPTS):
            embedder = Embedder(self._store, plan.features, plan.batch_size, plan.rebuild and attempt == 0)
            self._embed(embedder, published)
            try:
                manifest = self._publish(embedder, published)
                break
            except PartDamaged as error:
                log.warning("%s", error)
        else:
            raise IndexingError(
                f"The embeddings in `{self._store.folder}` were damaged {ATTEMPTS} times. Check the disk."
            )
        return self._complete(manifest, published, already_done=False)

    def _published(self) -> Manifest | None:
        try:
            return read_manifest(self._folder)
        except IndexingError:
            if not self._plan.rebuild:
                raise
            return None  # a rebuild replaces a manifest that cannot be read

    def _is_whole(self, manifest: Manifest) -> bool:
        """Return whether the items and matrices are as they were written; if not, they are written again."""
        try:
            for name in manifest.digests:
                check(self._folder / manifest.snapshot, name, manifest.digests)
        except (OSError, ValueError) as error:
            log.warning("The index in `%s` is damaged (%s) and is written again.", self._folder, error)
            return False
        return True

    def _recent_file_changed(self, published: Manifest) -> bool:
        """Return whether a file has changed whose time does not tell, because it was new at the last build."""
        keys = uncertain_keys(self._folder / published.snapshot)
        files = takewhile(lambda item: item.stamp, self._plan.gallery.items())  # none in a dataset of rows
        try:
            return bool(keys) and any(item.id in keys and key_of(item.read()) != keys[item.id] for item in files)
        except PictureError:
            return True

    def _embed(self, embedder: Embedder, published: Manifest | None) -> None:
        plan, known = self._plan, dict[Stamp, bytes]()
        if published and not plan.rebuild:
            try:
                check(self._folder / published.snapshot, ITEMS, published.digests)
                known = known_stamps(self._folder / published.snapshot)
            except (OSError, ValueError) as error:
                log.warning("Every file is read again, because the last snapshot is damaged (%s).", error)
        with closing(embedder.run(plan.gallery.items(), known, plan.workers)) as counts:
            for count in counts:
                self._callbacks.progress(count, plan.gallery.total, embedder.reused)

    def _publish(self, embedder: Embedder, published: Manifest | None) -> Manifest:
        """Write a snapshot and make it visible."""
        plan = self._plan
        self._callbacks.finishing()
        items, skipped = list[SnapshotItem](), list[Skipped]()
        for each in embedder.read:
            if each.key in embedder.pictures:
                stamp = each.item.stamp
                if stamp and stamp.mtime_ns >= self._latest:  # a later change may not show in the time
                    stamp = replace(stamp, mtime_ns=0)
                items.append(SnapshotItem(replace(each.item, stamp=stamp), embedder.pictures[each.key]))
            else:
                reason = each.failure or embedder.failures[each.key]
                skipped.append(Skipped(each.item.row, each.item.id, reason))
        if not items:
            raise IndexingError(f"None of the {len(skipped)} images can be used: {reasons(skipped)}.")
        snapshot = next_snapshot(self._folder, self._fingerprint)
        identities = {name: each.identity for name, each in plan.features.items()}
        if plan.server:
            digests = write_server_snapshot(snapshot, items)
            collections, background = self._send(plan.server, snapshot, published), dict[str, dict[str, list[float]]]()
        else:
            digests, collections = write_snapshot(snapshot, items, self._store, identities), ""
            with disk_errors(self._folder):
                background = background_of(snapshot, tuple(identities))
        embedded = sum(each.picture.key in embedder.embedded for each in items)
        manifest = Manifest(
            gallery=plan.name,
            snapshot=snapshot.name,
            source=plan.gallery.source,
            fingerprint=self._fingerprint,
            features=identities,
            pictures=len(items),
            skipped=len(skipped),
            ignored=dict(plan.gallery.ignored),
            notes=tuple(plan.gallery.notes),
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            changes=Changes(embedded, len(items) - embedded, self._removed(published, items)),
            background=background,
            digests=digests,
            skipped_pictures=tuple(skipped[:SKIPPED_LISTED]),
            retry=embedder.retry,
            collections=collections,
        )
        publish(self._folder, manifest)
        return manifest

    def _send(self, server: str, snapshot: Path, published: Manifest | None) -> str:
        """Send the vectors of a snapshot to a server; return how the names of its collections begin."""
        from retrieval.indexing.server_update import collections_of, ids_of  # imports chromadb, which takes a second

        with disk_errors(self._folder):
            collections = collections_of(self._folder)
        update = self._update(server, snapshot, collections)
        update.insert(self._store, ids_of(self._folder, published), again=self._plan.rebuild)
        return collections

    def _update(self, server: str, snapshot: Path, collections: str) -> "Update":
        from retrieval.indexing.server_update import Update

        identities = {name: each.identity for name, each in self._plan.features.items()}
        return Update(server, snapshot, collections, identities, self._callbacks.sending)

    def _complete_collections(self, server: str, manifest: Manifest, replaced: Manifest | None) -> None:
        """Insert what a server has lost, and delete what only earlier snapshots had."""
        from retrieval.indexing.server_update import ids_of

        update = self._update(server, self._folder / manifest.snapshot, manifest.collections)
        update.insert(self._store, update.wanted)
        update.delete_others(ids_of(self._folder, replaced))
        if replaced:
            update.drop(replaced)

    def _removed(self, published: Manifest | None, items: Iterable[SnapshotItem]) -> int:
        """Return how many images of the snapshot before are no longer in the gallery."""
        if published is None:
            return 0
        before = keys_of(self._folder / published.snapshot)
        return len(before - {each.picture.key for each in items})

    def _earlier(self, manifest: Manifest, replaced: Manifest | None) -> Earlier | None:
        """Return the state that a snapshot has replaced, with the feature types whose vectors are still the same."""
        if replaced is None or replaced.collections or self._plan.rebuild:
            return None
        same = {name: each.dimensions for name, each in replaced.known.items() if manifest.features.get(name) == each}
        folder = self._folder / replaced.snapshot
        try:
            return Earlier(ItemVectors(folder, same, replaced.digests), folder)
        except (OSError, ValueError, KeyError) as error:
            log.warning("The snapshot `%s` is damaged (%s), so the engines start anew.", folder, error)
            return None

    def _complete(self, manifest: Manifest, replaced: Manifest | None, already_done: bool) -> Outcome:
        """Add maps and files of engines that a published snapshot lacks, and delete what it replaced."""
        snapshot = self._folder / manifest.snapshot
        maps = [(features, method) for method in self._plan.methods for features in self._plan.features]
        with disk_errors(snapshot):
            if self._plan.server:
                self._complete_collections(self._plan.server, manifest, replaced)
            elif self._plan.complete:
                vectors, earlier = ItemVectors.of(snapshot, manifest), self._earlier(manifest, replaced)
                for name in ENGINES:
                    build_engine(snapshot, name, vectors, floor=self._plan.recall_floor, earlier=earlier)
                if earlier:
                    keep_tsne(snapshot, vectors, earlier)
            missing = [each for each in maps if not _has_map(manifest, snapshot, *each)]
            made = tuple(write_projections(snapshot, missing))
            sweep(self._folder)
            self._store.merge_small_parts()
        names = tuple(f"{features} by {method}" for features, method in made)
        seconds = time.perf_counter() - self._started
        return Outcome(manifest, already_done, seconds, size_of(snapshot), replaced, names)


def _has_map(manifest: Manifest, snapshot: Path, features: str, method: Method) -> bool:
    try:
        read_projection(snapshot, features, method, manifest.pictures, manifest.dimensions(features))
    except (OSError, ValueError):
        return False
    return True
