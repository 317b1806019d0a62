"""Compare an evaluation with a plain matrix product and sort, and for L1 with scipy's distances alone.

    python benchmarks/evaluation.py            10,000 images, leave-one-out; a few minutes on 2 cores
    python benchmarks/evaluation.py --n 2000   a quick trial

An evaluation ranks the whole gallery for every image, by 2 feature types x 4 metrics, and computes all measures of all
queries at three k. The plain version multiplies the same matrices and sorts the products in blocks, and computes no
measure. `cdist` computes L1 distances in float64, and sorts nothing. The seconds of the summary are those of intervals,
tests and figures per class. Ratios of processor time hardly depend on what else the machine does, but do not show that
an evaluation uses several cores.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from report import report
from scan import classes, index_of, pictures, unit
from scipy.spatial.distance import cdist

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from retrieval.analysis.evaluation import Evaluation
from retrieval.analysis.leaderboard import by_class, leaderboard
from retrieval.analysis.queries import leave_one_out
from retrieval.features import Vectors
from retrieval.metrics import Metric

BLOCK = 256  # queries of the plain version at once
DISTANCES = 500  # queries for which cdist is timed


@dataclass(frozen=True)
class Spent:
    """Seconds by the clock, and of processor time."""

    clock: float
    cpu: float


def spent(work: Callable[[], object], scale: float = 1) -> Spent:
    """Return what some work takes, times `scale`."""
    clock, cpu = time.perf_counter(), time.process_time()
    work()
    return Spent((time.perf_counter() - clock) * scale, (time.process_time() - cpu) * scale)


def plain(vectors: Vectors) -> Spent:
    """Return what a matrix product and a sort of its rows take, for all vectors as queries."""

    def work() -> None:
        for start in range(0, len(vectors), BLOCK):
            np.sort(vectors[start : start + BLOCK] @ vectors.T, axis=1)

    return spent(work)


def distances(vectors: Vectors) -> Spent:
    """Return what scipy's L1 distances take for all vectors as queries, from those of a part of them."""
    some = vectors[:DISTANCES]
    return spent(lambda: cdist(some, vectors, "cityblock"), len(vectors) / len(some))


def main() -> None:
    """Measure and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=10_000)
    n, chance, rows, total = parser.parse_args().n, np.random.default_rng(0), list[dict[str, object]](), Spent(0, 0)
    with tempfile.TemporaryDirectory() as folder:
        pixels = np.ascontiguousarray(pictures(chance, n)[:, ::4])  # 768 numbers, as raw pixels have by default
        index = index_of(Path(folder), {"pixels": pixels, "clip": unit(chance, n, 512)}, classes(n))
        evaluation = Evaluation(index, leave_one_out(index, None))
        running = evaluation.run()
        for features, vectors in evaluation.queries.vectors.items():
            products, l1 = plain(vectors), distances(vectors)
            for metric in Metric:
                ours, theirs = spent(lambda: next(running)), l1 if metric is Metric.L1 else products
                total = Spent(total.clock + ours.clock, total.cpu + ours.cpu)
                rows.append(
                    {
                        "features": features,
                        "metric": str(metric),
                        "seconds": ours.clock,
                        "processor s": ours.cpu,
                        "compared with": "cdist" if metric is Metric.L1 else "product and sort",
                        "ratio": ours.clock / theirs.clock,
                        "processor ratio": ours.cpu / theirs.cpu,
                    }
                )
        summary = spent(lambda: (leaderboard(evaluation), by_class(evaluation)))
    report(
        "Evaluation, leave-one-out",
        rows,
        images=n,
        total_s=round(total.clock + summary.clock, 1),
        processor_s=round(total.cpu + summary.cpu, 1),
        summary_s=round(summary.clock, 1),
    )


if __name__ == "__main__":
    main()
