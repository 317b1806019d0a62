"""Builds the index of a gallery: data set -> features -> ChromaDB; stopped at any moment, it goes on where it was."""

import json
import shutil
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

import numpy as np
import numpy.typing as npt

from retrieval.errors import IndexingError
from retrieval.export import background_of, cannot_write, export
from retrieval.features import Features
from retrieval.features.clip import ClipEncoder
from retrieval.gallery import Gallery
from retrieval.manifest import (
    FORMAT,
    SKIPPED_LISTED,
    THUMBNAIL,
    Manifest,
    Skipped,
    publish_manifest,
    read_manifest,
    thumbnail_path,
)
from retrieval.pipeline import THUMBNAIL_SIZE, Embedded, embed_all
from retrieval.projection import Method, read_projection, write_projections
from retrieval.store import IndexInUse, Store, own
from retrieval.writer import writing

ROWS_AT_ONCE = 64  # rows of one write; also the unit of resuming
APART_FROM = 256  # rows for which it pays to start a process that writes
PATIENCE = 30.0  # seconds; a writer whose builder was killed ends its last batch first
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
    root: Path,
    name: str,
    gallery: Gallery,
    encoder: ClipEncoder,
    *,
    pixel_size: int,
    batch_size: int,
    workers: int,
    rebuild: bool = False,
    tsne: bool = False,
    progress: Progress = lambda done, total: None,
    finishing: Callable[[], None] = lambda: None,
) -> Outcome:
    """Bring the index of a gallery up to date and publish it.

    A build goes into a folder of its own and replaces an older one only when it is complete, so that readers
    never see half an index.

    Args:
        root: the index folder, which may hold several galleries.
        name: the gallery's name, a folder below `root`.
        gallery: the opened data set.
        encoder: the CLIP model.
        pixel_size: side of the square that raw pixels are compared in.
        batch_size: pictures in one forward pass.
        workers: threads that decode and preprocess.
        rebuild: make it anew even if it is complete.
        tsne: make maps by t-SNE beside those by PCA; maps missing from a complete build are added to it.
        progress: called after every batch. What it raises stops the build; another one goes on from there.
        finishing: called when all pictures are written and files for readers are about to be.

    Raises:
        IndexingError: the gallery's name is taken by another data set, or the index is in use or not writable.
        GalleryError: the data set cannot be read on.
    """
    started = time.perf_counter()
    folder = root / name
    source = gallery.source.path
    if source and source.is_dir() and root.resolve().is_relative_to(source):
        raise IndexingError(
            f"The index folder {root} lies in the data set {source}, so its thumbnails would become pictures of the "
            "gallery. Choose another --index."
        )
    # Held until the manifest is published, so that nobody sweeps the build away that it will name.
    lock = own(folder)
    try:
        return _build(
            started,
            folder,
            gallery,
            encoder,
            pixel_size,
            batch_size,
            workers,
            rebuild=rebuild,
            methods=list(Method) if tsne else [Method.PCA],
            progress=progress,
            finishing=finishing,
        )
    finally:
        lock.release()


def _build(
    started: float,
    folder: Path,
    gallery: Gallery,
    encoder: ClipEncoder,
    pixel_size: int,
    batch_size: int,
    workers: int,
    *,
    rebuild: bool,
    methods: list[Method],
    progress: Progress,
    finishing: Callable[[], None],
) -> Outcome:
    root, name = folder.parent, folder.name
    fingerprint = _fingerprint(gallery, encoder, pixel_size)
    published = _published(folder, rebuild)
    if published and not rebuild:
        if published.source.identity != gallery.source.identity:
            raise IndexingError(
                f"The gallery {name!r} in {root} holds another data set ({published.source.dataset}). "
                "Choose another name with --gallery, or replace it with --rebuild."
            )
        if published.fingerprint == fingerprint:
            maps = _add_maps(
                folder / published.build, [each for each in methods if _lacks_map(published, folder, each)]
            )
            return Outcome(published, True, 0, published.pictures, time.perf_counter() - started, maps=maps)
    build = folder / f"build-{fingerprint}"
    if published and published.build == build.name:
        build = folder / f"{build.name}-again"
    with closing(_open(build, rebuild)) as store:
        done = store.rows()
    # Closed at once, not when an error is forgotten: a program that lives on keeps no thread of a stopped build.
    with closing(_fill(build, gallery, encoder, done, pixel_size, batch_size, workers)) as batches:
        for count in batches:
            progress(count, gallery.total)
    finishing()
    with closing(_open(build, rebuild=False)) as store:
        rows = store.rows()
        indexed = set(rows.tolist())
        skipped = [each for each in _read_skipped(build) if each.row not in indexed]
        if not len(rows):
            raise IndexingError(f"None of the {len(skipped)} pictures could be used: {_reasons(skipped)}.")
        store.drop_rows_except(rows)
        export(store, rows)
        background = background_of(build)
        maps = _add_maps(build, methods)
    seconds = time.perf_counter() - started
    manifest = Manifest(
        gallery=name,
        build=build.name,
        source=gallery.source,
        fingerprint=fingerprint,
        model=encoder.identity,
        pixel_size=pixel_size,
        pictures=len(rows),
        skipped=len(skipped),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        seconds=round(seconds, 1),
        bytes=sum(file.stat().st_size for file in build.rglob("*") if file.is_file()),
        background=background,
        skipped_pictures=tuple(skipped[:SKIPPED_LISTED]),
        thumbnails=THUMBNAIL,
    )
    try:
        publish_manifest(folder, manifest)
    except OSError as error:
        raise cannot_write(folder, error) from error
    sweep(folder)
    return Outcome(manifest, False, len(rows) - len(done), len(done), seconds, published, maps)


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


def sweep(folder: Path) -> None:
    """Delete builds that are neither published nor in use, and what a stopped publication left behind."""
    published = read_manifest(folder)
    for leftover in folder.glob("manifest.json.*.tmp"):
        leftover.unlink(missing_ok=True)
    for build in folder.glob("build-*"):
        if published and build.name == published.build:
            continue
        try:
            lock = own(build)
        except IndexInUse:
            continue  # somebody still reads it; a later sweep takes it
        shutil.rmtree(build, ignore_errors=True)
        lock.release()


def _fingerprint(gallery: Gallery, encoder: ClipEncoder, pixel_size: int) -> str:
    parts = (FORMAT, gallery.fingerprint, encoder.identity, pixel_size, THUMBNAIL_SIZE, THUMBNAIL)
    return sha256(repr(parts).encode()).hexdigest()[:16]


def _add_maps(build: Path, methods: list[Method]) -> tuple[str, ...]:
    """Make the maps of a build whose matrices are exported; they are no part of its fingerprint."""
    try:
        return tuple(f"{features} by {method}" for features, method in write_projections(build, methods))
    except OSError as error:
        raise cannot_write(build, error) from error


def _lacks_map(manifest: Manifest, folder: Path, method: Method) -> bool:
    """Say whether a published build has no good map by a method: it is older than maps, or a file is damaged."""
    try:
        for features in Features:
            dimensions = manifest.dimensions(features)
            read_projection(folder / manifest.build, features, method, manifest.pictures, dimensions)
    except (OSError, ValueError):
        return True
    return False


def _published(folder: Path, rebuild: bool) -> Manifest | None:
    try:
        return read_manifest(folder)
    except IndexingError:
        if not rebuild:
            raise
        return None  # what cannot be read is replaced


def _open(build: Path, rebuild: bool) -> Store:
    """Open the store of a build, unfinished or new; with `rebuild` a damaged one is started over."""
    try:
        own(build, PATIENCE).release()
        return Store(build)
    except IndexInUse:
        raise
    except IndexingError:
        if not rebuild or not build.is_dir():
            raise
        shutil.rmtree(build, ignore_errors=True)
        return Store(build)


def _fill(
    build: Path,
    gallery: Gallery,
    encoder: ClipEncoder,
    done: npt.NDArray[np.int64],
    pixel_size: int,
    batch_size: int,
    workers: int,
) -> Generator[int, None, None]:
    """Write every batch that is not in the store yet, yielding how many rows are behind us.

    Batches always span the same rows, so that a picture is embedded in the same company, and so to the same
    bits, however often the build was stopped.
    """
    complete = {int(start) for start in np.unique(done // ROWS_AT_ONCE) * ROWS_AT_ONCE}
    count = sum(min(ROWS_AT_ONCE, (gallery.total or start + ROWS_AT_ONCE) - start) for start in complete)
    yield count
    if gallery.total == count:
        return
    runs = gallery.batches(ROWS_AT_ONCE, wanted=lambda start: start not in complete)
    apart = gallery.total is None or gallery.total - count >= APART_FROM
    embedded = embed_all(runs, encoder, pixel_size=pixel_size, batch_size=batch_size, workers=workers)
    # The workers are ended first: then nothing waits for the model while the last batch is written.
    with writing(build, apart) as writer, closing(embedded) as batches:
        under_way = 0
        for batch in batches:
            _keep(build, batch)
            if batch.items:
                writer.write(batch.items, batch.vectors)
            else:
                writer.wait()
            if under_way:
                count += under_way
                yield count
            under_way = batch.rows
        writer.wait()
        yield count + under_way


def _keep(build: Path, batch: Embedded) -> None:
    """Write the thumbnails of a batch, and why pictures were skipped; its vectors come last."""
    try:
        _append_skipped(build, batch.skipped)
        for item, thumbnail in zip(batch.items, batch.thumbnails, strict=True):
            path = thumbnail_path(build, item.row)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(thumbnail)
    except OSError as error:
        raise cannot_write(build, error) from error


def _append_skipped(build: Path, skipped: Iterable[Skipped]) -> None:
    lines = [f"\n{json.dumps(asdict(each))}" for each in skipped]  # a line cut off stays alone
    if lines:
        with (build / "skipped.jsonl").open("a", encoding="utf-8") as file:
            file.writelines(lines)


def _read_skipped(build: Path) -> list[Skipped]:
    """Return what was skipped so far, by row; a row that was tried again counts once."""
    path = build / "skipped.jsonl"
    found: dict[int, Skipped] = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            each = Skipped(**json.loads(line))
        except (ValueError, TypeError):
            continue  # a line cut off when the builder was killed; its batch was tried again
        found[each.row] = each
    return [found[row] for row in sorted(found)]


def _reasons(skipped: Iterable[Skipped]) -> str:
    counted = Counter(each.reason for each in skipped)
    listed = [f"{count} x {reason.rstrip('.')}" for reason, count in counted.most_common(REASONS)]
    rest = sum(counted.values()) - sum(count for _, count in counted.most_common(REASONS))
    return "; ".join(listed + ([f"{rest} x other reasons"] if rest else []))
