"""Builds the index of a gallery: data set -> features -> ChromaDB; stopped at any moment, it goes on where it was."""

import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from hashlib import sha256
from pathlib import Path

from retrieval.errors import IndexingError, SharesMissing, cannot_write
from retrieval.features.clip import ClipEncoder
from retrieval.gallery.rows import Gallery
from retrieval.indexing.embed import THUMBNAIL_SIZE, embed_all
from retrieval.indexing.fit_projection import write_projections
from retrieval.indexing.writer import writing
from retrieval.storage.batches import FOLDER as BATCHES
from retrieval.storage.catalog import location_of
from retrieval.storage.export import background_of
from retrieval.storage.location import Location
from retrieval.storage.manifest import FORMAT, SKIPPED_LISTED, Manifest, Skipped
from retrieval.storage.projection import Method
from retrieval.storage.server.address import Server
from retrieval.storage.server.shard import ALL, Shard
from retrieval.storage.store import Store

ROWS_AT_ONCE = 64  # rows of one write; also the unit of resuming
APART_FROM = 256  # rows for which it pays to start a process that writes
REASONS = 5  # named in a summary; all are in the manifest

Progress = Callable[[int, int | None], None]
"""Told how many rows are done, and of how many (None if nobody knows)."""


@dataclass(frozen=True)
class Outcome:
    """The finished build, whether its pictures were there already, and which maps were made now."""

    manifest: Manifest
    already_done: bool
    added: int
    resumed_from: int
    seconds: float
    replaced: Manifest | None = None
    maps: tuple[str, ...] = ()


def build_index(
    root: Path | Server,
    name: str,
    gallery: Gallery,
    encoder: ClipEncoder,
    *,
    pixel_size: int,
    batch_size: int,
    workers: int,
    rebuild: bool = False,
    tsne: bool = False,
    shard: Shard | None = None,
    progress: Progress = lambda done, total: None,
    finishing: Callable[[], None] = lambda: None,
) -> Outcome:
    """Bring the index of a gallery up to date and publish it.

    A build goes into a folder or collections of its own and replaces an older one only when it is complete, so that
    readers never see half an index.

    Args:
        root: the index folder or server, which may hold several galleries.
        name: the gallery's name.
        gallery: the opened data set.
        encoder: the CLIP model.
        pixel_size: side of the square that raw pixels are compared in.
        batch_size: pictures in one forward pass.
        workers: threads that decode and preprocess.
        rebuild: make it anew even if it is complete.
        tsne: make maps by t-SNE beside those by PCA; maps missing from a complete build are added to it.
        shard: the share of this worker, beside others that build the same into a server, none of them with `rebuild`;
            None is all.
        progress: called after every batch. What it raises stops the build; another one goes on from there.
        finishing: called when all pictures are written and files for readers are about to be.

    Raises:
        SharesMissing: the share is done, and the index is complete when the others are.
        IndexingError: the gallery's name is taken by another data set, or the index is in use or not writable.
        GalleryError: the data set cannot be read on.
    """
    started = time.perf_counter()
    source = gallery.source.path
    if source and source.is_dir() and not isinstance(root, Server) and root.resolve().is_relative_to(source):
        raise IndexingError(
            f"The index folder {root} lies in the data set {source}, so its thumbnails would become pictures of the "
            "gallery. Choose another --index."
        )
    location = location_of(root)
    try:
        with location.claimed(name):
            return _build(
                started,
                location,
                name,
                gallery,
                encoder,
                pixel_size,
                batch_size,
                workers,
                rebuild=rebuild,
                methods=list(Method) if tsne else [Method.PCA],
                shard=shard or ALL,
                progress=progress,
                finishing=finishing,
            )
    finally:
        location.close()


def _build(
    started: float,
    location: Location,
    name: str,
    gallery: Gallery,
    encoder: ClipEncoder,
    pixel_size: int,
    batch_size: int,
    workers: int,
    *,
    rebuild: bool,
    methods: list[Method],
    shard: Shard,
    progress: Progress,
    finishing: Callable[[], None],
) -> Outcome:
    fingerprint = _fingerprint(gallery, encoder, pixel_size)
    published = _published(location, name, rebuild)
    if published and not rebuild:
        if published.source.identity != gallery.source.identity:
            raise IndexingError(
                f"The gallery {name!r} holds another data set ({published.source.dataset}). "
                "Choose another name with --gallery, or replace it with --rebuild."
            )
        if published.fingerprint == fingerprint:
            lacking = location.lacking(published, methods)
            maps = location.add_maps(published, lambda files: _add_maps(files, lacking)) if lacking else ()
            location.sweep(name, location.build_name(name, fingerprint))  # the builder may have been killed before it
            return Outcome(published, True, 0, published.pictures, time.perf_counter() - started, maps=maps)
    build = location.build_name(name, fingerprint)
    with closing(location.begin(name, build, rebuild)) as store:
        complete = store.complete()
        before = shard.among(store.rows(), ROWS_AT_ONCE)
    filling = _fill(location, name, build, gallery, encoder, complete, pixel_size, batch_size, workers, shard)
    # Closed at once, not when an error is forgotten: a program that lives on keeps no thread of a stopped build.
    with closing(filling) as batches:
        total = None if gallery.total is None else shard.rows(gallery.total, ROWS_AT_ONCE)
        for count in batches:
            progress(count, total)
    with closing(location.begin(name, build, False)) as store:
        _check_shares(shard, gallery, store, build)
        finishing()
        rows = store.rows()
        indexed = set(rows.tolist())
        skipped = [each for each in store.skipped() if each.row not in indexed]
        if not len(rows):
            raise IndexingError(f"None of the {len(skipped)} pictures could be used: {_reasons(skipped)}.")
        added = shard.among(rows, ROWS_AT_ONCE) - before
        store.settle()
        with location.making(store, rows):
            now = _published(location, name, rebuild)
            if now and now.build == build:  # another worker saw it complete too, and was faster
                return Outcome(now, False, added, before, time.perf_counter() - started, published)
            background = background_of(store.folder)
            maps = _add_maps(store.folder, methods)
            store.close()  # whoever sees the manifest may open it
            seconds = time.perf_counter() - started
            manifest = Manifest(
                gallery=name,
                build=build,
                source=gallery.source,
                fingerprint=fingerprint,
                model=encoder.identity,
                pixel_size=pixel_size,
                pictures=len(rows),
                skipped=len(skipped),
                created=datetime.now(UTC).isoformat(timespec="seconds"),
                seconds=round(seconds, 1),
                bytes=_size(store.folder),
                background=background,
                skipped_pictures=tuple(skipped[:SKIPPED_LISTED]),
            )
            location.publish(manifest, store, rows)
    return Outcome(manifest, False, added, before, seconds, published, maps)


def _size(build: Path) -> int:
    """Return the bytes of a build's files that stay when it is published."""
    files = (file for file in build.rglob("*") if file.parent.name != BATCHES and file.is_file())
    return sum(file.stat().st_size for file in files)


def _check_shares(shard: Shard, gallery: Gallery, store: Store, build: str) -> None:
    """See that the batches of all shares are there, however many workers wrote them.

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
            "If another worker names another build, the two do not work together: all need the same --model and "
            "--dtype by name, since what auto takes depends on the machine, and the same data set, by its Hub id or "
            "at the same path with the same file times."
        )


def summary(outcome: Outcome) -> str:
    """Return the closing lines of a build, for people."""
    manifest = outcome.manifest
    maps = f"maps:     {', '.join(outcome.maps)}"
    if outcome.already_done:
        todo = f"maps added in {outcome.seconds:.1f} s, nothing else to do" if outcome.maps else "nothing to do"
        return (
            f"{manifest.gallery}: {todo}, {manifest.pictures:,} pictures are indexed "
            f"with {manifest.model} since {manifest.created}."
        ) + (f"\n{maps}" if outcome.maps else "")
    lines = [
        f"{manifest.gallery}: {manifest.pictures:,} pictures indexed with {manifest.model} "
        f"({outcome.added:,} now, {outcome.resumed_from:,} before)",
        f"skipped:  {manifest.skipped:,}"
        + (f" ({_reasons(manifest.skipped_pictures)})" if manifest.skipped_pictures else ""),
        f"time:     {outcome.seconds:.1f} s, {outcome.added / max(outcome.seconds, 1e-9):.1f} pictures/s",
        f"on disk:  {manifest.bytes / 1e6:,.1f} MB ({manifest.bytes:,} bytes)",
        maps,
    ]
    if old := outcome.replaced:
        lines.append(f"replaced: the index of {old.pictures:,} pictures with {old.model} of {old.created}")
    lines += [f"  skipped {each.id}: {each.reason}" for each in manifest.skipped_pictures[:20]]
    if manifest.skipped > 20:
        lines.append(f"  ... and {manifest.skipped - 20:,} more; the first {SKIPPED_LISTED:,} are in manifest.json")
    return "\n".join(lines)


def _fingerprint(gallery: Gallery, encoder: ClipEncoder, pixel_size: int) -> str:
    parts = (FORMAT, gallery.fingerprint, encoder.identity, pixel_size, THUMBNAIL_SIZE)
    return sha256(repr(parts).encode()).hexdigest()[:16]


def _add_maps(build: Path, methods: list[Method]) -> tuple[str, ...]:
    """Make the maps of a build whose matrices are exported; they are no part of its fingerprint."""
    try:
        return tuple(f"{features} by {method}" for features, method in write_projections(build, methods))
    except OSError as error:
        raise cannot_write(build, error) from error


def _published(location: Location, name: str, rebuild: bool) -> Manifest | None:
    try:
        return location.manifest(name)
    except IndexingError:
        if not rebuild:
            raise
        return None  # what cannot be read is replaced


def _fill(
    location: Location,
    name: str,
    build: str,
    gallery: Gallery,
    encoder: ClipEncoder,
    complete: set[int],
    pixel_size: int,
    batch_size: int,
    workers: int,
    shard: Shard,
) -> Generator[int, None, None]:
    """Write every batch of a share that is not complete yet, yielding how many rows are behind us.

    Batches always span the same rows, so that a picture is embedded in the same company, and so to the same
    bits, however often the build was stopped.
    """
    done = [start for start in complete if shard.has(start, ROWS_AT_ONCE)]
    count = sum(min(ROWS_AT_ONCE, (gallery.total or start + ROWS_AT_ONCE) - start) for start in done)
    yield count
    left = None if gallery.total is None else shard.rows(gallery.total, ROWS_AT_ONCE) - count
    if left == 0:
        return
    runs = gallery.batches(ROWS_AT_ONCE, wanted=lambda start: start not in complete and shard.has(start, ROWS_AT_ONCE))
    embedded = embed_all(runs, encoder, pixel_size=pixel_size, batch_size=batch_size, workers=workers)
    apart = location.local and (left is None or left >= APART_FROM)
    # The workers are ended first: then nothing waits for the model while the last batch is written.
    with writing(partial(location.begin, name, build, False), apart) as writer, closing(embedded) as batches:
        for batch in batches:
            if written := writer.write(batch):
                count += written
                yield count
        if written := writer.finish():
            yield count + written


def _reasons(skipped: Iterable[Skipped]) -> str:
    counted = Counter(each.reason for each in skipped)
    listed = [f"{count} x {reason.rstrip('.')}" for reason, count in counted.most_common(REASONS)]
    rest = sum(counted.values()) - sum(count for _, count in counted.most_common(REASONS))
    return "; ".join(listed + ([f"{rest} x other reasons"] if rest else []))
