"""Start many builders quickly, to interrupt them: fork them from a server process that has loaded all they need."""

import contextlib
import functools
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from pathlib import Path
from types import FrameType
from typing import Any

import datasets

import retrieval.features.encoder
import retrieval.indexing.build  # with torch
import retrieval.indexing.embed
from retrieval import index_builder
from retrieval.engines.chroma_folder import GRAPH
from tests.support.waiting import PATIENCE, wait_until

WARMED = "tests.support.warmed"
ROWS_AT_ONCE, PART_ROWS = 4, 8  # so that a few pictures fill several parts
# Let ChromaDB write its graphs every few pictures instead of every thousand.
SYNC = {"sync_threshold": 8, "batch_size": 4}


@dataclass(frozen=True)
class Moment:
    """The n-th time (from 1) that a function of the program is entered ("call") or left ("return")."""

    function: str
    event: str
    times: int = 1
    name_prefix: str = ""  # count only calls on objects, such as paths, whose `name` starts with this

    def matches(self, frame: FrameType, event: str) -> bool:
        """Whether this event is such a call or return."""
        if event != self.event or frame.f_code.co_qualname != self.function:
            return False
        return not self.name_prefix or str(getattr(frame.f_locals.get("self"), "name", "")).startswith(self.name_prefix)


def call_at(moment: Moment, action: Callable[[], None]) -> None:
    """Call `action` at a moment of this process, in whichever thread reaches it."""
    lock, seen = threading.Lock(), 0

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal seen
        if frame.f_code.co_qualname != moment.function:
            return None
        if moment.matches(frame, event):
            with lock:
                seen += 1
                now = seen == moment.times
            if now:
                action()
        return trace

    threading.settrace(trace)
    sys.settrace(trace)


def _run(
    program: Callable[[list[str]], int],
    arguments: list[str],
    cache: Path,
    log: Path,
    moment: Moment | None,
    number: int,
    began: Connection,
) -> None:
    """Run a program; this is the body of the forked process."""
    os.setsid()  # so that processes that it leaves behind can be found by their session
    with log.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    datasets.config.HF_DATASETS_CACHE = cache
    retrieval.indexing.embed.ROWS_AT_ONCE = ROWS_AT_ONCE
    retrieval.indexing.embed.PART_ROWS = PART_ROWS
    GRAPH.update(SYNC)
    encoder = sys.modules[WARMED].ENCODER  # fails unless the server process has imported it
    retrieval.features.encoder.ClipEncoder = lambda choice, dtype: encoder  # type: ignore[assignment, misc]
    if moment:
        call_at(moment, lambda: os.kill(os.getpid(), number))
    began.send(None)
    code = program(arguments)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


@functools.cache
def forking() -> ForkServerContext:
    """Start the server process, which imports `warmed`; return how to start others from it."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([WARMED])
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)  # it does not inherit sys.path in another way
    forkserver.ensure_running()
    del os.environ["PYTHONPATH"]
    if before is not None:
        os.environ["PYTHONPATH"] = before
    return context


class Builder:
    """A builder in its own process."""

    def __init__(
        self,
        folder: Path,
        *arguments: str,
        at: Moment | None = None,
        number: signal.Signals = signal.SIGKILL,
        program: Callable[[list[str]], int] = index_builder.main,
    ) -> None:
        """Start the builder, and wait until it runs.

        Args:
            folder: Folder for its log and its dataset cache.
            arguments: Arguments of the program.
            at: When to send it the signal.
            number: The signal.
            program: A function to run instead of the builder.
        """
        context = forking()
        here, there = context.Pipe()
        self._log = folder / "builder.log"
        given = (program, [*arguments], folder / "cache", self._log, at, int(number), there)
        self.process = context.Process(target=_run, args=given)
        self.process.start()
        there.close()
        assert here.poll(PATIENCE), "the builder did not start"
        with contextlib.suppress(EOFError):
            here.recv()
        self.began = time.monotonic()

    @property
    def output(self) -> str:
        """Everything that it has printed so far."""
        return self._log.read_text()

    def send(self, number: signal.Signals) -> None:
        """Send it a signal if it still runs."""
        if self.process.is_alive():
            os.kill(self.process.pid or 0, number)

    def wait(self, seconds: float = PATIENCE) -> int:
        """Wait until the builder and all processes that it started have ended; return its exit code."""
        self.process.join(seconds)
        assert self.process.exitcode is not None, self.output
        wait_until(
            lambda: not list(self._remaining_processes()), lambda: f"orphans: {list(self._remaining_processes())}"
        )
        return self.process.exitcode

    def _remaining_processes(self) -> Iterator[str]:
        """Yield the status of every process of its session that still runs."""
        for path in Path("/proc").glob("[0-9]*/stat"):
            try:
                status = path.read_text()
            except OSError:
                continue  # it has just ended
            state, _, _, session = status.rpartition(")")[2].split()[:4]
            if int(session) == self.process.pid and state != "Z":
                yield status
