"""Check all files of an index, rename and delete galleries, and delete embeddings that no gallery uses."""

import argparse
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from retrieval.digests import check
from retrieval.engines import ENGINES
from retrieval.engines.base import EngineDamaged
from retrieval.engines.lock import IndexInUse, acquire_lock, held
from retrieval.errors import IndexingError, QueryError, disk_errors
from retrieval.features.base import FeatureIdentity
from retrieval.files import sync_folder
from retrieval.indexing.embeddings import PRUNE_LOCK, WORKER, EmbeddingStore
from retrieval.indexing.publish import keys_of, read_columns, sweep
from retrieval.settings import folder_name
from retrieval.storage.catalog import Indexes
from retrieval.storage.items import ITEMS
from retrieval.storage.manifest import (
    FILE,
    STORE,
    Manifest,
    build_command,
    read_manifest,
    stored_thumbnail,
    thumbnail_path,
)
from retrieval.storage.projection import Method, projection_path, read_projection
from retrieval.storage.vectors import ItemVectors

if TYPE_CHECKING:
    from retrieval.engines.chroma_server import ChromaServer


def verify(index: Path, server: str | None = None) -> Iterator[str]:
    """Read every file of an index and yield one sentence per problem, with the command that repairs it.

    Of collections on a server, the ids are compared.
    """
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
            if manifest.collections:
                for problem in _problems_on_server(index / name / manifest.snapshot, manifest, server):
                    yield f"{name}: {problem}. {remedy}"
    store = EmbeddingStore(index)
    for parts in store.all_parts():
        for path in sorted(parts.folder.glob("*.parquet")):
            try:
                pq.read_table(path, page_checksum_verification=True)
            except (OSError, pa.ArrowException) as error:
                yield f"`{path}` is damaged ({error}). Delete it and build the galleries again."


def _problems_on_server(snapshot: Path, manifest: Manifest, server: str | None) -> Iterator[str]:
    from retrieval.indexing.server_update import Update  # imports chromadb

    if not server:
        yield "its collections are not checked without the address of the ChromaDB server"
        return
    try:
        yield from Update(server, snapshot, manifest.collections, manifest.known).differences()
    except (OSError, ValueError, IndexingError) as error:
        yield str(error).rstrip(".")


def _problems(snapshot: Path, manifest: Manifest) -> Iterator[str]:
    try:
        for name in manifest.digests:
            check(snapshot, name, manifest.digests)
        thumbnails = read_columns(snapshot, "row", "key", "thumbnail_crc")
    except (OSError, ValueError, pa.ArrowException) as error:
        yield str(error)
        return
    for row, key, crc in thumbnails:
        stored = stored_thumbnail(snapshot.parent.parent, key)
        path = stored if manifest.collections else thumbnail_path(snapshot, row)
        try:
            if zlib.crc32(path.read_bytes()) != crc:
                yield f"the thumbnail {path.name} is damaged, which takes `--rebuild`"
        except OSError as error:
            yield f"the thumbnail {path.name} cannot be read ({error.strerror}), which takes `--rebuild`"
    if manifest.collections:
        return
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


def rename(indexes: Indexes, name: str, new: str) -> None:
    """Rename a gallery in one step. Searches that have begun finish, or ask to be repeated.

    Raises:
        QueryError: there is no gallery of that name, or the new name cannot be used.
        IndexingError: the gallery is being built, or its folder cannot be renamed.
    """
    target = indexes.root / _new_name(new)
    with _claimed(indexes, name) as folder:
        manifest = _readable(folder)
        source = manifest and manifest.source.path
        if source and source.resolve().is_relative_to(folder.resolve()):
            raise IndexingError(f"The images of the gallery {name!r} are in `{source}`, which would be renamed, too.")
        if target.exists():
            raise QueryError(f"There is already something named {new!r} in the index. Choose another name.")
        with disk_errors(indexes.root):
            folder.rename(target)
            sync_folder(indexes.root)
    indexes.names()  # which closes it under its old name


def delete(indexes: Indexes, name: str) -> None:
    """Delete a gallery, but neither its images nor their embeddings; see `prune`.

    It is gone in one step. A snapshot in which a search is running, or which another process uses, is deleted by the
    next call of this function or of `prune`.

    Raises:
        QueryError: there is no gallery of that name.
        IndexingError: the gallery is being built, its folder cannot be written, or a server does not answer.
    """
    with _claimed(indexes, name) as folder:
        server = _connected(_readable(folder), indexes.server)
        with disk_errors(folder):
            (folder / FILE).unlink()
            sync_folder(folder)
        indexes.names()  # which closes it
        if server:
            server.drop(list(server.names.values()))
    _delete_leftovers(indexes.root)


def _connected(manifest: Manifest | None, address: str | None) -> "ChromaServer | None":
    """Connect to the server that holds the vectors of a gallery; return None if they are in its folder."""
    if manifest is None or not manifest.collections:
        return None
    from retrieval.engines.chroma_server import ChromaServer  # imports chromadb, which takes a second

    if address is None:
        raise IndexingError(
            f"The vectors of the gallery {manifest.gallery!r} are on a ChromaDB server, and are deleted there, too. "
            "Name its address: `--index http://HOST:PORT --files DIR`"
        )
    return ChromaServer(address, manifest.collections, manifest.known)


def _new_name(text: str) -> str:
    try:
        name = folder_name(text.strip())
    except argparse.ArgumentTypeError as error:
        raise QueryError(f"{str(error)[0].upper()}{str(error)[1:]}.") from error
    if name == STORE:
        raise QueryError(f"The folder {STORE!r} of an index holds the embeddings. Choose another name.")
    return name


def _readable(folder: Path) -> Manifest | None:
    """Return the manifest of a gallery, or None if it is damaged."""
    with suppress(IndexingError):
        return read_manifest(folder)
    return None


@contextmanager
def _claimed(indexes: Indexes, name: str) -> Iterator[Path]:
    """Return a context with the folder of a gallery, in which no builder and no prune uses it.

    Raises:
        QueryError: there is no gallery of that name.
        IndexingError: it is being built, or its folder is a link or cannot be written.
    """
    indexes.check_name(name)
    folder = indexes.root / name
    if folder.is_symlink():
        raise IndexingError(f"`{folder}` is a link to another folder. Rename or delete the link itself.")
    try:
        lock = acquire_lock(folder, create=False)
    except IndexInUse as error:
        raise IndexInUse(
            f"The gallery {name!r} is being built or updated. Wait until that is done or cancel it, then try again."
        ) from error
    try:
        EmbeddingStore(indexes.root).wait_for_prune()
        indexes.check_name(name)  # another process may have been faster
        yield folder
    finally:
        lock.release()


def _delete_leftovers(index: Path) -> None:
    """Delete what is left of deleted galleries, unless it is in use, but no file that is not of this program."""
    for folder in {path.parent for path in index.glob("*/snapshot-*-*") if not (path.parent / FILE).exists()}:
        with suppress(IndexInUse), held(folder), disk_errors(folder):
            sweep(folder)
            if any(folder.glob("snapshot-*")):
                continue
            for name in ("collections", "lock"):
                (folder / name).unlink(missing_ok=True)
            with suppress(OSError):  # something else is in it
                folder.rmdir()


def prune(index: Path) -> int:
    """Delete the embeddings that no published gallery uses; return the bytes freed.

    Raises:
        IndexingError: a gallery is damaged or being built, or the folder cannot be written.
    """
    indexes, store = Indexes(index), EmbeddingStore(index)
    used, identities = set[bytes](), set[tuple[str, FeatureIdentity]]()
    if not store.folder.is_dir():
        return 0
    _delete_leftovers(index)
    with held(store.folder, PRUNE_LOCK):
        # Builders that start from now on wait. Others hold the lock of a gallery, perhaps a new one, or of a worker.
        for path in (*index.glob("*/lock"), *store.folder.glob(f"{WORKER}-*.lock")):
            acquire_lock(path.parent, name=path.name).release()
        for name in indexes.names():
            if manifest := indexes.manifest(name):
                _check_items(index / name, manifest)
                used |= keys_of(index / name / manifest.snapshot)
                identities |= set(manifest.features.items())
        return store.prune(used, identities)
