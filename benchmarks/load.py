"""Load the running app with concurrent visitors: unanswered searches, response times and memory.

    python benchmarks/load.py --work DIR                      8 visitors x 200 searches of 10,000 images
    python benchmarks/load.py --work DIR --pictures 500 --searches 20     a quick trial
    python benchmarks/load.py --work DIR --flood compare --searches 50    with and without one who floods the page
    python benchmarks/load.py --work DIR --flood page --searches 50       the same; this one only loads the page

Each visitor uploads images, searches with each of them several times with random settings (features, metric, engine,
k, label, near-duplicates), and waits for each result. Memory is the resident set of the server (Linux).

With `--flood`, the last visitor does not search, but every other time keeps 60 comparisons of all settings in flight,
each with a session of its own, or loads the page again and again from 60 connections, each time under another name.
The page has the limits of a Space, and each visitor an address.
"""

import argparse
import multiprocessing
import os
import random
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import numpy as np
from gallery import add_flags, indexed, queries
from report import report
from service import DEFAULTS, App, Visitor, running

if TYPE_CHECKING:
    from multiprocessing.sharedctypes import Synchronized
    from multiprocessing.synchronize import Event

EACH = 10  # searches per uploaded image
SETTLED = 50  # searches after which memory must stay nearly constant
GOAL = 100  # MB by which it may still grow
FLOOD = 60  # requests in flight
REFUSED = 1.0  # seconds until a refused comparison is sent again
ROUNDS = 3
LABELS: tuple[list[str], ...] = ([], [], ["animal-mammal"], ["food-prepared", "food-fruit"])


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
    parser.add_argument("--flood", choices=FLOODS, help="compare response times with and without a flood of these")
    parser.add_argument("--pause", type=float, default=0.0, help="seconds between two searches (default: %(default)s)")
    flags = parser.parse_args()
    root = indexed(flags.work, flags.pictures)
    if flags.flood:
        return _compare_with_flood(flags, root)
    each = -(-flags.searches // EACH)
    pictures = queries(flags.visitors * each)
    with tempfile.TemporaryDirectory() as cache, running(root, Path(cache)) as app:
        app.wait_until_warm()
        asked = flags.visitors * flags.searches
        started = time.perf_counter()
        log = _visits(app, flags.visitors, pictures, flags)
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


def _compare_all(visitor: Visitor, text: str) -> None:
    arguments = {name: value for name, value in DEFAULTS.items() if name not in ("features", "metric", "engine")}
    visitor.call("compare", arguments | {"text": text})


def _load_page(visitor: Visitor, text: str) -> None:
    visitor.load(f"{text}.example")


FLOODS = {"compare": _compare_all, "page": _load_page}


def _compare_with_flood(flags: argparse.Namespace, root: Path) -> None:
    """Measure the response times of all visitors but the last, in turn while that one is silent and floods the page."""
    others, rows, ratios = flags.visitors - 1, [], list[float]()
    pictures = queries(others * -(-flags.searches // EACH))
    with tempfile.TemporaryDirectory() as cache, running(root, Path(cache), SPACE_ID="somebody/space") as app:
        app.wait_until_warm()
        _visits(app, others, pictures, flags)  # so that all is loaded
        for _ in range(ROUNDS):
            quiet = _visits(app, others, pictures, flags)
            with _flood(app, flags.flood) as answered:
                flooded = _visits(app, others, pictures, flags)
            row: dict[str, object] = {"flood": answered.value, "errors": len(quiet.errors + flooded.errors)}
            for name, log in (("quiet", quiet), ("flooded", flooded)):
                row[f"p50 {name}"], row[f"p95 {name}"] = np.quantile(log.milliseconds, (0.5, 0.95)).tolist()
            ratios.append(float(np.quantile(flooded.milliseconds, 0.95) / np.quantile(quiet.milliseconds, 0.95)))
            rows.append(row | {"p95 ratio": ratios[-1]})
    report("One visitor floods the page", rows, visitors=flags.visitors, pictures=flags.pictures, pause=flags.pause)
    print(f"\nMedian ratio of p95: {np.median(ratios):.2f} (goal: 2)")


@contextmanager
def _flood(app: App, kind: str) -> Iterator["Synchronized[int]"]:
    """Keep `FLOOD` requests in flight, all from one address; yield the number of those that were answered."""
    spawned = multiprocessing.get_context("spawn")
    stop, answered = spawned.Event(), spawned.Value("i", 0)
    process = spawned.Process(target=_send_flood, args=(app.address, kind, stop, answered))
    process.start()
    try:
        while answered.value < FLOOD:  # measure a lasting flood; its 60 new sessions cost a second at first
            time.sleep(0.1)
        yield answered
    finally:
        stop.set()
        process.join()


def _send_flood(address: str, kind: str, stop: "Event", answered: "Synchronized[int]") -> None:
    """Send requests until told to stop; this is the body of a process, with the least claim to this machine's cores."""
    os.nice(19)

    def send(number: int) -> None:
        visitor, sent = Visitor(address, ip="203.0.113.1"), 0
        while not stop.is_set():
            sent += 1
            try:
                FLOODS[kind](visitor, f"fox-{number}-{sent}")
                with answered.get_lock():
                    answered.value += 1
            except (httpx.HTTPError, RuntimeError):
                stop.wait(REFUSED)

    with ThreadPoolExecutor(FLOOD) as pool:
        for number in range(FLOOD):
            pool.submit(send, number)


def _visits(app: App, visitors: int, pictures: Sequence[bytes], flags: argparse.Namespace) -> Log:
    """Run the searches of several visitors at once."""
    log, each = Log(app), len(pictures) // visitors
    with ThreadPoolExecutor(visitors) as pool:
        for i in range(visitors):
            pool.submit(_visit, log, i, pictures[i * each : (i + 1) * each], flags)
    return log


def _visit(log: Log, seed: int, pictures: Sequence[bytes], flags: argparse.Namespace) -> None:
    """Run the uploads and searches of one visitor."""
    chance = random.Random(seed)
    visitor = Visitor(log.app.address, ip=f"192.0.2.{seed}")
    for turn in range(flags.searches):
        time.sleep(flags.pause * chance.uniform(0.5, 1.5))
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
