"""Build the index of a gallery: dataset -> vectors -> published index. A stopped build can be resumed."""

import time
from collections.abc import Generator, Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from hashlib import sha256
from pathlib import Path

from retrieval.errors import IndexingError, SharesMissing, cannot_write
from retrieval.features.base import FeatureSet
from retrieval.gallery.rows import Gallery
from retrieval.indexing.embed import THUMBNAIL_SIZE, embed_all
from retrieval.indexing.fit_projection import write_projections
from retrieval.indexing.outcome import Outcome, reasons
from retrieval.indexing.progress import BuildCallbacks
from retrieval.indexing.writer import open_writer
from retrieval.storage.batches import FOLDER as BATCHES
from retrieval.storage.catalog import location_of
from retrieval.storage.export import background_of
from retrieval.storage.location import Location
from retrieval.storage.manifest import FORMAT, SKIPPED_LISTED, Manifest
from retrieval.storage.projection import Method
from retrieval.storage.server.address import Server
from retrieval.storage.server.shard import ALL, Shard
from retrieval.storage.store import Store

ROWS_AT_ONCE = 64  # rows per batch, which is written at once; also the unit of resuming
WRITER_PROCESS_ROWS = 256  # rows from which it pays to start a process that writes


@dataclass(frozen=True)
class BuildPlan:
    """Everything that a build does.

    Attributes:
        index: the index folder or server, which may hold several galleries.
        name: the name of the gallery.
        gallery: the opened dataset.
        features: the feature sets to embed with, by the name of their type.
        batch_size: images in one forward pass.
        workers: threads that decode and embed.
        rebuild: build even if the index is complete.
        tsne: make t-SNE maps as well as PCA maps.
        shard: the share of this worker, next to others that build the same gallery into a server.
    """

    index: Path | Server
    name: str
    gallery: Gallery
    features: Mapping[str, FeatureSet]
    batch_size: int
    workers: int
    rebuild: bool = False
    tsne: bool = False
    shard: Shard = ALL

    @property
    def methods(self) -> tuple[Method, ...]:
        """The kinds of maps to make."""
        return tuple(Method) if self.tsne else (Method.PCA,)

    def fingerprint(self) -> str:
        """Return a digest of everything that decides what the index holds."""
        identities = {name: each.identity for name, each in self.features.items()}
        parts = (FORMAT, self.gallery.fingerprint, identities, THUMBNAIL_SIZE)
        return sha256(repr(parts).encode()).hexdigest()[:16]


def build_index(plan: BuildPlan, callbacks: BuildCallbacks | None = None) -> Outcome:
    """Bring the index of a gallery up to date and publish it.

    A build goes into a folder or collections of its own and replaces an older one only when it is complete, so that
    readers never see half an index. Maps that a complete index lacks are added to it.

    Raises:
        SharesMissing: this worker's share is done; the index is complete when the others are.
        IndexingError: the gallery's name belongs to another dataset, or the index is in use or not writable.
        GalleryError: the dataset cannot be read any further.
    """
    source = plan.gallery.source.path
    if source and source.is_dir() and isinstance(plan.index, Path) and plan.index.resolve().is_relative_to(source):
        raise IndexingError(
            f"The index folder `{plan.index}` is inside the dataset `{source}`, so its thumbnails would become images "
            "of the gallery. Choose another `--index`."
        )
    location = location_of(plan.index)
    try:
        with location.claimed(plan.name):
            return _Run(plan, location, callbacks or BuildCallbacks()).run()
    finally:
        location.close()


class _Run:
    """One run of a build."""

    def __init__(self, plan: BuildPlan, location: Location, callbacks: BuildCallbacks) -> None:
        self._plan = plan
        self._location = location
        self._callbacks = callbacks
        self._started = time.perf_counter()
        self._fingerprint = plan.fingerprint()

    def run(self) -> Outcome:
        plan, location = self._plan, self._location
        published = self._published()
        if published and not plan.rebuild:
            if published.source.identity != plan.gallery.source.identity:
                raise IndexingError(
                    f"The gallery {plan.name!r} holds another dataset ({published.source.dataset}). "
                    "Choose another name with `--gallery`, or replace it with `--rebuild`."
                )
            if published.fingerprint == self._fingerprint:
                return self._add_missing_maps(published)
        build = location.build_name(plan.name, self._fingerprint)
        with closing(self._begin(build, plan.rebuild)) as store:
            complete = store.complete()
            before = plan.shard.among(store.rows(), ROWS_AT_ONCE)
        # Closed at once, so that a program that goes on running keeps no thread of a stopped build.
        with closing(self._fill(build, complete)) as batches:
            total = plan.gallery.total
            for count in batches:
                self._callbacks.progress(count, None if total is None else plan.shard.rows(total, ROWS_AT_ONCE))
        with closing(self._begin(build, False)) as store:
            return self._finish(build, store, before, published)

    def _seconds(self) -> float:
        return time.perf_counter() - self._started

    def _published(self) -> Manifest | None:
        try:
            return self._location.manifest(self._plan.name)
        except IndexingError:
            if not self._plan.rebuild:
                raise
            return None  # a manifest that cannot be read is replaced

    def _begin(self, build: str, rebuild: bool) -> Store:
        return self._location.begin(self._plan.name, build, tuple(self._plan.features), rebuild)

    def _add_missing_maps(self, published: Manifest) -> Outcome:
        plan, location = self._plan, self._location
        missing = location.missing_maps(published, plan.methods)
        maps = location.add_maps(published, lambda files: self._make_maps(files, missing)) if missing else ()
        location.sweep(plan.name, location.build_name(plan.name, self._fingerprint))  # left by a killed builder
        return Outcome(published, True, 0, published.pictures, self._seconds(), maps=maps)

    def _make_maps(self, files: Path, methods: Iterable[Method]) -> tuple[str, ...]:
        try:
            made = write_projections(files, tuple(self._plan.features), tuple(methods))
            return tuple(f"{features} by {method}" for features, method in made)
        except OSError as error:
            raise cannot_write(files, error) from error

    def _fill(self, build: str, complete: set[int]) -> Generator[int, None, None]:
        """Embed and write every batch of this share that is not complete; yield the number of rows done so far.

        A batch always has the same rows, so that an image is embedded next to the same images, and to the same bits,
        however often the build was stopped.
        """
        plan, shard, total = self._plan, self._plan.shard, self._plan.gallery.total
        done = [start for start in complete if shard.has(start, ROWS_AT_ONCE)]
        count = sum(min(ROWS_AT_ONCE, (total or start + ROWS_AT_ONCE) - start) for start in done)
        yield count
        left = None if total is None else shard.rows(total, ROWS_AT_ONCE) - count
        if left == 0:
            return
        runs = plan.gallery.batches(
            ROWS_AT_ONCE, wanted=lambda start: start not in complete and shard.has(start, ROWS_AT_ONCE)
        )
        embedded = embed_all(runs, plan.features, batch_size=plan.batch_size, workers=plan.workers)
        separate = self._location.local and (left is None or left >= WRITER_PROCESS_ROWS)
        open_store = partial(self._location.begin, plan.name, build, tuple(plan.features), False)
        # The workers end first: then no forward pass slows down the writing of the last batch.
        with open_writer(open_store, separate) as writer, closing(embedded) as batches:
            for batch in batches:
                if written := writer.write(batch):
                    count += written
                    yield count
            if written := writer.finish():
                yield count + written

    def _finish(self, build: str, store: Store, before: int, published: Manifest | None) -> Outcome:
        """Write the files for readers and publish the build."""
        plan = self._plan
        _check_shares(plan.shard, plan.gallery, store, build)
        self._callbacks.finishing()
        rows = store.rows()
        indexed = set(rows.tolist())
        skipped = [each for each in store.skipped() if each.row not in indexed]
        if not len(rows):
            raise IndexingError(f"None of the {len(skipped)} images could be used: {reasons(skipped)}.")
        added = plan.shard.among(rows, ROWS_AT_ONCE) - before
        store.reconcile()
        with self._location.exported(store, rows):
            now = self._published()
            if now and now.build == build:  # another worker saw that it is complete too, and was faster
                return Outcome(now, False, added, before, self._seconds(), published)
            background = background_of(store.folder, store.features)
            maps = self._make_maps(store.folder, plan.methods)
            store.close()  # readers that see the manifest may open the files
            manifest = Manifest(
                gallery=plan.name,
                build=build,
                source=plan.gallery.source,
                fingerprint=self._fingerprint,
                features={name: each.identity for name, each in plan.features.items()},
                pictures=len(rows),
                skipped=len(skipped),
                created=datetime.now(UTC).isoformat(timespec="seconds"),
                seconds=round(self._seconds(), 1),
                bytes=_size(store.folder),
                background=background,
                skipped_pictures=tuple(skipped[:SKIPPED_LISTED]),
            )
            self._location.publish(manifest, store, rows)
        return Outcome(manifest, False, added, before, self._seconds(), published, maps)


def _size(build: Path) -> int:
    """Return the bytes of a build's files that remain once it is published."""
    files = (file for file in build.rglob("*") if file.parent.name != BATCHES and file.is_file())
    return sum(file.stat().st_size for file in files)


def _check_shares(shard: Shard, gallery: Gallery, store: Store, build: str) -> None:
    """Check that the batches of all shares are complete, whichever workers wrote them.

    Raises:
        SharesMissing: some are not.
    """
    if shard is ALL:
        return
    wanted = range(0, gallery.seen, ROWS_AT_ONCE)
    if missing := len(set(wanted) - store.complete()):
        raise SharesMissing(
            f"Share {shard} of {build} is done: {shard.rows(gallery.seen, ROWS_AT_ONCE):,} rows. Of {len(wanted):,} "
            f"batches in all, {missing:,} are missing; the worker that writes the last of them publishes the gallery. "
            "If another worker names another build, the two do not work together: all need the same `--model` and "
            "`--dtype` by name, because `auto` depends on the machine, and the same dataset, by its Hub id or "
            "at the same path with the same file times."
        )
