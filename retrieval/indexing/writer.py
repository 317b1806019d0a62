"""Write a build's store in a separate process while the builder continues to embed.

ChromaDB holds Python's global lock while it inserts, for tenths of a second at a time, which would block every other
thread of the builder.
"""

import multiprocessing
import signal
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from typing import Protocol

from retrieval.errors import IndexingError
from retrieval.storage.batches import Batch
from retrieval.storage.store import Store

GRACE = 20.0  # seconds to finish writing; a store that is killed earlier has to rebuild ChromaDB's files later


class Writer(Protocol):
    """Writes batches, possibly one in the background while the next one is embedded."""

    def write(self, batch: Batch) -> int:
        """Write a batch; return the number of rows written since the last call. Raise IndexingError on failure."""

    def finish(self) -> int:
        """Wait until everything is written; return and raise as `write` does."""


@contextmanager
def open_writer(open_store: Callable[[], Store], separate: bool) -> Iterator[Writer]:
    """Return a context with a writer for the store that `open_store` opens.

    If `separate`, the store is opened in a new process, so `open_store` must be picklable; the process takes seconds of
    one core to start.
    """
    if not separate:
        with closing(open_store()) as store:
            yield _InProcessWriter(store)
        return
    here, there = multiprocessing.Pipe()
    # Not forked, because torch and ChromaDB have threads.
    process = multiprocessing.get_context("spawn").Process(target=_serve, args=(there, open_store), daemon=True)
    # Started first, because starting this helper of Python unblocks interrupts.
    resource_tracker.ensure_running()
    with _without_interrupts():
        process.start()
    there.close()
    try:
        yield _ProcessWriter(here)
    finally:
        here.close()
        process.join(GRACE)
        if process.is_alive():
            process.kill()
            process.join()


@dataclass
class _InProcessWriter:
    store: Store

    def write(self, batch: Batch) -> int:
        self.store.write(batch)
        return batch.rows

    def finish(self) -> int:
        self.store.flush()
        return 0


@dataclass
class _ProcessWriter:
    pipe: Connection
    pending: bool = True  # a reply is due; the first one confirms that the store is open
    rows: int = 0  # of the batch being written

    def write(self, batch: Batch) -> int:
        written = self._wait_for_reply()
        self._send(batch)
        self.rows = batch.rows
        return written

    def finish(self) -> int:
        written = self._wait_for_reply()
        self._send(None)
        self._wait_for_reply()
        return written

    def _send(self, batch: Batch | None) -> None:
        try:
            self.pipe.send(batch)
        except OSError as error:
            raise _writer_died() from error
        self.pending = True

    def _wait_for_reply(self) -> int:
        if self.pending:
            try:
                error_or_none = self.pipe.recv()
            except (EOFError, OSError) as error:
                raise _writer_died() from error
            if error_or_none is not None:
                raise error_or_none
        written, self.pending, self.rows = self.rows, False, 0
        return written


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """Let a process that is started ignore Ctrl-C, which the builder handles."""
    if not hasattr(signal, "pthread_sigmask"):  # on Windows, only `_serve` ignores it, a moment later
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve(pipe: Connection, open_store: Callable[[], Store]) -> None:
    """Write the batches received through the pipe until None arrives or the builder has gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with suppress(EOFError, OSError):  # the builder no longer reads replies
        try:
            with closing(open_store()) as store:
                pipe.send(None)
                while (batch := pipe.recv()) is not None:
                    store.write(batch)
                    pipe.send(None)
                store.flush()
                pipe.send(None)
        except IndexingError as error:
            pipe.send(error)


def _writer_died() -> IndexingError:
    return IndexingError(
        "The process that writes the index has ended unexpectedly, perhaps because it ran out of memory. "
        "Run the same command again to resume the build."
    )
