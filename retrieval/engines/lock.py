"""Locks on the folders of an index: ChromaDB's files may be open in only one process at a time."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from retrieval.errors import IndexingError


class IndexInUse(IndexingError):
    """Another process holds the lock."""


def acquire_lock(build: Path, timeout: float = 0, create: bool = True, name: str = "lock") -> FileLock:
    """Lock a folder for this process, at the latest until it ends; wait `timeout` seconds for another process.

    Each engine has a lock file of another `name`, which guards its files during a rebuild.

    Raises:
        IndexInUse: another process holds the lock.
        IndexingError: the folder cannot be written.
    """
    lock = FileLock(build / name, timeout=timeout)
    try:
        if create:
            build.mkdir(parents=True, exist_ok=True)
        elif not build.is_dir():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        lock.acquire()
    except Timeout as error:
        raise IndexInUse(
            f"The index in `{build}` is in use by another process (a running app or builder). Stop that process, or "
            "search with `--engine exact` (compare with `--exact-only`), which any number of processes can do at once."
        ) from error
    except OSError as error:
        raise IndexingError(
            f"The index folder `{build}` cannot be written: {error.strerror or error}. Free some space or change its "
            "permissions, or choose another folder with `--index`."
        ) from error
    return lock


@contextmanager
def held(folder: Path, name: str = "lock", timeout: float = 0) -> Iterator[None]:
    """Return a context in which this process holds a lock on a folder; wait and raise as `acquire_lock` does."""
    lock = acquire_lock(folder, timeout, name=name)
    try:
        yield
    finally:
        lock.release()
