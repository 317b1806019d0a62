"""Write a file so that a crash or a power cut leaves either all of it or nothing."""

import errno
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


@contextmanager
def whole_file(path: Path, durable: bool = True) -> Iterator[IO[bytes]]:
    """Return a context with a new file, which takes the place of `path` in one step at the end of the context.

    If anything fails, `path` stays as it was. A killed process leaves a file whose name ends in `.tmp`. Unless
    `durable`, a power cut may empty the file, so that its reader has to check it.
    """
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
            if durable:
                file.flush()
                os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if durable:
        sync_folder(path.parent)  # before the caller deletes what the file replaces


def sync_folder(folder: Path) -> None:
    """Write the names in a folder to disk, so that a power cut does not undo a renaming."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some network file systems cannot do it
            raise
    finally:
        os.close(descriptor)
