"""Load the running app with concurrent visitors: unanswered searches, response times and memory.

    python benchmarks/load.py --work DIR                      8 visitors x 200 searches of 10,000 images
    python benchmarks/load.py --work DIR --pictures 500 --searches 20     a quick trial

Each visitor uploads images, searches with each of them several times with random settings (features, metric, engine,
k, label, near-duplicates), and waits for each result. Memory is the resident set of the server (Linux).
"""

import argparse
import random
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np
from gallery import add_flags, indexed, queries
from report import report
from service import App, Visitor, running

EACH = 10  # searches per uploaded image
SETTLED = 50  # searches after which memory must stay nearly constant
GOAL = 100  # MB by which it may still grow
LABELS: tuple[list[str], ...] = ([], [], ["animal-mammal"], ["tool", "zodiac"])


@dataclass
class Log:
    """The results of all visitors."""

    app: App
    milliseconds: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    resident: list[float] = field(default_factory=list)  # megabytes after each search
    lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, started: float, error: str = "") -> None:
        """Record the end of a search."""
        with self.lock:
            if error:
                self.errors.append(error)
            else:
                self.milliseconds.append((time.perf_counter() - started) * 1e3)
            self.resident.append(self.app.resident)


def main() -> None:
    """Measure and print; exit with 1 if a search was not answered."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_flags(parser, 10_000)
    parser.add_argument("--visitors", type=int, default=8)
    parser.add_argument("--searches", type=int, default=200, help="searches per visitor (default: %(default)s)")
    flags = parser.parse_args()
    root = indexed(flags.work, flags.pictures)
    each = -(-flags.searches // EACH)
    pictures = queries(flags.visitors * each)
    with tempfile.TemporaryDirectory() as cache, running(root, Path(cache)) as app:
        app.wait_until_warm()
        log, asked = Log(app), flags.visitors * flags.searches
        started = time.perf_counter()
        with ThreadPoolExecutor(flags.visitors) as pool:
            for i in range(flags.visitors):
                pool.submit(_visit, log, i, pictures[i * each : (i + 1) * each], flags.searches)
        seconds = time.perf_counter() - started
    answered, failed = len(log.milliseconds), len(log.errors)
    settled = log.resident[min(SETTLED, len(log.resident) - 1) :]
    figures: dict[str, object] = {
        "searches": asked,
        "errors": failed,
        "dropped": asked - answered - failed,
        "p50 ms": float(np.median(log.milliseconds)),
        "p95 ms": float(np.quantile(log.milliseconds, 0.95)),
        "searches/s": answered / seconds,
        f"MB after {SETTLED}": settled[0],
        "MB at the end": settled[-1],
        "most MB": max(settled),
    }
    report(
        "Concurrent visitors",
        [{"what": name, "figure": value} for name, value in figures.items()],
        visitors=flags.visitors,
        pictures=flags.pictures,
        uploads=len(pictures),
        goal=f"{GOAL} MB",
        resident=[round(each) for each in log.resident[:: max(1, asked // 16)]],
    )
    if answered < asked:
        sys.exit("\n".join(["Some searches were not answered:", *log.errors[:5]]))


def _visit(log: Log, seed: int, pictures: Sequence[bytes], searches: int) -> None:
    """Run the uploads and searches of one visitor."""
    chance = random.Random(seed)
    visitor = Visitor(log.app.address)
    for turn in range(searches):
        started = time.perf_counter()
        try:
            if turn % EACH == 0:
                uploaded = visitor.upload(pictures[turn // EACH])
            settings = {
                "features": chance.choice(("clip", "pixels")),
                "metric": chance.choice(("l1", "l2", "cosine", "correlation")),
                "engine": chance.choice(("exact", "chroma")),
                "top_k": chance.choice((12, 12, 50)),
                "labels": chance.choice(LABELS),
                "alike": chance.choice((1, 1, 0.95)),
            }
            answer = visitor.search(uploaded, **settings)
            wrong = "" if len(answer["hits"]) == settings["top_k"] else f"{len(answer['hits'])} hits: {settings}"
        except (httpx.HTTPError, RuntimeError) as error:
            wrong = repr(error)
        log.note(started, wrong)


if __name__ == "__main__":
    main()
