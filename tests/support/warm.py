"""Builders that tests start by the dozen and kill: forked from a server process that has loaded all they need."""

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

import index_builder
import retrieval.features.encoder
import retrieval.indexing.build  # with torch and ChromaDB
from retrieval.engines.chroma_folder import GRAPH
from tests.support.waiting import PATIENCE, until

WARMED = "tests.support.warmed"
ROWS_AT_ONCE = 4  # so that a few pictures make many batches
# ChromaDB writes its graphs every few pictures, not every thousand.
SYNC = {"sync_threshold": 8, "batch_size": 4}


@dataclass(frozen=True)
class Moment:
    """When a function of the program is entered ("call") or left ("return") for the n-th time, from 1."""

    function: str
    event: str
    times: int = 1
    of: str = ""  # only where the object's name, a path's, begins with this

    def happens(self, frame: FrameType, event: str) -> bool:
        """Whether this is one of those times."""
        if event != self.event or frame.f_code.co_qualname != self.function:
            return False
        return not self.of or str(getattr(frame.f_locals.get("self"), "name", "")).startswith(self.of)


def _at(moment: Moment, do: Callable[[], None]) -> None:
    """Do something at a moment of this process, whichever thread comes to it."""
    lock, seen = threading.Lock(), 0

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal seen
        if frame.f_code.co_qualname != moment.function:
            return None
        if moment.happens(frame, event):
            with lock:
                seen += 1
                now = seen == moment.times
            if now:
                do()
        return trace

    threading.settrace(trace)
    sys.settrace(trace)


def _run(
    program: Callable[[list[str]], int],
    arguments: list[str],
    cache: Path,
    log: Path,
    apart: bool,
    moment: Moment | None,
    number: int,
    began: Connection,
) -> None:
    """Run a program; the body of the forked process."""
    os.setsid()  # so that whatever it leaves behind is found by its session
    with log.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    datasets.config.HF_DATASETS_CACHE = cache
    retrieval.indexing.build.ROWS_AT_ONCE = ROWS_AT_ONCE
    retrieval.indexing.build.WRITER_PROCESS_ROWS = 1 if apart else sys.maxsize
    GRAPH.update(SYNC)
    encoder = sys.modules[WARMED].ENCODER  # fails unless the server process has imported it
    retrieval.features.encoder.ClipEncoder = lambda choice, dtype: encoder  # type: ignore[assignment, misc]
    if moment:
        _at(moment, lambda: os.kill(os.getpid(), number))
    began.send(None)
    code = program(arguments)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


@functools.cache
def _context() -> ForkServerContext:
    """Start the server process, which imports `warmed`."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([WARMED])
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)  # it takes no other notice of where we import from
    forkserver.ensure_running()
    del os.environ["PYTHONPATH"]
    if before is not None:
        os.environ["PYTHONPATH"] = before
    return context


class Builder:
    """A builder in a process of its own."""

    def __init__(
        self,
        folder: Path,
        *arguments: str,
        apart: bool = False,
        at: Moment | None = None,
        number: signal.Signals = signal.SIGKILL,
        program: Callable[[list[str]], int] = index_builder.main,
    ) -> None:
        """Start it, and wait until it has begun.

        Args:
            folder: for its log, and the cache of the dataset.
            arguments: the program's.
            apart: let it write in a process of its own, as it does with larger galleries.
            at: when it gets
            number: this signal.
            program: what runs instead of the builder.
        """
        context = _context()
        here, there = context.Pipe()
        self._log = folder / "builder.log"
        given = (program, [*arguments], folder / "cache", self._log, apart, at, int(number), there)
        self.process = context.Process(target=_run, args=given)
        self.process.start()
        there.close()
        assert here.poll(PATIENCE), "the builder did not begin"
        with contextlib.suppress(EOFError):
            here.recv()
        self.began = time.monotonic()

    @property
    def said(self) -> str:
        """What it has printed so far."""
        return self._log.read_text()

    def send(self, number: signal.Signals) -> None:
        """Send it a signal, if it has not ended."""
        if self.process.is_alive():
            os.kill(self.process.pid or 0, number)

    def end(self) -> int:
        """Wait until it and whatever it has started have ended; return its exit code."""
        self.process.join(PATIENCE)
        assert self.process.exitcode is not None, self.said
        until(lambda: not list(self._left()), lambda: f"orphans: {list(self._left())}")
        return self.process.exitcode

    def _left(self) -> Iterator[str]:
        """Yield the status of every process of its session."""
        for path in Path("/proc").glob("[0-9]*/stat"):
            try:
                status = path.read_text()
            except OSError:
                continue  # it has just ended
            state, _, _, session = status.rpartition(")")[2].split()[:4]
            if int(session) == self.process.pid and state != "Z":
                yield status
