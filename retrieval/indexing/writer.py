"""A store that writes in a process of its own, beside a builder that goes on embedding.

ChromaDB holds Python's global lock while it inserts, for tenths of a second at a time, in which no other thread of the
builder could take a step.
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

GRACE = 20.0  # seconds to end what is being written; a store survives to be cut off, but writes ChromaDB's files anew


class Writer(Protocol):
    """Takes batches; one may be under way while the next is embedded."""

    def write(self, batch: Batch) -> int:
        """Write a batch, once those before it are written; return how many rows are written since the last answer.

        Raises:
            IndexingError: it, or one before it, could not be written.
        """

    def finish(self) -> int:
        """Wait until everything is written; return as `write` does.

        Raises:
            IndexingError: something could not be.
        """


@contextmanager
def open_writer(open_store: Callable[[], Store], separate: bool) -> Iterator[Writer]:
    """Open a build's store, which nobody may have open, to be written until the end.

    Args:
        open_store: opens it; can be pickled if it is to happen in another process.
        separate: in a process of its own, which takes seconds of one core to start.
    """
    if not separate:
        with closing(open_store()) as store:
            yield _InProcessWriter(store)
        return
    here, there = multiprocessing.Pipe()
    # Not forked: torch and ChromaDB have threads.
    process = multiprocessing.get_context("spawn").Process(target=_serve, args=(there, open_store), daemon=True)
    # Python's helper, which lets interrupts through again when it is started.
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
    unanswered: bool = True  # the first answer says that the store is open
    rows: int = 0  # of the batch that is under way

    def write(self, batch: Batch) -> int:
        written = self._answered()
        self._send(batch)
        self.rows = batch.rows
        return written

    def finish(self) -> int:
        written = self._answered()
        self._send(None)
        self._answered()
        return written

    def _send(self, batch: Batch | None) -> None:
        try:
            self.pipe.send(batch)
        except OSError as error:
            raise _writer_died() from error
        self.unanswered = True

    def _answered(self) -> int:
        if self.unanswered:
            try:
                answer = self.pipe.recv()
            except (EOFError, OSError) as error:
                raise _writer_died() from error
            if answer is not None:
                raise answer
        written, self.unanswered, self.rows = self.rows, False, 0
        return written


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """Let a process that is started inherit deafness to Ctrl-C, which is the builder's to answer."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows; `_serve` ignores it there, a moment later
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve(pipe: Connection, open_store: Callable[[], Store]) -> None:
    """Write what comes through the pipe, until there is no more, or the other side closes it or is no more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with suppress(EOFError, OSError):  # who has stopped listening wants to hear nothing
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
        "The process that writes the index has ended unexpectedly; perhaps the memory was full. "
        "Run the same command again; it goes on where it stopped."
    )
