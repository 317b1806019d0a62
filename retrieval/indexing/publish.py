"""Write snapshots from the embedding store, publish them, and delete what they replace."""

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from retrieval.digests import digests_of
from retrieval.engines.item_ids import IDS, POSITIONS, id_of, write_ids
from retrieval.engines.lock import IndexInUse, acquire_lock
from retrieval.errors import disk_errors
from retrieval.features import Vectors
from retrieval.features.base import FeatureIdentity
from retrieval.gallery.source import Item, Stamp
from retrieval.indexing.embeddings import KEY, EmbeddingStore, PartDamaged, StoredPicture, fill_matrix, key_array
from retrieval.metrics import QUANTILES, Metric, score_pairs
from retrieval.storage.items import GROUP_ROWS, ITEMS
from retrieval.storage.manifest import FILE, Manifest, publish_manifest, read_manifest, thumbnail_path

BACKGROUND_PAIRS = 4000
PAIRS_AT_ONCE = 64

TEXTS = ("id", "label", "caption", "author", "license", "path")
NUMBERS = ("row", "width", "height", "thumbnail_crc", "bytes", "mtime_ns")
COLUMNS = pa.schema([("key", KEY), *((name, pa.string()) for name in TEXTS), *((name, pa.int64()) for name in NUMBERS)])


@dataclass(frozen=True)
class SnapshotItem:
    """An item and its image's entry in the store."""

    item: Item
    picture: StoredPicture


def next_snapshot(gallery: Path, fingerprint: str) -> Path:
    """Return a new folder for a snapshot.

    Its name depends on its content, since browsers keep thumbnails by address, even if a gallery was deleted meanwhile.
    """
    numbers = (path.name.split("-")[1] for path in gallery.glob("snapshot-*-*"))
    number = max((int(each) for each in numbers if each.isdecimal()), default=0) + 1
    return gallery / f"snapshot-{number:06d}-{fingerprint[:8]}"


def write_snapshot(
    snapshot: Path, items: Sequence[SnapshotItem], store: EmbeddingStore, features: Mapping[str, FeatureIdentity]
) -> dict[str, str]:
    """Write items, matrices and thumbnails to the folder of a snapshot; return the digests of items and matrices.

    Raises:
        PartDamaged: a part of the store was damaged, and its images have to be embedded again.
        IndexingError: the folder cannot be written.
    """
    with disk_errors(snapshot.parent):
        acquire_lock(snapshot).release()  # creates the folder
        _write_items(snapshot / ITEMS, items)
        keys = key_array(each.picture.key for each in items)
        for name, identity in features.items():
            fill_matrix(snapshot / f"{name}.npy", keys, identity.dimensions, store.vectors(name, identity))
        _link_thumbnails(snapshot, items, store)
        return digests_of(snapshot, [ITEMS, *(f"{name}.npy" for name in features)])


def write_server_snapshot(snapshot: Path, items: Sequence[SnapshotItem]) -> dict[str, str]:
    """Write items and their ids in collections to the folder of a snapshot; return the digests of the files.

    Readers take thumbnails from the store. Raise IndexingError if the folder cannot be written.
    """
    with disk_errors(snapshot.parent):
        acquire_lock(snapshot).release()  # creates the folder
        _write_items(snapshot / ITEMS, items)
        write_ids(snapshot, (id_of(each.picture.key, each.item.label) for each in items))
        return digests_of(snapshot, [ITEMS, IDS, POSITIONS])


def _link_thumbnails(snapshot: Path, items: Sequence[SnapshotItem], store: EmbeddingStore) -> None:
    for each in items:
        source = store.thumbnail(each.picture.key)
        try:
            _link(source, thumbnail_path(snapshot, each.item.row))
        except FileNotFoundError as error:
            raise PartDamaged(f"The thumbnail `{source}` has just been deleted. It is made again.") from error


def _write_items(path: Path, items: Sequence[SnapshotItem]) -> None:
    rows = []
    for each in items:
        stamp = each.item.stamp or Stamp("", 0, 0)
        file = {"path": stamp.path, "bytes": stamp.size, "mtime_ns": stamp.mtime_ns}
        rows.append(vars(each.item) | vars(each.picture) | file)  # of which the schema names the columns
    with path.open("wb") as target:
        table = pa.Table.from_pylist(rows, schema=COLUMNS)
        pq.write_table(table, target, write_page_checksum=True, row_group_size=GROUP_ROWS)


def read_columns(snapshot: Path, *names: str) -> Iterator[tuple[Any, ...]]:
    """Yield the values of some columns of each item, in gallery order; raise OSError if they cannot be read."""
    table = pq.read_table(snapshot / ITEMS, columns=list(names))
    return zip(*(table[name].to_pylist() for name in names), strict=True)


def known_stamps(snapshot: Path) -> dict[Stamp, bytes]:
    """Return the keys of the files of a snapshot whose time tells whether they have changed."""
    rows = read_columns(snapshot, "path", "bytes", "mtime_ns", "key")
    return {Stamp(path, size, mtime): key for path, size, mtime, key in rows if mtime}


def uncertain_keys(snapshot: Path) -> dict[str, bytes]:
    """Return the keys, by id, of the items without such a time."""
    return {item_id: key for item_id, mtime, key in read_columns(snapshot, "id", "mtime_ns", "key") if not mtime}


def keys_of(snapshot: Path) -> set[bytes]:
    """Return the keys of a snapshot's images; none if it is damaged."""
    try:
        return {key for (key,) in read_columns(snapshot, "key")}
    except (OSError, pa.ArrowException):
        return set()


def _link(source: Path, target: Path) -> None:
    """Give a file another name, or copy it where the file system has no links."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def publish(gallery: Path, manifest: Manifest) -> None:
    """Make a snapshot visible in a single step; raise IndexingError if that fails."""
    with disk_errors(gallery):
        os.sync()  # the files must be on disk before the manifest that names them
        publish_manifest(gallery, manifest)


def sweep(gallery: Path) -> None:
    """Delete all snapshots except the published one and those in use; the gallery must be claimed."""
    published = read_manifest(gallery)
    for leftover in gallery.glob(f"{FILE}.*.tmp"):
        leftover.unlink(missing_ok=True)
    for folder in (*gallery.glob("snapshot-*"), *gallery.glob("build-*")):  # format 4 had builds
        if published and folder.name == published.snapshot:
            for leftover in folder.glob("*.tmp"):
                leftover.unlink(missing_ok=True)
            continue
        try:
            lock = acquire_lock(folder)
        except IndexInUse:
            continue  # it is still being read; a later sweep deletes it
        shutil.rmtree(folder, ignore_errors=True)
        lock.release()


def background_of(snapshot: Path, features: Sequence[str]) -> dict[str, dict[str, list[float]]]:
    """Return the quantiles of the scores of random pairs of different images, by feature type and metric.

    A score within them is no better than chance in this gallery.
    """
    found: dict[str, dict[str, list[float]]] = {}
    for name in features:
        vectors: Vectors = np.load(snapshot / f"{name}.npy", mmap_mode="r")
        if len(vectors) < 2:
            return {}
        random = np.random.default_rng(0)
        first = random.integers(len(vectors), size=BACKGROUND_PAIRS)
        second = (first + random.integers(1, len(vectors), size=BACKGROUND_PAIRS)) % len(vectors)
        parts: dict[Metric, list[npt.NDArray[np.float64]]] = {metric: [] for metric in Metric}
        for start in range(0, BACKGROUND_PAIRS, PAIRS_AT_ONCE):
            rows = slice(start, start + PAIRS_AT_ONCE)
            for metric, scores in parts.items():
                scores.append(score_pairs(metric, vectors[first[rows]], vectors[second[rows]]))
        found[name] = {
            metric: [round(float(value), 6) for value in np.quantile(np.concatenate(scores), QUANTILES)]
            for metric, scores in parts.items()
        }
    return found
