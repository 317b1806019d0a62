"""Build the index of a gallery: items -> embedding store -> published snapshot. A stopped build can be resumed."""

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from hashlib import sha256
from itertools import takewhile
from pathlib import Path

from retrieval.digests import check
from retrieval.engines import ENGINES
from retrieval.engines.lock import held
from retrieval.errors import IndexingError, PictureError, cannot_write
from retrieval.features.base import FeatureSet
from retrieval.gallery.rows import Gallery
from retrieval.gallery.source import Stamp
from retrieval.indexing.embed import THUMBNAIL_SIZE, Embedder
from retrieval.indexing.embeddings import FOLDER, EmbeddingStore, PartDamaged, key_of
from retrieval.indexing.fit_projection import write_projections
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
    write_snapshot,
)
from retrieval.storage.engine_files import build_engine
from retrieval.storage.manifest import FORMAT, SKIPPED_LISTED, Changes, Manifest, Skipped, read_manifest, size_of
from retrieval.storage.projection import Method, read_projection
from retrieval.storage.vectors import ITEMS, ItemVectors

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

    @property
    def methods(self) -> tuple[Method, ...]:
        """The kinds of maps to compute."""
        return tuple(Method) if self.tsne else (Method.PCA,)

    def fingerprint(self) -> str:
        """Return a digest of everything that determines the contents of the index."""
        identities = {name: each.identity for name, each in self.features.items()}
        seen = (self.gallery.fingerprint, sorted(self.gallery.ignored.items()), self.gallery.notes)
        parts = (FORMAT, seen, identities, THUMBNAIL_SIZE)
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
    if plan.name == FOLDER:
        raise IndexingError(f"The folder {FOLDER!r} of an index holds the embeddings. Choose another `--gallery`.")
    source = plan.gallery.source.path
    if source and source.is_dir() and plan.index.resolve().is_relative_to(source):
        raise IndexingError(
            f"The index folder `{plan.index}` is inside the dataset `{source}`, so its thumbnails would be indexed as "
            "images. Choose another folder with `--index`."
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
                certain = each.item.stamp and each.item.stamp.mtime_ns < self._latest
                item = each.item if certain else replace(each.item, stamp=None)
                items.append(SnapshotItem(item, embedder.pictures[each.key]))
            else:
                reason = each.failure or embedder.failures[each.key]
                skipped.append(Skipped(each.item.row, each.item.id, reason))
        if not items:
            raise IndexingError(f"None of the {len(skipped)} images can be used: {reasons(skipped)}.")
        snapshot = next_snapshot(self._folder, self._fingerprint)
        identities = {name: each.identity for name, each in plan.features.items()}
        digests = write_snapshot(snapshot, items, self._store, identities)
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
            background=background_of(snapshot, tuple(identities)),
            digests=digests,
            skipped_pictures=tuple(skipped[:SKIPPED_LISTED]),
            retry=embedder.retry,
        )
        publish(self._folder, manifest)
        return manifest

    def _removed(self, published: Manifest | None, items: Iterable[SnapshotItem]) -> int:
        """Return how many images of the snapshot before are no longer in the gallery."""
        if published is None:
            return 0
        before = keys_of(self._folder / published.snapshot)
        return len(before - {each.picture.key for each in items})

    def _complete(self, manifest: Manifest, replaced: Manifest | None, already_done: bool) -> Outcome:
        """Add maps and files of engines that a published snapshot lacks, and delete what it replaced."""
        snapshot = self._folder / manifest.snapshot
        missing = [method for method in self._plan.methods if not _has_map(manifest, snapshot, method)]
        try:
            made = tuple(write_projections(snapshot, tuple(self._plan.features), missing))
            vectors = ItemVectors.of(snapshot, manifest)
            for name in ENGINES:
                build_engine(snapshot, name, vectors)
            sweep(self._folder)
            self._store.merge_small_parts()
        except OSError as error:
            raise cannot_write(snapshot, error) from error
        maps = tuple(f"{features} by {method}" for features, method in made)
        seconds = time.perf_counter() - self._started
        return Outcome(manifest, already_done, seconds, size_of(snapshot), replaced, maps)


def _has_map(manifest: Manifest, snapshot: Path, method: Method) -> bool:
    try:
        for features in manifest.features:
            read_projection(snapshot, features, method, manifest.pictures, manifest.dimensions(features))
    except (OSError, ValueError):
        return False
    return True
