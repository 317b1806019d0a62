"""Measure the robustness of each feature type: the mean overlap@10 by distortion over the bundled query images.

python benchmarks/robustness.py --index index        needs an index of the bundled icons
"""

import argparse
import json
import statistics
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tqdm import tqdm

from retrieval.analysis.robustness import NAMES, strength, sweep
from retrieval.features import FEATURES, default_first
from retrieval.search.query import Query
from retrieval.search.searcher import Searcher
from retrieval.storage.catalog import Indexes


def main() -> None:
    """Sweep all query images and print the means."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--index", type=Path, default=ROOT / "index")
    searcher = Searcher(Indexes(parser.parse_args().index))
    queries = sorted((ROOT / "assets" / "gallery" / "queries").glob("*.png"))
    swept = [list(sweep(searcher, Query(picture=path, gallery="icons"))) for path in tqdm(queries, leave=False)]
    found = []
    print(f"{'distortion':20}" + "".join(f"{FEATURES[features].title:>16}" for features in default_first()))
    for steps in zip(*swept, strict=True):
        means = {each: statistics.mean(step.overlap(each) for step in steps) for each in default_first()}
        name = f"{NAMES[steps[0].kind]} {strength(steps[0].kind, steps[0].strength)}"
        print(f"{name:20}" + "".join(f"{mean:16.3f}" for mean in means.values()))
        found.append({"kind": steps[0].kind, "strength": steps[0].strength} | dict(means))
    print(json.dumps({"pictures": len(queries), "overlap_at_10": found}))


if __name__ == "__main__":
    main()
