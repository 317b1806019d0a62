"""Measure a search without the model's forward pass, for all combinations of features, metric and engine.

    python benchmarks/query.py --work DIR                               10,000 images; the first run indexes them
    python benchmarks/query.py --work DIR --pictures 500 --rounds 2     a quick trial

The milliseconds are the server's total minus the forward pass. They are measured for cached query images, with and
without a label filter and hidden near-duplicates, and for new query images, which are also decoded and preprocessed.
For HTTP, the overhead is the client's waiting time minus the server's total. The results of the exact scan must equal
those of the formulas in float64, which are computed here for each query; they are the reference for ChromaDB's recall.
"""

import argparse
import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch  # this import and those below need the path above
from gallery import add_flags, indexed, queries
from report import report
from service import Visitor, running

from retrieval.engines import ENGINES
from retrieval.features import DEFAULT_SET, Vectors
from retrieval.features.encoder import ClipEncoder, Inputs
from retrieval.metrics import Metric
from retrieval.search.query import Query
from retrieval.search.searcher import Searcher
from retrieval.search.vector_cache import VectorCache
from retrieval.storage.catalog import Indexes
from retrieval.storage.reader import GalleryIndex

GOAL = 10.0  # ms at the median
QUERIES = 10
SIZES = (12, 50)
ALIKE = 0.95
COMBINATIONS = list(itertools.product(DEFAULT_SET, Metric, ENGINES))


def main() -> None:
    """Measure and print the figures; fail if a result is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_flags(parser, 10_000)
    parser.add_argument("--rounds", type=int, default=5, help="searches per image and case (default: %(default)s)")
    parser.add_argument("--no-http", action="store_true", help="do not measure the HTTP API")
    flags = parser.parse_args()
    root, pictures = indexed(flags.work, flags.pictures), queries(QUERIES)
    settings = {"pictures": flags.pictures, "queries": QUERIES, "rounds": flags.rounds, "alike": ALIKE}
    settings["torch threads"] = torch.get_num_threads()
    searcher = Searcher(Indexes(root))
    searcher.warm()
    report("Recall against the formulas in float64", _checked(searcher, pictures), **settings)
    spent = _spent(searcher, pictures, flags.rounds)
    searcher.indexes.close()
    for name, share in (("median", 0.5), ("95th percentile", 0.95)):
        rows = [
            {"features": str(f), "metric": str(m), "engine": str(e)}
            | {case: float(np.quantile(times, share)) for case, times in cases.items()}
            for (f, m, e), cases in spent.items()
        ]
        report(f"Search without the forward pass, ms, {name}", rows, **settings)
        if share == 0.5:
            slow = [value for row in rows for value in row.values() if isinstance(value, float) and value > GOAL]
            cases = len(rows) * len(next(iter(spent.values())))
            print(f"\nslower than the goal of {GOAL:.0f} ms: {len(slow)} of {cases} cases")
    if not flags.no_http:
        report("HTTP API, ms", _by_http(root, pictures, flags.rounds), **settings)


def _checked(searcher: Searcher, pictures: Sequence[bytes]) -> list[dict[str, object]]:
    """Return the recall of both engines against the formulas; assert that the exact scan has the same order."""
    index = searcher.indexes.get()
    rows: list[dict[str, object]] = []
    for features, metric in itertools.product(index.features, Metric):
        found: dict[tuple[str, int], list[float]] = {}
        for picture in pictures:
            query = Query(picture, features=features, metric=metric)
            vector = searcher.embedder.embed(index, query).vector
            scores = _formula(metric, vector, index.vectors(features))
            order = np.argsort(scores if metric in (Metric.L1, Metric.L2) else -scores, kind="stable")
            for engine, k in itertools.product(ENGINES, SIZES):
                hits = searcher.search(replace(query, engine=engine, top_k=k)).hits
                positions = [hit.position for hit in hits]
                np.testing.assert_allclose([hit.score for hit in hits], scores[positions], rtol=1e-9, atol=1e-12)
                if engine == "exact":
                    np.testing.assert_array_equal(positions, order[:k])
                found.setdefault((engine, k), []).append(len(set(positions) & set(order[:k].tolist())) / k)
        recalls = {f"{engine} recall@{k}": statistics.mean(shares) for (engine, k), shares in found.items()}
        rows.append({"features": str(features), "metric": str(metric), **recalls})
    return rows


def _formula(metric: Metric, query: Vectors, gallery: Vectors) -> npt.NDArray[np.float64]:
    """Return the metric between a query and every gallery vector, by the textbook formula in float64."""
    a = query.astype(np.float64)
    scores = []
    for start in range(0, len(gallery), 1000):
        b = gallery[start : start + 1000].astype(np.float64)
        if metric is Metric.L1:
            scores.append(np.abs(b - a).sum(axis=1))
        elif metric is Metric.L2:
            scores.append(np.sqrt(((b - a) ** 2).sum(axis=1)))
        elif metric is Metric.COSINE:
            scores.append((b * a).sum(axis=1) / np.sqrt((b * b).sum(axis=1) * (a * a).sum()))
        else:
            covariance = (b * a).mean(axis=1) - b.mean(axis=1) * a.mean()
            scores.append(covariance / (b.std(axis=1) * a.std()))
    return np.concatenate(scores)


def _spent(
    searcher: Searcher, pictures: Sequence[bytes], rounds: int
) -> dict[tuple[str, Metric, str], dict[str, list[float]]]:
    """Return the milliseconds of searches without the forward pass, by combination and case."""
    index = searcher.indexes.get()
    forward = _Stopwatch(searcher, index)
    label = max(index.classes, key=index.labels.count)
    cases: dict[str, dict[str, object]] = {}
    for k in SIZES:
        cases |= {f"k {k}": {"top_k": k}, f"k {k}, label": {"top_k": k, "labels": (label,)}}
        cases |= {f"k {k}, distinct": {"top_k": k, "alike": ALIKE}}
    spent: dict[tuple[str, Metric, str], dict[str, list[float]]] = {}
    for combination in COMBINATIONS:
        features, metric, engine = combination
        found = spent[combination] = {name: [] for name in (*cases, "k 12, new image")}
        for picture, _ in itertools.product(pictures, range(rounds)):
            plain = Query(picture, features=features, metric=metric, engine=engine, top_k=SIZES[0])
            searcher.embedder.cache = VectorCache()
            forward.spent = 0.0
            found["k 12, new image"].append(searcher.search(plain).timings.total - forward.spent)
            for name, values in cases.items():
                timings = searcher.search(replace(plain, **values)).timings  # type: ignore[arg-type]  # fields of Query
                assert timings.features == 0
                found[name].append(timings.total)
    return spent


class _Stopwatch:
    """Replaces the forward pass of an index's model and adds up its milliseconds."""

    def __init__(self, searcher: Searcher, index: GalleryIndex) -> None:
        self.spent = 0.0
        encoder = searcher.embedder.feature_set(index, "clip")
        assert isinstance(encoder, ClipEncoder)
        self._forward = encoder.forward
        encoder.forward = self  # type: ignore[assignment,method-assign]  # is called like the method

    def __call__(self, inputs: Inputs) -> Vectors:
        started = time.perf_counter()
        vectors = self._forward(inputs)
        self.spent += (time.perf_counter() - started) * 1e3
        return vectors


def _by_http(root: Path, pictures: Sequence[bytes], rounds: int) -> list[dict[str, object]]:
    """Return the waiting times of a client of the running app, and the server's share of them."""
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as cache, running(root, Path(cache)) as app:
        visitor = Visitor(app.address)
        uploaded = [visitor.upload(picture) for picture in pictures]
        for picture, (features, engine) in itertools.product(uploaded, itertools.product(DEFAULT_SET, ENGINES)):
            visitor.search(picture, features=features, engine=engine)  # embeds and warms
        for k in SIZES:
            waited, server = [], []
            for picture, _, (features, metric, engine) in itertools.product(uploaded, range(rounds), COMBINATIONS):
                started = time.perf_counter()
                answer = visitor.search(picture, features=features, metric=metric, engine=engine, top_k=k)
                waited.append((time.perf_counter() - started) * 1e3)
                server.append(answer["timings_ms"]["total"])
            added = np.subtract(waited, server)
            rows.append(
                {"k": k, "client waits": statistics.median(waited), "server's total": statistics.median(server)}
            )
            rows[-1] |= {"overhead": float(np.median(added)), "p95 of the overhead": float(np.quantile(added, 0.95))}
    return rows


if __name__ == "__main__":
    main()
