"""Measure what relevance feedback finds: P@8 of the next results, for several weights of Rocchio's formula.

python benchmarks/feedback.py --index index        needs an index of the bundled photos

Every photo is a query by cosine. Of its first 8 results, at most 2 with its class are marked as "more like this", and
at most 2 with another class as "less like this". Then the gallery is ranked again, and the query and the marked images
are left out, so that no one gains by finding them again (Manning, Raghavan and Schuetze, *Introduction to Information
Retrieval*, 9.1.5: residual collection).
"""

import argparse
import sys
from itertools import product
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np
import numpy.typing as npt

from retrieval.features import FEATURES, Vectors, default_first
from retrieval.storage.catalog import Indexes

RESULTS, MARKED = 8, 2
WEIGHTS = [(0, 0), *product((0, 0.75), (0.15, 0.5, 0.75)), (0.75, 0), (1, 0.5), (1.5, 0.5)]  # of more, of less

Labels = npt.NDArray[np.str_]


def main() -> None:
    """Print a row per pair of weights."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--index", type=Path, default=ROOT / "index")
    parser.add_argument("--gallery", default="photos")
    flags = parser.parse_args()
    index = Indexes(flags.index).get(flags.gallery)
    labels, names = np.array(index.labels), default_first(index.features)
    found = {name: precisions(np.asarray(index.vectors(name)), labels) for name in names}
    print(f"{'more, less':12}" + "".join(f"{FEATURES[name].title:>16}" for name in names))
    for weights in WEIGHTS:
        print(f"{weights[0]:g}, {weights[1]:<8g}" + "".join(f"{found[name][weights]:16.3f}" for name in names))


def precisions(vectors: Vectors, labels: Labels) -> dict[tuple[float, float], float]:
    """Return the mean P@8 of the next results by the weights of what to resemble and to avoid."""
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    found: dict[tuple[float, float], list[float]] = {weights: [] for weights in WEIGHTS}
    for query in range(len(unit)):
        first = closest(unit, unit[query], [query])
        same = labels[first] == labels[query]
        more, less = first[same][:MARKED].tolist(), first[~same][:MARKED].tolist()
        for weights in WEIGHTS:
            vector = unit[query].copy()
            for marked, weight in ((more, weights[0]), (less, -weights[1])):
                if marked:
                    vector += weight * unit[marked].mean(axis=0)
            hits = closest(unit, vector, [query, *more, *less])
            found[weights].append(float((labels[hits] == labels[query]).mean()))
    return {weights: float(np.mean(each)) for weights, each in found.items()}


def closest(unit: Vectors, vector: Vectors, without: list[int]) -> npt.NDArray[np.intp]:
    """Return the positions of the closest images by cosine, except some."""
    scores = unit @ vector
    scores[without] = -np.inf
    return np.argsort(-scores, kind="stable")[:RESULTS]


if __name__ == "__main__":
    main()
