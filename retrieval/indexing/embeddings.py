"""The embedding store: thumbnails and vectors of images, by the content of their files.

embeddings/pictures/*.parquet               key, size and thumbnail of each image
embeddings/thumbnails/<xx>/<key>.jpg        its thumbnail
embeddings/<features>-<identity>/*.parquet  key and vector of each image

It is the source of truth: snapshots are made from it, and an image whose key is in it is never decoded or embedded
again. A part is a Parquet file with checksums, written once under a name of its own, by rename, so that builders on
several machines can share the folder. If two parts have the same key, the later part by name counts.
"""

import hashlib
import logging
import os
import shutil
import time
import uuid
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from retrieval.engines.item_ids import KEY_BYTES
from retrieval.engines.lock import IndexInUse, acquire_lock, held
from retrieval.errors import disk_errors
from retrieval.features import Vectors
from retrieval.features.base import FeatureIdentity
from retrieval.files import whole_file
from retrieval.storage.manifest import STORE, size_of, stored_thumbnail

log = logging.getLogger(__name__)

KEY = pa.binary(KEY_BYTES)
SMALL_PART = 1024  # rows; when there are many parts with fewer rows, they are merged
SMALL_PARTS = 16
PRUNE_LOCK = "prune.lock"
PRUNE_WAIT = 60.0  # seconds
WORKER = "worker"  # the beginning of the names of the locks of processes that write to a store

Keys = npt.NDArray[np.bytes_]


class PartDamaged(Exception):
    """A part was damaged and has been deleted; its images are missing from the store now."""


def key_of(content: bytes) -> bytes:
    """Return the key of an image: the first 16 bytes of the SHA-256 digest of its file."""
    return hashlib.sha256(content).digest()[:KEY_BYTES]


@dataclass(frozen=True)
class StoredPicture:
    """What the store knows about an image besides its vectors."""

    key: bytes
    width: int  # pixels of the upright image
    height: int
    thumbnail_bytes: int
    thumbnail_crc: int


PICTURES = pa.schema(
    [("key", KEY), *((name, pa.int64()) for name in StoredPicture.__dataclass_fields__ if name != "key")]
)


class Parts:
    """The parts of one kind: Parquet files with the same columns in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, table: pa.Table) -> None:
        """Write a new part; raise OSError if that fails."""
        self.folder.mkdir(parents=True, exist_ok=True)
        # Ordered by time, also after a clock went back, except between machines, whose entries are equal.
        last = max((int(path.name.partition("-")[0]) for path in self.folder.glob("*.parquet")), default=0)
        path = self.folder / f"{max(time.time_ns(), last + 1):020d}-{uuid.uuid4().hex[:8]}.parquet"
        with whole_file(path) as file:
            pq.write_table(table, file, write_page_checksum=True, use_dictionary=False, compression="zstd")

    def read(self, columns: list[str] | None = None) -> Iterator[tuple[str, pa.Table]]:
        """Yield the name and content of every part, in the order in which they were written.

        Parts that another builder merges meanwhile are followed by the merged one.

        Raises:
            PartDamaged: a part was damaged, and has been deleted.
            OSError: a part cannot be read at the moment.
        """
        seen = set[Path]()
        while paths := sorted(set(self.folder.glob("*.parquet")) - seen):
            for path in paths:
                seen.add(path)
                try:
                    yield path.name, pq.read_table(path, columns=columns, page_checksum_verification=True)
                except FileNotFoundError:
                    break
                except MemoryError:
                    raise
                except (OSError, pa.ArrowException) as error:
                    if isinstance(error, OSError) and error.errno:
                        raise
                    path.unlink(missing_ok=True)
                    raise PartDamaged(f"`{path}` was damaged ({error}). Its images are embedded again.") from error

    def whole(self, columns: list[str] | None = None) -> list[pa.Table]:
        """Return every part that is not damaged; the others are deleted, and their entries count as missing."""
        while True:
            try:
                return [part for _, part in self.read(columns)]
            except PartDamaged as error:
                log.warning("%s", error)

    def keys(self) -> set[bytes]:
        """Return the keys of all entries in parts that are not damaged."""
        return {key for part in self.whole(["key"]) for key in part["key"].to_pylist()}

    def merge(self, wanted: Callable[[pa.Table], pa.Table] = lambda part: part, smaller: float = SMALL_PART) -> None:
        """Merge parts with fewer rows than `smaller` into one, with only the `wanted` rows of each."""
        old, parts = list[Path](), list[pa.Table]()
        for path in self._smaller(smaller):
            with suppress(OSError, pa.ArrowInvalid):  # damaged
                parts.append(wanted(pq.read_table(path, page_checksum_verification=True)))
                old.append(path)
        if any(part.num_rows for part in parts):
            self.write(_last_of_each_key(pa.concat_tables(parts)))
        for path in old:
            path.unlink()

    @property
    def small(self) -> int:
        """The number of parts with few rows, which shows whether to merge them."""
        return len(self._smaller(SMALL_PART))

    def _smaller(self, rows: float) -> list[Path]:
        """Return the parts with fewer rows; those that cannot be read are left to `read`."""
        found = []
        for path in sorted(self.folder.glob("*.parquet")):
            with suppress(OSError, pa.ArrowInvalid):
                if pq.read_metadata(path).num_rows < rows:
                    found.append(path)
        return found


def _last_of_each_key(table: pa.Table) -> pa.Table:
    """Return the rows of a table without those whose key comes again later."""
    backwards = key_array(reversed(table["key"].to_pylist()))
    first = np.unique(backwards, return_index=True)[1]
    return table if len(first) == len(backwards) else table.take(np.sort(len(backwards) - 1 - first))


class EmbeddingStore:
    """The embedding store of an index folder. Several builders may write to it at the same time."""

    def __init__(self, index: Path) -> None:
        self._index = index
        self.folder = index / STORE
        self.pictures = Parts(self.folder / "pictures")

    def vectors(self, features: str, identity: FeatureIdentity) -> Parts:
        """Return the parts with the vectors of a feature set."""
        return Parts(self.folder / _folder_name(features, identity))

    def thumbnail(self, key: bytes) -> Path:
        """Return the path of an image's thumbnail."""
        return stored_thumbnail(self._index, key)

    def write_thumbnail(self, key: bytes, size: tuple[int, int], content: bytes) -> StoredPicture:
        """Write a thumbnail; return the entry that `add` takes when the vectors are known."""
        path = self.thumbnail(key)
        with disk_errors(self.folder):
            path.parent.mkdir(parents=True, exist_ok=True)
            with whole_file(path, durable=False) as file:  # its size is checked
                file.write(content)
        return StoredPicture(key, *size, len(content), zlib.crc32(content))

    def complete_pictures(self) -> dict[bytes, StoredPicture]:
        """Return the entries of all images whose thumbnail is there."""
        found: dict[bytes, StoredPicture] = {}
        for part in self.pictures.whole():
            for values in part.to_pylist():
                found[values["key"]] = StoredPicture(**values)
        return {key: entry for key, entry in found.items() if self._has_thumbnail(entry)}

    def _has_thumbnail(self, entry: StoredPicture) -> bool:
        try:
            return self.thumbnail(entry.key).stat().st_size == entry.thumbnail_bytes
        except OSError:
            return False

    def add_pictures(self, entries: Collection[StoredPicture]) -> None:
        """Write a part with images; raise IndexingError if that fails."""
        rows = [asdict(entry) for entry in entries]
        self._write(self.pictures, pa.Table.from_pylist(rows, schema=PICTURES))

    def add_vectors(self, features: str, identity: FeatureIdentity, keys: list[bytes], vectors: Vectors) -> None:
        """Write a part with the vectors of n images, shape (n, d); raise IndexingError if that fails."""
        flat = pa.array(np.ascontiguousarray(vectors, np.float32).ravel())
        column = pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1])
        self._write(self.vectors(features, identity), pa.table({"key": pa.array(keys, KEY), "vector": column}))

    def _write(self, parts: Parts, table: pa.Table) -> None:
        with disk_errors(self.folder):
            parts.write(table)

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Return a context in which no other process prunes the store."""
        name = f"{WORKER}-{uuid.uuid4().hex[:8]}.lock"
        try:
            with held(self.folder, name):
                self.wait_for_prune()
                yield
        finally:
            (self.folder / name).unlink(missing_ok=True)

    def wait_for_prune(self) -> None:
        """Wait while another process prunes the store; a builder calls this once it holds a lock that `prune` sees."""
        acquire_lock(self.folder, PRUNE_WAIT, name=PRUNE_LOCK).release()

    def merge_small_parts(self) -> None:
        """Merge small parts where there are many of them, unless another builder does it at the moment."""
        with suppress(IndexInUse), held(self.folder, "merge.lock"):
            for parts in self.all_parts():
                if parts.small > SMALL_PARTS:
                    parts.merge()

    def prune(self, used: Collection[bytes], identities: Collection[tuple[str, FeatureIdentity]]) -> int:
        """Delete every image that is not `used`, and the vectors of feature sets that are not; return the bytes freed.

        Raises:
            IndexingError: the folder cannot be written.
        """
        before = size_of(self.folder)
        kept = {_folder_name(*each) for each in identities} | {"pictures", "thumbnails"}
        keys = pa.array(list(used), KEY)
        with disk_errors(self.folder):
            for folder in self.folder.glob("*/"):
                if folder.name not in kept:
                    shutil.rmtree(folder)
            for parts in self.all_parts():
                parts.merge(lambda part: part.filter(pc.is_in(part["key"], value_set=keys)), float("inf"))
                for leftover in parts.folder.glob("*.tmp"):  # of a killed builder
                    leftover.unlink()
            names = {f"{key.hex()}.jpg" for key in used}
            for path in (self.folder / "thumbnails").glob("*/*"):
                if path.name not in names:
                    path.unlink()
        return before - size_of(self.folder)

    def all_parts(self) -> Iterator[Parts]:
        """Yield the parts of every kind."""
        for folder in sorted(self.folder.glob("*/")):
            if folder.name != "thumbnails":
                yield Parts(folder)


def fill_matrix(path: Path, keys: Keys, dimensions: int, parts: Parts) -> None:
    """Write the vectors of n images, in the order of their keys, to a file in numpy's format, shape (n, d).

    Raises:
        PartDamaged: a part was damaged, and has been deleted.
        OSError: the file cannot be written.
    """
    unique, places = np.unique(keys, return_inverse=True)
    part_of, row_of = np.full((2, len(unique)), -1, np.int64)  # where each vector is
    names: list[str] = []
    for name, part in parts.read(["key"]):
        rows, found = _among(unique, key_array(part["key"].to_pylist()))
        part_of[found], row_of[found] = len(names), rows
        names.append(name)
    if missing := int((part_of < 0).sum()):
        raise PartDamaged(f"{missing:,} vectors in `{parts.folder}` are missing. They are computed again.")
    with new_matrix(path, (len(keys), dimensions)) as file:
        _reserve(file, 4 * len(keys) * dimensions)
    matrix = np.load(path, mmap_mode="r+")
    left = len(keys)
    for name, part in parts.read():
        (positions,) = np.nonzero(part_of[places] == names.index(name)) if name in names else (np.empty(0, np.intp),)
        left -= len(positions)
        vectors = part["vector"].combine_chunks().flatten().to_numpy().reshape(-1, dimensions)
        matrix[positions] = vectors[row_of[places[positions]]]
    matrix.flush()
    if left:
        raise PartDamaged(f"Parts of `{parts.folder}` have just been merged. The snapshot is written again.")


def new_matrix(path: Path, shape: tuple[int, int]) -> IO[bytes]:
    """Return a new file in numpy's format for vectors of this shape, (n, d), which are to be written to it."""
    file = path.open("wb")
    header = {"descr": np.dtype(np.float32).str, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    return file


def _reserve(file: Any, size: int) -> None:
    """Reserve space for a file, since a full disk would end a process that writes through a memory map."""
    if hasattr(os, "posix_fallocate"):
        file.flush()
        os.posix_fallocate(file.fileno(), file.tell(), max(1, size))
        return
    for _ in range(0, size, 2**20):
        file.write(bytes(2**20))
    file.truncate(file.tell())


def key_array(keys: Iterable[bytes]) -> Keys:
    """Return keys as an array, shape (n,)."""
    return np.frombuffer(b"".join(keys), f"S{KEY_BYTES}")


def _among(unique: Keys, keys: Keys) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Return the rows of the keys that are among the unique ones, and their positions there."""
    found = np.minimum(np.searchsorted(unique, keys), len(unique) - 1)
    (rows,) = np.nonzero(unique[found] == keys)
    return rows, found[rows]


def _folder_name(features: str, identity: FeatureIdentity) -> str:
    return f"{features}-{hashlib.sha256(repr(identity).encode()).hexdigest()[:12]}"
