"""The folder for uploads, which belongs to this process alone and is bounded in size."""

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

OWN = "lookalike-uploads-"  # prefix of the folders that a later start deletes once their process has ended
NEW = "lookalike-new-"  # prefix until it is locked, so that no other process takes it for abandoned
EMPTY_SECONDS = 60  # for which a folder must have been empty; a new one is about to get its file


@cache
def own_folder() -> Path:
    """Create this process's folder for uploads, which only its user may read; it is deleted when the process ends.

    It is a new folder in `GRADIO_TEMP_DIR` or in the system's folder for temporary files, because other files there
    would count as uploads and be deleted. Folders of killed processes are deleted.

    Raises:
        RetrievalError: the folder cannot be created.
    """
    parent = Path(os.environ.get("GRADIO_TEMP_DIR") or tempfile.gettempdir())
    try:
        parent.mkdir(parents=True, exist_ok=True)
        new = Path(tempfile.mkdtemp(prefix=NEW, dir=parent))
        lock = FileLock(new / "lock", timeout=0)
        lock.acquire()
        own = new.rename(new.with_name(OWN + new.name.removeprefix(NEW)))
        files = own / "files"  # apart from the lock, which is not an upload
        files.mkdir()
    except OSError as error:
        raise RetrievalError(
            f"The folder for uploads cannot be created in `{parent}`: {error.strerror or error}. Free some space, "
            "change the permissions, or set `GRADIO_TEMP_DIR` to another folder."
        ) from error
    atexit.register(_delete, own, lock)
    for other in set(parent.glob(f"{OWN}*")) - {own}:
        _delete_abandoned(other, own)
    return files


def make_room(folder: Path, needed: int = 0) -> bool:
    """Delete the oldest files until the folder has room for `needed` bytes; return whether the disk has."""
    found = sorted(_files(folder))
    size = sum(each for _, each, _ in found)
    free = shutil.disk_usage(folder).free
    for left, (_, each, path) in zip(range(len(found), 0, -1), found, strict=True):
        if size + needed <= UPLOADS_BYTES and left <= UPLOADS_FILES and free >= needed:
            break
        path.unlink(missing_ok=True)
        size -= each
        free = shutil.disk_usage(folder).free
    return free >= needed


def _files(folder: Path) -> Iterator[tuple[float, int, Path]]:
    """Yield the modification time, size in bytes and path of each file; delete folders that have long been empty."""
    # gradio makes a folder for each upload and leaves it there when it deletes the file.
    for name, folders, files in os.walk(folder):  # continues if a folder disappears
        parent = Path(name)
        with suppress(OSError):
            if not folders and not files and parent != folder and time.time() - parent.lstat().st_mtime > EMPTY_SECONDS:
                parent.rmdir()
        for path in map(parent.joinpath, files):
            try:
                state = path.lstat()
            except OSError:  # deleted in the meantime
                continue
            yield state.st_mtime, state.st_size, path


def _delete(own: Path, lock: FileLock) -> None:
    shutil.rmtree(own, ignore_errors=True)
    lock.release()


def _delete_abandoned(other: Path, own: Path) -> None:
    """Delete another folder for uploads if it belongs to the same user and its process has ended."""
    try:
        if other.is_symlink() or other.lstat().st_uid != own.lstat().st_uid:
            return
        with FileLock(other / "lock", timeout=0):
            shutil.rmtree(other)
    except (Timeout, OSError):  # in use, or just deleted by another start
        return
