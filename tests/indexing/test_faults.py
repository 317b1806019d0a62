"""After a fault at any operation on a file, the same command ends like an undisturbed one, and readers see no half."""

import multiprocessing
import os
import random
import resource
import signal
import time
from pathlib import Path

import pytest

from retrieval.engines import chroma_fill, separate
from tests.support.fault_runs import FORKS, WORKS, Runs, build
from tests.support.faults import Fault
from tests.support.warm import Builder

pytestmark = pytest.mark.endurance

LONG = 3600.0  # seconds
KINDS = ("size of files", "memory", "time", "power")  # of faults within ChromaDB
LARGEST_FILE = 2**19  # bytes, that ChromaDB writes for six images
MORE_MEMORY = 2**26  # bytes, that ChromaDB needs
SAMPLE = 193  # CI tries every 193rd operation


def fail_at_each(given: list[str]) -> int:
    """Run a command with a fault at each operation, or each so many; this is the body of a process."""
    folder, work, step, began = Path(given[0]), given[1], int(given[2]), time.monotonic()
    runs = Runs(folder, WORKS[work])
    print(f"{work}: {sum(runs.counts.values())} operations: {runs.counts}")
    wrong = tried = 0
    for start, fault in enumerate(Fault):
        for at in range(1 + start * step // len(Fault), 1 + sum(runs.counts.values()), step):
            tried += 1
            if problem := runs.problem(fault, at):
                wrong += 1
                print(f"{work}, operation {at}: {problem}")
    print(f"{work}: {tried} faults, {wrong} of them wrong, {time.monotonic() - began:.1f} s")
    return min(wrong, 100)


@pytest.mark.parametrize("work", WORKS)
@pytest.mark.parametrize("step", [pytest.param(SAMPLE, marks=pytest.mark.short), 1])
def test_command_with_a_fault_at_any_operation_can_be_repeated(tmp_path: Path, work: str, step: int) -> None:
    process = Builder(tmp_path, str(tmp_path), work, str(step), program=fail_at_each)
    code = process.wait(LONG)
    print(process.output)
    assert code == 0


def limit_process(kind: str, share: float, seconds: float) -> None:
    """Let this process fail at a random point, given as a share from 0 to 1."""
    if kind == "size of files":
        most = int(share * LARGEST_FILE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    elif kind == "memory":
        most = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        most += int(share * MORE_MEMORY)
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
    else:
        signal.setitimer(signal.ITIMER_REAL, share * seconds)  # its signal ends the process


def build_with_faulty_chroma(folder: Path, kind: str, share: float, seconds: float) -> int:
    """Build; the process that builds ChromaDB's files fails."""
    fill = chroma_fill.fill

    def faulty(*given: object) -> None:
        limit_process(kind, share, seconds)
        fill(*given)  # type: ignore[arg-type]

    chroma_fill.fill = faulty
    separate.STALLED = 10.0
    multiprocessing.get_context = lambda method: FORKS  # type: ignore[assignment]  # does not load everything again
    return build(folder)


def lose_data(index: Path, chance: random.Random) -> None:
    """Cut some of ChromaDB's files, which it does not sync, as a power cut could."""
    for path in sorted(index.glob("*/snapshot-*/chroma/**/*")):
        if path.is_file() and path.name != "digests.json" and chance.random() < 0.5:
            os.truncate(path, int(chance.random() * path.stat().st_size))


def fail_in_chroma(given: list[str]) -> int:
    """Let ChromaDB fail at random points; this is the body of a process."""
    folder, points = Path(given[0]), int(given[1])
    seed = int(os.environ.get("FAULTS_SEED", random.randrange(10**6)))
    print(f"FAULTS_SEED={seed}")
    chance, runs, wrong = random.Random(seed), Runs(folder, WORKS["ChromaDB"]), 0
    runs.restore()
    began = time.monotonic()
    assert runs.fork(lambda: build_with_faulty_chroma(folder, "time", 0, 0)) == 0, runs.output.read_text()
    seconds = time.monotonic() - began
    for number in range(points):
        kind, share = KINDS[number % len(KINDS)], chance.random()
        runs.restore()
        code = runs.fork(lambda kind=kind, share=share: build_with_faulty_chroma(folder, kind, share, seconds))
        said = runs.output.read_text()
        if kind == "power":
            lose_data(runs.index, chance)
        problem = runs.recovered()
        if problem or code not in (0, 2) or "Traceback" in said:
            wrong += 1
            print(f"{kind}, {share:.6f}: exit code {code}: {said}{problem}")
    print(f"ChromaDB: {points} faults, {wrong} of them wrong, {time.monotonic() - began:.1f} s")
    return min(wrong, 100)


@pytest.mark.parametrize("points", [pytest.param(5, marks=pytest.mark.short), 100])
def test_build_after_a_fault_within_chromadb_can_be_repeated(tmp_path: Path, points: int) -> None:
    process = Builder(tmp_path, str(tmp_path), str(points), program=fail_in_chroma)
    code = process.wait(LONG)
    print(process.output)
    assert code == 0
