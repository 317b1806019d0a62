"""The folder for what visitors upload: of this process alone, and bounded."""

import atexit
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path

from filelock import FileLock, Timeout

from retrieval.errors import RetrievalError
from retrieval.ui.serving.limits import UPLOADS_BYTES, UPLOADS_FILES

OWN = "lookalike-uploads-"  # how the folders begin that a later start deletes once their process has ended
NEW = "lookalike-new-"  # until it is locked, so that no other process takes it for one whose process has ended
EMPTY_SECONDS = 60  # that a folder must have been empty for; one just made is about to get its file


@cache
def own_folder() -> Path:
    """Return this process's folder for uploads, which nobody else may read; it goes with the process.

    It lies in `GRADIO_TEMP_DIR`, or in the system's folder for temporary files. Neither is used itself: all in them
    that is not ours would count as an upload and be deleted. What a killed process left there is deleted.

    Raises:
        RetrievalError: no folder can be made there.
    """
    parent = Path(os.environ.get("GRADIO_TEMP_DIR") or tempfile.gettempdir())
    try:
        parent.mkdir(parents=True, exist_ok=True)
        new = Path(tempfile.mkdtemp(prefix=NEW, dir=parent))
        lock = FileLock(new / "lock", timeout=0)
        lock.acquire()
        own = new.rename(new.with_name(OWN + new.name.removeprefix(NEW)))
        files = own / "files"  # apart from the lock, which is no upload
        files.mkdir()
    except OSError as error:
        raise RetrievalError(
            f"There is no place for uploads in {parent}: {error.strerror or error}. Make room or give access, or name "
            "another folder by GRADIO_TEMP_DIR."
        ) from error
    atexit.register(_leave, own, lock)
    for other in set(parent.glob(f"{OWN}*")) - {own}:
        _delete_left(other, own)
    return files


def make_room(folder: Path, needed: int = 0) -> bool:
    """Delete the oldest files below a folder until it is within `UPLOADS_BYTES` and `UPLOADS_FILES`.

    More of them go where the disk lacks `needed` bytes; returns whether it has those in the end.
    """
    found = sorted(_files(folder))
    size = sum(each for _, each, _ in found)
    free = shutil.disk_usage(folder).free
    for left, (_, each, path) in zip(range(len(found), 0, -1), found, strict=True):
        if size <= UPLOADS_BYTES and left <= UPLOADS_FILES and free >= needed:
            break
        path.unlink(missing_ok=True)
        size -= each
        free = shutil.disk_usage(folder).free
    return free >= needed


def _files(folder: Path) -> Iterator[tuple[float, int, Path]]:
    """Find the files below a folder: when each was changed, its bytes, its path; what has long been empty goes.

    gradio makes a folder for each upload, and leaves it when it deletes the file after a day.
    """
    for name, folders, files in os.walk(folder):  # which goes on where a folder is gone meanwhile
        parent = Path(name)
        with suppress(OSError):
            if not folders and not files and parent != folder and time.time() - parent.lstat().st_mtime > EMPTY_SECONDS:
                parent.rmdir()
        for path in map(parent.joinpath, files):
            try:
                state = path.lstat()
            except OSError:  # gone meanwhile
                continue
            yield state.st_mtime, state.st_size, path


def _leave(own: Path, lock: FileLock) -> None:
    shutil.rmtree(own, ignore_errors=True)
    lock.release()


def _delete_left(other: Path, own: Path) -> None:
    """Delete another folder for uploads, if it is of the same user and its process has ended."""
    try:
        if other.is_symlink() or other.lstat().st_uid != own.lstat().st_uid:
            return
        with FileLock(other / "lock", timeout=0):
            shutil.rmtree(other)
    except (Timeout, OSError):  # it is in use, or has just been deleted by another start
        return
