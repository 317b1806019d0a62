"""Compare the exact scan with one read of its matrix.

    python benchmarks/scan.py                        100,000 x 512 and 20,000 x 3,072; about three minutes on 2 cores
    python benchmarks/scan.py --n 5000 --threads 1   a quick trial

A scan is all that `rank` does for one query: scores in float32, candidates, and the exact float64 scores of the
candidates. The matrices are memory-mapped from files in the page cache. The pixels are those of synthetic images, since
the L1 scan exploits that neighbouring pixels are similar. A read is the sum of the matrix by torch with the same number
of threads: one pass over memory with almost no arithmetic, within a tenth of the fastest reduction of numpy and torch.
Every ranking is compared with scipy's in float64 before it is timed.
"""

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from report import median_ms, report
from scipy.spatial.distance import cdist

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from retrieval.digests import digests_of
from retrieval.engines.exact import Scan
from retrieval.features import Vectors
from retrieval.features.base import FeatureIdentity
from retrieval.gallery.source import GallerySource
from retrieval.metrics import Metric
from retrieval.search.query import Combination
from retrieval.search.ranking import rank
from retrieval.storage.items import ITEMS
from retrieval.storage.manifest import Changes, Manifest
from retrieval.storage.reader import GalleryIndex

SCIPY = {Metric.L1: "cityblock", Metric.L2: "euclidean", Metric.COSINE: "cosine", Metric.CORRELATION: "correlation"}
CLASSES = 10
K = 12  # hits on a page
CHECKED = 3  # queries whose ranking is compared with scipy's


def unit(chance: np.random.Generator, n: int, d: int) -> Vectors:
    """Return random vectors of length 1."""
    vectors = chance.standard_normal((n, d), np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def pictures(chance: np.random.Generator, n: int) -> Vectors:
    """Return raw pixels of 32 x 32 images that consist of 8 x 8 single-colour patches and some noise."""
    patches = chance.random((n, 8, 1, 8, 1, 3), np.float32)
    noise = chance.random((n, 8, 4, 8, 4, 3), np.float32)
    noise *= 0.2
    noise += patches
    noise /= 1.2
    return noise.reshape(n, -1)


def classes(n: int) -> list[str]:
    """Return random labels."""
    return [f"class {i}" for i in np.random.default_rng(1).integers(0, CLASSES, n)]


def index_of(folder: Path, vectors: Mapping[str, Vectors], labels: Sequence[str]) -> GalleryIndex:
    """Return an index of the vectors of each feature type on disk, without ChromaDB's files."""
    snapshot = folder / "snapshot"
    snapshot.mkdir(parents=True)
    rows = np.arange(len(labels))
    names = [str(row) for row in rows]
    pq.write_table(pa.table({"row": rows, "id": names, "label": labels, "caption": names}), snapshot / ITEMS)
    for name, each in vectors.items():
        np.save(snapshot / f"{name}.npy", each)
    manifest = Manifest(
        gallery="random",
        snapshot=snapshot.name,
        source=GallerySource("random"),
        fingerprint="",
        features={name: FeatureIdentity("random", "", "", "float32", each.shape[1]) for name, each in vectors.items()},
        pictures=len(rows),
        skipped=0,
        ignored={},
        notes=(),
        created="",
        changes=Changes(len(rows), 0, 0),
        background={},
        digests=digests_of(snapshot, [ITEMS, *(f"{name}.npy" for name in vectors)]),
    )
    return GalleryIndex(folder, manifest)


def scanned(index: GalleryIndex, features: str, queries: Vectors, threads: list[int]) -> list[dict[str, object]]:
    """Return the duration of one query for each metric and number of threads, and of one read of the matrix."""
    vectors = index.vectors(features)
    for metric, query in ((metric, query) for metric in Metric for query in queries[:CHECKED]):
        found, _ = rank(index, Combination(features, metric), query, K)
        expected = cdist(query[None].astype(np.float64), vectors, SCIPY[metric])[0]
        assert (found == np.argsort(expected, kind="stable")[:K]).all(), (metric, found)
    rows: list[dict[str, object]] = []
    matrix = torch.from_numpy(
        np.load(index.snapshot / f"{features}.npy", mmap_mode="c")
    )  # torch needs a writable array
    for count in threads:
        torch.set_num_threads(count)
        index._exact._scans[features] = Scan(vectors)
        norms = median_ms(lambda: Scan(vectors), repeat=3, warm=0)
        for metric in Metric:
            turn = iter(np.resize(np.arange(len(queries)), 10_000))
            scan = median_ms(lambda: rank(index, Combination(features, metric), queries[next(turn)], K), 15)  # noqa: B023
            read = median_ms(matrix.sum, 15)
            rows.append(
                {
                    "matrix": f"{vectors.shape[0]:,} x {vectors.shape[1]:,}",
                    "threads": count,
                    "metric": str(metric),
                    "read ms": read,
                    "scan ms": scan,
                    "scan / read": scan / read,
                    "norms, once ms": norms,
                }
            )
    return rows


def main() -> None:
    """Measure and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=100_000, help="vectors of 512 numbers; a fifth as many of 3,072")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    arguments = parser.parse_args()
    chance, n = np.random.default_rng(0), arguments.n
    queries = {"clip": unit(chance, 20, 512), "pixels": pictures(chance, 20)}
    with tempfile.TemporaryDirectory() as folder:
        vectors = {"pixels": chance.random((n, 3), np.float32), "clip": unit(chance, n, 512)}
        wide = index_of(Path(folder) / "clip", vectors, classes(n))
        rows = scanned(wide, "clip", queries["clip"], arguments.threads)
        n //= 5
        vectors = {"pixels": pictures(chance, n), "clip": unit(chance, n, 512)}
        long = index_of(Path(folder) / "pixels", vectors, classes(n))
        rows += scanned(long, "pixels", queries["pixels"], arguments.threads)
        report("Exact scan of one query", rows, k=K)


if __name__ == "__main__":
    main()
