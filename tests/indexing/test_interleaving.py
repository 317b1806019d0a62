"""Two processes on one index: one stops at any moment while the other works, or is killed while readers open it."""

import os
import signal
import time
from collections.abc import Callable
from multiprocessing import Process
from pathlib import Path

import pytest

from retrieval.errors import IndexingError
from retrieval.storage.manifest import read_manifest
from tests.support.builds import NAME
from tests.support.fault_runs import WORKS, Runs, Step, Work, build, change, prune, publish
from tests.support.stages import STAGES
from tests.support.warm import Builder, Moment, call_at

pytestmark = pytest.mark.endurance

LONG = 3600.0  # seconds
CHROMA = ("ChromaDB is about to be built", "ChromaDB is being built", "ChromaDB is built")
PHASES = {stage: moment for stage, moment in STAGES.items() if stage not in CHROMA}
PHASES["some thumbnails are written"] = Moment("EmbeddingStore.write_thumbnail", "return")
PHASES["small parts are about to be merged"] = Moment("EmbeddingStore.merge_small_parts", "call")
PRUNING = {
    "nothing is deleted": Moment("EmbeddingStore.prune", "call"),
    "some parts are merged": Moment("Parts.merge", "return"),
    "everything is deleted": Moment("EmbeddingStore.prune", "return"),
}
PUBLISHING = [*PHASES][[*PHASES].index("the snapshot is written") :]


def both(folder: Path) -> int:
    return build(folder) or publish(folder)


def delete_one(folder: Path) -> int:
    (folder / NAME / "000.png").unlink()
    return 0


def prune_and_build(folder: Path) -> int:
    return prune(folder) or build(folder)


class Stopped:
    """A command in a process of its own, which stops itself at a moment."""

    def __init__(self, runs: Runs, command: Step, moment: Moment, number: signal.Signals = signal.SIGSTOP) -> None:
        """Start it, and wait until it has stopped or ended."""

        def run() -> int:
            call_at(moment, lambda: os.kill(os.getpid(), number))
            return command(runs.folder)

        self.output = runs.folder / f"{command.__name__}-{time.monotonic_ns()}"
        self.process: Process = runs.start(run, self.output)
        found = os.waitid(os.P_PID, self.process.pid or 0, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        self.reached = found is not None and found.si_code != os.CLD_EXITED

    def finish(self) -> int:
        """Let it go on; return its exit code."""
        if self.process.is_alive():
            os.kill(self.process.pid or 0, signal.SIGCONT)
        self.process.join()
        return self.process.exitcode or 0


def wrong_pairs(runs: Runs, pairs: list[tuple[str, str]], check: Callable[[Runs, str, str], str]) -> int:
    """Print what is wrong at each pair of moments; return how many are wrong."""
    began, wrong = time.monotonic(), 0
    for one, other in pairs:
        runs.restore()
        if problem := check(runs, one, other) or runs.recovered():
            wrong += 1
            print(f"{one} / {other}: {problem}")
    print(f"{len(pairs)} pairs, {wrong} of them wrong, {time.monotonic() - began:.1f} s")
    return min(wrong, 100)


def two_galleries(runs: Runs, one: str, other: str) -> str:
    """Two builders of different galleries stop; the first goes on to its end, and then the second."""
    first = Stopped(runs, build, PHASES[one])
    second = Stopped(runs, publish, PHASES[other])
    codes = [first.finish(), second.finish()]
    if codes != [0, 0] or not first.reached:  # the second may have nothing to do at its moment
        return f"exit codes {codes}, {first.reached}: {first.output.read_text()}{second.output.read_text()}"
    return ""


def one_gallery(runs: Runs, one: str, other: str) -> str:
    """While a builder has stopped, another one and a prune are refused."""
    first = Stopped(runs, build, PHASES[one])
    codes = [runs.fork(lambda command=command: command(runs.folder)) for command in (build, prune)]
    code = first.finish()
    if codes != [2, 2] or code or not first.reached:
        return f"exit codes {codes}, {code}, reached: {first.reached}: {first.output.read_text()}"
    return ""


def prune_with_builder(runs: Runs, one: str, other: str) -> str:
    """While a prune has stopped, a builder waits for it."""
    first = Stopped(runs, prune, PRUNING[one])
    waiting = Stopped(runs, build, Moment("EmbeddingStore.wait_for_prune", "call"))
    os.kill(waiting.process.pid or 0, signal.SIGCONT)
    codes = [first.finish(), waiting.finish()]
    if codes != [0, 0] or not first.reached:
        return f"exit codes {codes}, reached: {first.reached}: {waiting.output.read_text()}"
    return ""


def kill_while_reading(runs: Runs, one: str, other: str) -> str:
    """A builder is killed while it publishes, and readers open the gallery all the time."""
    stop, gallery = runs.folder / "stop", runs.index / NAME
    stop.unlink(missing_ok=True)

    def read() -> int:
        count = 0
        while not stop.exists() or not count:
            count += 1
            before = read_manifest(gallery)
            try:
                runs.seen()
            except (OSError, IndexingError):  # what it had not opened yet may be deleted with the old snapshot
                if read_manifest(gallery) == before:
                    raise
        return 0

    reader = runs.start(read, runs.folder / "reader")
    killed = Stopped(runs, build, PHASES[one], signal.SIGKILL)
    killed.finish()
    code = runs.fork(lambda: build(runs.folder))
    stop.touch()
    reader.join()
    if reader.exitcode or code or not killed.reached:
        return f"exit code {code}, {killed.reached}: {runs.output.read_text()}{(runs.folder / 'reader').read_text()}"
    return ""


def run(given: list[str]) -> int:
    """Try all pairs of moments of a kind, or some of them; this is the body of a process."""
    folder, kind, step = Path(given[0]), given[1], int(given[2])
    work, check, ones, others = KINDS[kind]
    pairs = [(one, other) for one in ones for other in others][::step]
    return wrong_pairs(Runs(folder, work), pairs, check)


KINDS = {
    "galleries": (Work(both, (build, change)), two_galleries, PHASES, PHASES),
    "gallery": (WORKS["update"], one_gallery, PHASES, ("",)),
    "prune": (Work(prune_and_build, (build, change, build, delete_one)), prune_with_builder, PRUNING, ("",)),
    "reader": (WORKS["update"], kill_while_reading, PUBLISHING, ("",)),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("every", [pytest.param(False, marks=pytest.mark.short), True])
def test_index_is_whole_at_any_moment_of_two_processes(tmp_path: Path, kind: str, every: bool) -> None:
    step = 1 if every else {"galleries": 97, "gallery": 7, "prune": 2, "reader": 4}[kind]
    process = Builder(tmp_path, str(tmp_path), kind, str(step), program=run)
    code = process.wait(LONG)
    print(process.output)
    assert code == 0
