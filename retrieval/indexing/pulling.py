"""Open a published index: download it, check it as hostile input, and import it into an ordinary index folder.

Readers, engines and the page only ever see files that this program wrote. `unpack` reads those of the repository.
"""

import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path

from retrieval import hub
from retrieval.digests import check, digests_of
from retrieval.engines.lock import acquire_lock, held
from retrieval.errors import IndexingError, cannot_write
from retrieval.gallery.source import GallerySource
from retrieval.indexing.portable import MANIFEST, MAX_MANIFEST, PublishedManifest, from_json
from retrieval.indexing.publish import background_of, next_snapshot, publish, sweep
from retrieval.indexing.unpack import DISK_ERROR
from retrieval.labels import printable
from retrieval.pictures.decoder import clean_environment
from retrieval.settings import PublishedIndex
from retrieval.storage.items import ITEMS
from retrieval.storage.manifest import FILE, FORMAT, Changes, Manifest, read_manifest

SECONDS, SECONDS_PER_PICTURE = 120.0, 0.02  # for reading the files, by the clock
WAIT = 300.0  # seconds for another process that imports the same index
MESSAGE = 300  # characters of what a hostile file says about itself

log = logging.getLogger(__name__)


def open_published(index: PublishedIndex) -> None:
    """Bring the import of a published index up to date; without the Hub, what was imported before is used.

    Raises:
        HubError: the Hub refuses, or it does not answer and nothing was imported before.
        IndexingError: the index is not what it should be, or its folder cannot be written. An earlier import stays.
    """
    try:
        found, copy, manifest, fingerprint = _read_manifest(index)
        gallery = index.folder / manifest.gallery
        if not (imported := _is_imported(gallery, fingerprint)):
            _download_shards(index, found, manifest)
    except hub.HubUnreachable as error:
        if not any(index.folder.glob(f"*/{FILE}")):
            raise
        log.warning("The Hub is unreachable, so %s is used as it was. %s", index.address, error)
        return
    if not imported:
        with held(gallery, timeout=WAIT):
            if not _is_imported(gallery, fingerprint):  # another process may have done it
                log.info("importing %s, %d images", index.address, manifest.pictures)
                _import(index, copy, manifest, fingerprint)
    _drop_others(gallery)


def _read_manifest(index: PublishedIndex) -> tuple[hub.Repository, Path, PublishedManifest, str]:
    """Return what the repository holds, its local copy, its manifest, and a fingerprint of its content."""
    found = _mounted(index.mounted) if index.mounted else hub.describe("dataset", index.repo, index.revision, True)
    with _explained(index):
        if MANIFEST not in found.sizes:
            raise ValueError(f"it has no `{MANIFEST}`, so it is not an index")
        if found.sizes[MANIFEST] > MAX_MANIFEST:
            raise ValueError(f"it has a `{MANIFEST}` of more than {MAX_MANIFEST // 2**20} MB")
    copy = index.mounted or hub.fetch("dataset", index.repo, found.commit, [MANIFEST])
    with _explained(index):
        text = (copy / MANIFEST).read_bytes()
        return found, copy, from_json(text), sha256(text + str(FORMAT).encode()).hexdigest()[:16]


def _download_shards(index: PublishedIndex, found: hub.Repository, manifest: PublishedManifest) -> None:
    with _explained(index):
        for shard in manifest.shards:
            if found.sizes.get(shard.name) != shard.bytes:
                raise ValueError(f"it lacks `{shard.name}` with {shard.bytes:,} bytes, which its manifest names")
        _check_space(index, manifest)
    if not index.mounted:
        hub.fetch("dataset", index.repo, found.commit, [shard.name for shard in manifest.shards])


def _mounted(folder: Path) -> hub.Repository:
    """Return what is in a folder with the files of a published index."""
    files = [MANIFEST, *(path.relative_to(folder).as_posix() for path in folder.glob("data/*.parquet"))]
    sizes = {name: (folder / name).stat().st_size for name in files if (folder / name).is_file()}
    return hub.Repository("", tuple(sizes), sizes=sizes)


def _check_space(index: PublishedIndex, manifest: PublishedManifest) -> None:
    """Raise IndexingError unless there is space for the download and for the import."""
    vectors = 4 * manifest.pictures * sum(manifest.dimensions.values())
    needed = vectors + 2 * sum(shard.bytes for shard in manifest.shards)
    index.folder.mkdir(parents=True, exist_ok=True)
    if shutil.disk_usage(index.folder).free < needed:
        raise IndexingError(
            f"The index `{index.address}` needs {needed / 1e6:,.0f} MB in `{index.folder}`. Free some space, or set "
            "`HF_HOME` to another folder."
        )


@contextmanager
def _explained(index: PublishedIndex) -> Iterator[None]:
    """Turn what is wrong with the files of a repository into an error that says what to do."""
    try:
        yield
    except ValueError as error:
        problem = printable(str(error))[:MESSAGE]
        raise IndexingError(
            f"The index `{index.address}` is not used: {problem}. Ask its publisher to push it again, or name "
            "an earlier commit: `--index ORG/NAME@COMMIT`."
        ) from error
    except OSError as error:
        raise cannot_write(index.folder, error) from error


def _is_imported(gallery: Path, fingerprint: str) -> bool:
    """Return whether a gallery's published snapshot is the import of this content, and as it was written."""
    try:
        published = read_manifest(gallery)
        if published is None or published.fingerprint != fingerprint:
            return False
        for name in published.digests:
            check(gallery / published.snapshot, name, published.digests)
    except (IndexingError, OSError, ValueError) as error:
        log.warning("The import in `%s` is damaged (%s), so it is made again.", gallery, error)
        return False
    return True


def _import(index: PublishedIndex, copy: Path, manifest: PublishedManifest, fingerprint: str) -> None:
    """Write a snapshot from a copy of the repository, and make it visible; the gallery must be locked."""
    gallery, features = index.folder / manifest.gallery, tuple(manifest.features)
    snapshot = next_snapshot(gallery, fingerprint)
    try:
        with _explained(index):
            acquire_lock(snapshot).release()  # creates the folder
            _unpack(copy, snapshot, manifest)
            published = Manifest(
                gallery=manifest.gallery,
                snapshot=snapshot.name,
                source=GallerySource(index.address),
                fingerprint=fingerprint,
                features=manifest.features,
                pictures=manifest.pictures,
                skipped=0,
                ignored={},
                notes=(),
                created=manifest.created,
                changes=Changes(0, manifest.pictures, 0),
                background=background_of(snapshot, features),
                digests=digests_of(snapshot, [ITEMS, *(f"{name}.npy" for name in features)]),
            )
        publish(gallery, published)
    except BaseException:
        shutil.rmtree(snapshot, ignore_errors=True)
        raise
    sweep(gallery)


def _unpack(copy: Path, snapshot: Path, manifest: PublishedManifest) -> None:
    """Run `unpack` in a process of its own; raise ValueError, which says what is wrong with the files, or OSError."""
    job = {
        "copy": str(copy.absolute()),
        "snapshot": str(snapshot.absolute()),
        "shards": {shard.name: asdict(shard) for shard in manifest.shards},
        "dimensions": manifest.dimensions,
    }
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "retrieval.indexing.unpack"],
            input=json.dumps(job),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # it could hold text from the files
            env=clean_environment(),
            text=True,
            errors="replace",
            timeout=SECONDS + SECONDS_PER_PICTURE * manifest.pictures,
        )
    except subprocess.TimeoutExpired as error:
        raise ValueError("reading it takes too long") from error
    if done.returncode == DISK_ERROR:
        number = int(done.stdout)
        raise OSError(number, os.strerror(number))
    if done.returncode:
        raise ValueError(done.stdout.strip() or f"reading it makes the reader crash (exit code {done.returncode})")


def _drop_others(gallery: Path) -> None:
    """Delete earlier imports under other names; a repository has one gallery."""
    for other in gallery.parent.glob(f"*/{FILE}"):
        if other.parent != gallery:
            with held(other.parent, timeout=WAIT):
                other.unlink()
                sweep(other.parent)
