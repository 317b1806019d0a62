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

ROWS_AT_ONCE = 64  # rows per batch, the unit of writing and resuming
WRITER_PROCESS_ROWS = 256  # from this many rows on, a separate writer process pays off


@dataclass(frozen=True)
class BuildPlan:
    """What to build, from which dataset, and how."""

    index: Path | Server  # may hold several galleries
    name: str
    gallery: Gallery
    features: Mapping[str, FeatureSet]  # by the name of the feature type
    batch_size: int  # images in one forward pass
    workers: int  # threads that decode and embed
    rebuild: bool = False  # build even if the index is complete
    tsne: bool = False  # add t-SNE maps to the PCA maps
    shard: Shard = ALL  # this worker's share, if several build the same gallery on a server

    @property
    def methods(self) -> tuple[Method, ...]:
        """The kinds of maps to compute."""
        return tuple(Method) if self.tsne else (Method.PCA,)

    def fingerprint(self) -> str:
        """Return a digest of everything that determines the contents of the index."""
        identities = {name: each.identity for name, each in self.features.items()}
        parts = (FORMAT, self.gallery.fingerprint, identities, THUMBNAIL_SIZE)
        return sha256(repr(parts).encode()).hexdigest()[:16]


def build_index(plan: BuildPlan, callbacks: BuildCallbacks | None = None) -> Outcome:
    """Bring the index of a gallery up to date and publish it.

    A new build replaces the published one only when it is complete, so that readers never see half an index. If the
    index is complete already, only missing maps are added.

    Raises:
        SharesMissing: this worker's share is done, but not all the others.
        IndexingError: the gallery's name belongs to another dataset, or the index is in use or not writable.
        GalleryError: the dataset cannot be read.
    """
    source = plan.gallery.source.path
    if source and source.is_dir() and isinstance(plan.index, Path) and plan.index.resolve().is_relative_to(source):
        raise IndexingError(
            f"The index folder `{plan.index}` is inside the dataset `{source}`, so its thumbnails would be indexed as "
            "images. Choose another folder with `--index`."
        )
    location = location_of(plan.index)
    try:
        with location.claimed(plan.name):
            return _Run(plan, location, callbacks or BuildCallbacks()).run()
    finally:
        location.close()


class _Run:
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
                    f"The gallery {plan.name!r} was built from another dataset ({published.source.dataset}). "
                    "Choose another name with `--gallery`, or replace the gallery with `--rebuild`."
                )
            if published.fingerprint == self._fingerprint:
                return self._add_missing_maps(published)
        build = location.build_name(plan.name, self._fingerprint)
        with closing(self._begin(build, plan.rebuild)) as store:
            complete = store.complete()
            before = plan.shard.among(store.rows(), ROWS_AT_ONCE)
        # Closed even after an error, so that no thread of a stopped build keeps running.
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
            return None  # a rebuild replaces a manifest that cannot be read

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

        A batch always has the same rows, so that a resumed build computes the same vectors, bit for bit.
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
        # The workers end first, so that no forward pass slows down writing the last batch.
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
            raise IndexingError(f"None of the {len(skipped)} images can be used: {reasons(skipped)}.")
        added = plan.shard.among(rows, ROWS_AT_ONCE) - before
        store.reconcile()
        with self._location.exported(store, rows):
            now = self._published()
            if now and now.build == build:  # another worker has published it in the meantime
                return Outcome(now, False, added, before, self._seconds(), published)
            background = background_of(store.folder, store.features)
            maps = self._make_maps(store.folder, plan.methods)
            store.close()  # readers may open the files as soon as the manifest is published
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
    """Return the size in bytes of the files that remain once a build is published."""
    files = (file for file in build.rglob("*") if file.parent.name != BATCHES and file.is_file())
    return sum(file.stat().st_size for file in files)


def _check_shares(shard: Shard, gallery: Gallery, store: Store, build: str) -> None:
    """Raise SharesMissing unless the batches of all shares are complete."""
    if shard is ALL:
        return
    wanted = range(0, gallery.seen, ROWS_AT_ONCE)
    if missing := len(set(wanted) - store.complete()):
        raise SharesMissing(
            f"Share {shard} of {build} is done ({shard.rows(gallery.seen, ROWS_AT_ONCE):,} rows). {missing:,} of "
            f"{len(wanted):,} batches are missing; the worker that writes the last one publishes the gallery. "
            "If another worker reports a different build name, its settings differ. Give all workers the same explicit "
            "`--model` and `--dtype`, because `auto` depends on the machine, and the same dataset, by Hub id or at "
            "the same path with the same modification times."
        )
