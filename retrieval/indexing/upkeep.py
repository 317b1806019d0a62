"""Check all files of an index, and delete embeddings that no gallery uses."""

import zlib
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from retrieval.digests import check
from retrieval.engines import ENGINES
from retrieval.engines.base import EngineDamaged
from retrieval.engines.lock import acquire_lock
from retrieval.errors import IndexingError
from retrieval.features.base import FeatureIdentity
from retrieval.indexing.embeddings import PRUNE_LOCK, WORKER, EmbeddingStore
from retrieval.indexing.publish import keys_of, read_columns
from retrieval.storage.catalog import Indexes
from retrieval.storage.manifest import Manifest, build_command, thumbnail_path
from retrieval.storage.projection import Method, projection_path, read_projection
from retrieval.storage.vectors import ITEMS, ItemVectors


def verify(index: Path) -> Iterator[str]:
    """Read every file of an index and yield one sentence per problem, with the command that repairs it."""
    indexes = Indexes(index)
    for name in indexes.names():
        remedy = f"Repair it: `{build_command(index / name)}`"
        try:
            manifest = indexes.manifest(name)
        except IndexingError as error:
            yield str(error)
            continue
        if manifest:
            for problem in _problems(index / name / manifest.snapshot, manifest):
                yield f"{name}: {problem}. {remedy}"
    store = EmbeddingStore(index)
    for parts in store.all_parts():
        for path in sorted(parts.folder.glob("*.parquet")):
            try:
                pq.read_table(path, page_checksum_verification=True)
            except (OSError, pa.ArrowException) as error:
                yield f"`{path}` is damaged ({error}). Delete it and build the galleries again."


def _problems(snapshot: Path, manifest: Manifest) -> Iterator[str]:
    try:
        for name in manifest.digests:
            check(snapshot, name, manifest.digests)
        thumbnails = read_columns(snapshot, "row", "thumbnail_crc")
    except (OSError, ValueError, pa.ArrowException) as error:
        yield str(error)
        return
    for row, crc in thumbnails:
        path = thumbnail_path(snapshot, row)
        try:
            if zlib.crc32(path.read_bytes()) != crc:
                yield f"the thumbnail {path.name} is damaged, which takes `--rebuild`"
        except OSError as error:
            yield f"the thumbnail {path.name} cannot be read ({error.strerror}), which takes `--rebuild`"
    for features in manifest.features:
        for method in Method:
            if projection_path(snapshot, features, method).exists():
                try:
                    read_projection(snapshot, features, method, manifest.pictures, manifest.dimensions(features))
                except (OSError, ValueError) as error:
                    yield str(error)
    vectors = ItemVectors.of(snapshot, manifest)
    for engine in ENGINES.values():
        try:
            engine.probe(vectors, snapshot)
        except (OSError, EngineDamaged) as error:
            yield f"{error}, so it is rebuilt at the next search by {engine.title}"


def _check_items(gallery: Path, manifest: Manifest) -> None:
    try:
        check(gallery / manifest.snapshot, ITEMS, manifest.digests)
    except (OSError, ValueError) as error:
        raise IndexingError(
            f"Nothing was deleted, because the gallery {manifest.gallery!r} is damaged ({error}) and its embeddings "
            f"are needed to repair it: `{build_command(gallery)}`"
        ) from error


def prune(index: Path) -> int:
    """Delete the embeddings that no published gallery uses; return the bytes freed.

    Raises:
        IndexingError: a gallery is damaged or being built, or the folder cannot be written.
    """
    indexes, store = Indexes(index), EmbeddingStore(index)
    used, identities = set[bytes](), set[tuple[str, FeatureIdentity]]()
    # Builders that start from now on wait. The others hold the lock of a gallery, perhaps a new one, or of a worker.
    locks = [acquire_lock(store.folder, name=PRUNE_LOCK, create=False)] if store.folder.is_dir() else []
    locks += [acquire_lock(path.parent) for path in index.glob("*/lock")]
    locks += [acquire_lock(store.folder, name=path.name) for path in store.folder.glob(f"{WORKER}-*.lock")]
    try:
        for name in indexes.names():
            if manifest := indexes.manifest(name):
                _check_items(index / name, manifest)
                used |= keys_of(index / name / manifest.snapshot)
                identities |= set(manifest.features.items())
        return store.prune(used, identities)
    finally:
        for lock in locks:
            lock.release()
