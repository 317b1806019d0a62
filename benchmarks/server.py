"""Measure a gallery on a ChromaDB server: writing and querying vectors, and the start of a reader.

chroma run --path DIR --port 8123                               a server, in another terminal
python benchmarks/server.py vectors --url http://127.0.0.1:8123 --images 3000   write and query; deletes them afterwards
python benchmarks/server.py start --images 10000000                     open a gallery of so many images; needs 2 GB
"""

import argparse
import resource
import sys
import time
import uuid
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from retrieval.digests import digests_of
from retrieval.engines.chroma_server import ChromaServer
from retrieval.engines.item_ids import IDS, KEY_BYTES, POSITIONS, id_array, id_of, write_ids
from retrieval.features.base import FeatureIdentity
from retrieval.gallery.source import GallerySource
from retrieval.indexing.publish import COLUMNS
from retrieval.metrics import View
from retrieval.storage.items import GROUP_ROWS, ITEMS
from retrieval.storage.manifest import Changes, Manifest, publish_manifest
from retrieval.storage.reader import GalleryIndex

LENGTHS = {"pixels": 768, "clip": 512}
IDENTITIES = {name: FeatureIdentity("random", "", "", "float32", length) for name, length in LENGTHS.items()}
CLASSES = 1000
AT_ONCE = 100_000
QUERIES = 100
NEIGHBOURS = 28  # what a search for 12 results asks for


def measure_vectors(url: str, count: int) -> None:
    """Write random vectors to the five collections of a gallery, and print the time per image and per query."""
    chance = np.random.default_rng(0)
    server = ChromaServer(url, f"benchmark-{uuid.uuid4().hex[:12]}", IDENTITIES)
    server.create()
    ids = np.sort(id_array(id_of(chance.bytes(KEY_BYTES), "") for _ in range(count)))
    vectors = {name: chance.random((count, length), np.float32) for name, length in LENGTHS.items()}
    try:
        started = time.perf_counter()
        for key in server.names:
            server.upsert(key, ids, [""] * count, vectors[key[0]])
        print(f"written: {(time.perf_counter() - started) / count * 1e3:.2f} ms per image")
        for name, each in vectors.items():
            took = []
            for query in each[:QUERIES]:
                started = time.perf_counter()
                server.nearest((name, View.PLAIN), query, NEIGHBOURS, None)
                took.append(time.perf_counter() - started)
            print(f"{name}: {np.median(took) * 1e3:.1f} ms per query")
    finally:
        server.drop(list(server.names.values()))


def write_snapshot(folder: Path, count: int) -> Manifest:
    """Write a snapshot of random items, without vectors and thumbnails."""
    snapshot = folder / "snapshot"
    snapshot.mkdir()
    chance, ids = np.random.default_rng(0), list[bytes]()
    with pq.ParquetWriter(snapshot / ITEMS, COLUMNS, write_page_checksum=True) as file:
        for start in range(0, count, AT_ONCE):
            rows = np.arange(start, min(start + AT_ONCE, count))
            keys = [chance.bytes(KEY_BYTES) for _ in rows]
            labels = [f"class {each}" for each in chance.integers(CLASSES, size=len(rows))]
            names = [f"{label}/IMG_{row:09}.jpg" for label, row in zip(labels, rows.tolist(), strict=True)]
            ids += map(id_of, keys, labels)
            values = {"key": keys, "row": rows, "id": names, "label": labels, "caption": names, "path": names}
            texts = {name: [""] * len(rows) for name in ("author", "license")}
            numbers = {name: np.zeros(len(rows), np.int64) for name in COLUMNS.names if name not in values | texts}
            file.write_table(pa.table(values | texts | numbers, COLUMNS), GROUP_ROWS)
    write_ids(snapshot, ids)
    manifest = Manifest(
        gallery=folder.name,
        snapshot=snapshot.name,
        source=GallerySource("random"),
        fingerprint="",
        features=IDENTITIES,
        pictures=count,
        skipped=0,
        ignored={},
        notes=(),
        created="",
        changes=Changes(count, 0, 0),
        background={},
        digests=digests_of(snapshot, [ITEMS, IDS, POSITIONS]),
        collections="random",
    )
    publish_manifest(folder, manifest)
    return manifest


def measure_start(folder: Path, manifest: Manifest) -> None:
    """Open a gallery as a reader does before its first search, and print the time and the memory."""
    started = time.perf_counter()
    index = GalleryIndex(folder, manifest)
    opened = time.perf_counter()
    classes = len(index.classes)
    labelled = time.perf_counter()
    entries = index.entries(np.random.default_rng(1).integers(len(index), size=12).tolist())
    shown = time.perf_counter()
    print(f"{len(index):,} images opened in {opened - started:.2f} s, {classes:,} labels in {labelled - opened:.2f} s")
    print(f"{len(entries)} items in {(shown - labelled) * 1e3:.1f} ms")
    print(f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB of memory, mapped files included")


def main() -> None:
    """Run what the arguments say."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["vectors", "start"])
    parser.add_argument("--url", default="http://127.0.0.1:8123")
    parser.add_argument("--images", type=int, default=3000)
    chosen = parser.parse_args()
    if chosen.what == "vectors":
        return measure_vectors(chosen.url, chosen.images)
    with TemporaryDirectory() as folder:
        from multiprocessing import get_context

        with get_context("spawn").Pool(1) as writer:  # a process of its own, whose memory does not count
            manifest = writer.apply(write_snapshot, (Path(folder), chosen.images))
        measure_start(Path(folder), manifest)


if __name__ == "__main__":
    main()
