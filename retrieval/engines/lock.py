"""A folder of an index belongs to one process at a time, since ChromaDB's files do."""

import errno
import os
from pathlib import Path

from filelock import FileLock, Timeout

from retrieval.errors import IndexingError


class IndexInUse(IndexingError):
    """Another process owns the build."""


def own(build: Path, patience: float = 0, make: bool = True, name: str = "lock") -> FileLock:
    """Take a build's folder for this process alone, made if need be; the lock ends with the process.

    Args:
        build: the folder.
        patience: seconds to wait for another process to leave it.
        make: make the folder if it is not there.
        name: of the lock file; the one of an engine guards its files while they are rebuilt.

    Raises:
        IndexInUse: another process has it.
        IndexingError: the folder cannot be written.
    """
    lock = FileLock(build / name, timeout=patience)
    try:
        if make:
            build.mkdir(parents=True, exist_ok=True)
        elif not build.is_dir():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        lock.acquire()
    except Timeout as error:
        raise IndexInUse(
            f"The index in {build} is in use by another process (a running app or builder). Stop that one "
            "first, or search with --engine exact (compare with --exact-only), which any number of processes can do."
        ) from error
    except OSError as error:
        raise IndexingError(
            f"The index folder {build} cannot be written: {error.strerror or error}. Make room or give access, or name "
            "another with --index."
        ) from error
    return lock
