"""Run a function in a process of its own and wait for it."""

import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from typing import Any

import psutil

from retrieval.errors import IndexingError

POLL = 0.2  # seconds between two checks whether to go on
# ChromaDB waits forever for a thread that the system did not let it start. A process that works uses a thousand times
# as much processor time as this.
STALLED, LEAST = 60.0, 0.1  # seconds, and processor seconds in them


def run_in_process(
    function: Callable[..., None], arguments: tuple[Any, ...], check: Callable[[], None] = lambda: None
) -> None:
    """Run a function in a new process; it and its arguments are pickled.

    Args:
        function: raises an OSError or IndexingError if it fails, which is raised here as well.
        arguments: its arguments.
        check: called repeatedly; if it raises an exception, the process is killed.

    Raises:
        IndexingError: the process has ended without a result, or has stopped working.
    """
    here, there = multiprocessing.Pipe()
    process = _context().Process(target=_run, args=(there, function, arguments), daemon=True)
    resource_tracker.ensure_running()  # first, because starting this helper of Python unblocks interrupts
    with _without_interrupts():
        process.start()
    there.close()
    try:
        works = _works(process.pid or 0)
        while not here.poll(POLL):
            check()
            if not next(works):
                raise EOFError
        error = here.recv()
    except (EOFError, OSError) as failure:
        raise IndexingError(
            "The process that writes the index has stopped unexpectedly, perhaps because it ran out of memory or "
            "threads. Run the same command again to continue."
        ) from failure
    finally:
        process.kill()
        process.join()
        here.close()
    if error is not None:
        raise error


def _context() -> Any:
    return multiprocessing.get_context("spawn")  # not forked, because torch and ChromaDB have threads


def _works(process: int) -> Iterator[bool]:
    """Yield, whenever asked, whether a process has used processor time lately."""
    used, since = 0.0, time.monotonic()
    while True:
        try:
            now = sum(psutil.Process(process).cpu_times()[:2])
        except psutil.Error:
            now = used  # it has just ended
        if now - used >= LEAST:
            used, since = now, time.monotonic()
        yield time.monotonic() - since < STALLED


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """Let a process that is started ignore Ctrl-C, which its parent handles."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _run(pipe: Connection, function: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, args=(pipe,), daemon=True).start()
    try:
        function(*arguments)
    except (OSError, IndexingError) as error:
        pipe.send(error)
    except MemoryError:
        return  # like a process that the system ends for lack of memory
    except Exception as error:  # noqa: BLE001  # without memory or threads, libraries raise errors of their own
        reason = f"{type(error).__name__}: {error}".rstrip(".")
        failure = IndexingError(f"The index could not be written ({reason}). Run the same command again to continue.")
        failure.add_note(traceback.format_exc())
        pipe.send(failure)
    else:
        pipe.send(None)


def _end_with_parent(pipe: Connection) -> None:
    """Wait for the pipe's other end to close, which happens at the latest when the parent ends."""
    try:
        pipe.recv()
    except (EOFError, OSError):
        os._exit(1)
