"""Measure the robustness of each feature type: the mean overlap@10 by distortion over the bundled query images.

Also the processor time of a sweep, as a ratio to that of embedding the same distorted images.

python benchmarks/robustness.py --index index                       needs an index of the bundled icons
python benchmarks/robustness.py --index index --gallery photos      the same for the bundled photos
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tqdm import tqdm

from retrieval.analysis.robustness import NAMES, SWEEP, strength, sweep
from retrieval.features import FEATURES, default_first
from retrieval.gallery.source import BUNDLED_GALLERIES
from retrieval.pictures.loading import load_picture
from retrieval.search.query import Query
from retrieval.search.searcher import Searcher
from retrieval.storage.catalog import Indexes


def main() -> None:
    """Sweep all query images and print the means."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--index", type=Path, default=ROOT / "index")
    parser.add_argument("--gallery", choices=BUNDLED_GALLERIES, default="icons")
    flags = parser.parse_args()
    searcher = Searcher(Indexes(flags.index))
    folder = BUNDLED_GALLERIES[flags.gallery] / "queries"
    queries = sorted(path for path in folder.iterdir() if path.suffix in (".png", ".jpg"))
    searcher.warm()
    swept, ratios = [], []
    for path in tqdm(queries, leave=False):
        started = time.process_time()
        swept.append(list(sweep(searcher, Query(picture=path, gallery=flags.gallery))))
        ratios.append((time.process_time() - started) / _seconds_to_embed(searcher, path, flags.gallery))
    found, names = [], default_first(swept[0][0].withstood)
    print(f"{'distortion':20}" + "".join(f"{FEATURES[features].title:>16}" for features in names))
    for steps in zip(*swept, strict=True):
        means = {each: statistics.mean(step.overlap(each) for step in steps) for each in names}
        name = f"{NAMES[steps[0].kind]} {strength(steps[0].kind, steps[0].strength)}"
        print(f"{name:20}" + "".join(f"{mean:16.3f}" for mean in means.values()))
        found.append({"kind": steps[0].kind, "strength": steps[0].strength} | dict(means))
    overall = {each: statistics.mean(of[each] for of in found) for each in names}
    print(f"{'mean':20}" + "".join(f"{mean:16.3f}" for mean in overall.values()))
    ratio = statistics.median(ratios)
    print(f"processor time of a sweep / of embedding its images: {ratio:.2f} (median)")
    print(json.dumps({"pictures": len(queries), "overlap_at_10": found, "ratio": ratio}))


def _seconds_to_embed(searcher: Searcher, path: Path, gallery: str) -> float:
    """Return the processor time of embedding an image under each distortion of a sweep, by all feature types."""
    index, picture = searcher.indexes.get(gallery), load_picture(path)
    distorted = [distortion.apply(picture) for distortions in SWEEP.values() for distortion in distortions]
    started = time.process_time()
    for features in index.features:
        searcher.embedder.embed_pictures(index, features, distorted)
    return time.process_time() - started


if __name__ == "__main__":
    main()
