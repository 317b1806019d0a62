"""Measure recall@10 and time of searches with the engine `auto`, and what the builder's measurement of recall costs.

    python index_builder.py --model mini --dataset icons    index the icons, whose vectors the clustered ones resemble
    python benchmarks/recall.py --churn                     100,000 x 512, clustered and uniform; 20 minutes
    python benchmarks/recall.py --n 1000000 --kinds clustered
    python benchmarks/recall.py --n 2000                    a quick trial

The vectors are those of benchmarks/hnsw.py. Every 1,000th image has the same label, so a filter leaves 0.1 % of them.
No query is in the gallery. A search is all that a query does after it is embedded: choice of the engine, candidates,
exact scores. With `--churn`, a second gallery has a tenth of the images replaced: in a folder, ChromaDB's files are
built again for every snapshot, so a graph never holds deleted images.
"""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from hnsw import KINDS, vectors_of
from report import report
from scan import index_of

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from retrieval.engines.choice import resolve
from retrieval.engines.recall import FLOOR, K
from retrieval.features import Vectors
from retrieval.metrics import Metric
from retrieval.search.query import Combination
from retrieval.search.ranking import rank
from retrieval.storage.engine_files import build_engine
from retrieval.storage.reader import GalleryIndex

FEATURES = "clip"
LABELS = 1000
CHURNED = 10  # one of this many images is replaced


def published(folder: Path, vectors: Vectors) -> GalleryIndex:
    """Return an index of vectors on disk, without ChromaDB's files."""
    return index_of(folder, {FEATURES: vectors}, [f"label {row % LABELS}" for row in range(len(vectors))])


def searched(index: GalleryIndex, metric: Metric, queries: Vectors, filtered: bool) -> dict[str, object]:
    """Return the recall of searches by `auto` against the exact scan, and their times in milliseconds."""
    recalls, spent, engines = [], [], set()
    for number, query in enumerate(queries):
        among = index.with_labels([f"label {number % min(LABELS, len(index))}"]) if filtered else None
        started = time.perf_counter()
        choice = resolve("auto", index, (FEATURES, metric), None if among is None else len(among))
        found, _ = rank(index, Combination(FEATURES, metric, choice.engine), query, K, among)
        spent.append((time.perf_counter() - started) * 1e3)
        engines.add(choice.engine)
        exact, _ = rank(index, Combination(FEATURES, metric), query, K, among)
        recalls.append(len({*found.tolist()} & {*exact.tolist()}) / max(1, len(exact)))
    median, p95 = np.quantile(spent[len(spent) // 10 :], (0.5, 0.95))  # the first ones fill caches
    return {
        "metric": str(metric),
        "filter": "0.1 %" if filtered else "none",
        "engine": " ".join(sorted(engines)),
        "recall@10": float(np.mean(recalls)),
        "median ms": float(median),
        "p95 ms": float(p95),
    }


def main() -> None:
    """Measure and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=100_000, help="gallery vectors (default: %(default)s)")
    parser.add_argument("--kinds", nargs="+", choices=KINDS[:2], default=KINDS[:2])
    parser.add_argument("--queries", type=int, default=300)
    parser.add_argument("--churn", action="store_true", help="also after a tenth of the images was replaced")
    parser.add_argument("--index", type=Path, default=ROOT / "index", help="an index with the bundled icons")
    arguments = parser.parse_args()
    rows, curves = list[dict[str, object]](), list[dict[str, object]]()
    for kind in arguments.kinds:
        gallery, queries = vectors_of(kind, arguments.n, arguments.index)
        chance = np.random.default_rng(1)
        queries = queries[: arguments.queries]
        churned = gallery.copy()
        changed = chance.choice(len(gallery), len(gallery) // CHURNED, replace=False)
        churned[changed] = churned[chance.permutation(changed)][:, ::-1]
        for name, vectors in ((kind, gallery), (f"{kind}, churned", churned))[: 1 + arguments.churn]:
            with tempfile.TemporaryDirectory() as folder:
                index = published(Path(folder), vectors)
                started = time.perf_counter()
                build_engine(index.snapshot, "chroma", index.in_folder, floor=FLOOR)
                built = time.perf_counter() - started
                for metric in Metric:
                    for filtered in (False, True):
                        found = searched(index, metric, queries, filtered)
                        rows.append({"vectors": name, **found, "build s": built})
                        print(rows[-1], flush=True)
                measured = index.recall("chroma")
                assert measured
                curves += [{"vectors": name, **vars(point)} for point in measured.curve]
                index.close()
    settings = {"n": arguments.n, "queries": arguments.queries, "load": os.getloadavg()[0]}
    report("Recall and time of the engine auto", rows, **settings)
    report("ChromaDB by ef_search, as measured by the builder", curves, n=arguments.n)


if __name__ == "__main__":
    main()
