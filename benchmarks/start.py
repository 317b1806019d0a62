"""Measure the time from `python app.py` to the page and to the first search result, and the imports on the way.

    python benchmarks/start.py              five starts with an index, and one without: three minutes
    python benchmarks/start.py --runs 2

Each start is a new process with an empty Hugging Face cache. As soon as it prints its address, a client uploads an
image and searches by CLIP features over plain HTTP. One more start, with Python's `-X importtime`, lists the imports up
to the result. That start is slower than the others, so only the shares are reported.
"""

import argparse
import re
import statistics
import tempfile
import time
from collections import Counter
from pathlib import Path

from report import report
from service import ROOT, App, Visitor, running

PICTURE = (ROOT / "assets" / "gallery" / "queries" / "pizza.png").read_bytes()
GOAL = 10  # seconds to the first result, with an index
LISTED = 12


def main() -> None:
    """Measure and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5, help="starts with an index (default: %(default)s)")
    runs = parser.parse_args().runs
    with tempfile.TemporaryDirectory() as folder:
        index, cache = Path(folder) / "index", Path(folder) / "cache"
        with running(index, cache) as app:
            first = _answered(app)
            while not (index / "icons" / "manifest.json").exists():  # else the next start would continue to build them
                time.sleep(0.5)
        starts = []
        for _ in range(runs):
            with running(index, cache) as app:
                starts.append({"first result": _answered(app), **_steps(app)})
        with running(index, cache, "-X", "importtime") as app:
            _answered(app)
            imported = _imported(app)
    order = sorted(starts[0], key=lambda step: starts[0][step])
    rows = [{"step": "first result without an index or a cache", "s": first, "slowest": first}]
    for step in order:
        times = [start[step] for start in starts]
        rows.append({"step": step, "s": statistics.median(times), "slowest": max(times)})
    report("Start, seconds since the start of the process", rows, runs=runs, goal=GOAL)
    total = sum(imported.values())
    most = imported.most_common(LISTED)
    shares: list[dict[str, object]] = [{"package": name, "share of imports": spent / total} for name, spent in most]
    report("Imports up to the first result", shares, packages=len(imported))


def _answered(app: App) -> float:
    """Search, and return the seconds from the start of the process to the result."""
    visitor = Visitor(app.address)
    assert visitor.search(visitor.upload(PICTURE, "pizza.png"))["hits"]
    return time.perf_counter() - app.started


def _steps(app: App) -> dict[str, float]:
    """Return the seconds to each step of the start; waits until the app is warm."""
    lines = {"index found": "INFO gallery", "page served": app.address}
    steps = {step: app.seconds_to(text) or 0.0 for step, text in lines.items()}
    return steps | {"every search warm": app.wait_until_warm()}


def _imported(app: App) -> Counter[str]:
    """Return the microseconds spent in each package's modules, without the modules that they import."""
    spent: Counter[str] = Counter()
    for _, line in app.output:
        if found := re.match(r"import time: +(\d+) \| +\d+ \| +([\w]+)", line):
            spent[found[2]] += int(found[1])
    return spent


if __name__ == "__main__":
    main()
