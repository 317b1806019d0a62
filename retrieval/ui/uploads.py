"""The folder for what visitors upload: of this process alone, and bounded."""

import atexit
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from retrieval.ui.limits import UPLOADS_BYTES, UPLOADS_FILES


def own_folder() -> str:
    """Return a new folder for uploads, which nobody else may read; it goes with this process.

    gradio's own is shared by all its apps on a machine, so that none could keep it bounded.
    """
    folder = tempfile.mkdtemp(prefix="lookalike-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


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
        Path(path).unlink(missing_ok=True)
        size -= each
        free = shutil.disk_usage(folder).free
    return free >= needed


def _files(folder: Path) -> Iterator[tuple[float, int, str]]:
    for path in folder.rglob("*"):
        try:
            state = path.lstat()
        except OSError:  # gone meanwhile
            continue
        if path.is_file():
            yield state.st_mtime, state.st_size, str(path)
