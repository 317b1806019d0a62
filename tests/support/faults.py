"""Fail at the n-th operation on the files of a folder: with an error, or with a power cut that loses unsynced data."""

import builtins
import errno
import io
import os
import sys
import threading
from collections import Counter
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Any, NoReturn

POWER_CUT = 99  # exit code
AUDITED = {  # operations by the names of Python's audit events
    "open": "open",
    "os.mkdir": "mkdir",
    "os.rename": "rename",
    "os.link": "link",
    "os.remove": "unlink",
    "os.rmdir": "unlink",
}


class Fault(StrEnum):
    """What happens at the n-th operation, which is not performed.

    A file system may write data and names to the disk in any order until they are synced. The two power cuts are the
    worst cases: names are on disk, but the data is not; or deletions are, but renames and links are not.
    """

    ERROR = "error"
    DATA_LOST = "power cut that loses data"
    NAMES_LOST = "power cut that loses names"


class FaultyDisk:
    """Counts the operations of this process on the files below a folder, and fails at one of them."""

    def __init__(self, root: Path, aside: Path, fault: Fault = Fault.ERROR, at: int = 0) -> None:
        """Patch Python's functions for files, for good. `at` is counted from 1; at 0 nothing fails.

        `aside` is an empty folder on the same disk, for files that renames replace.
        """
        self.counts: Counter[str] = Counter()
        self.reached = ""
        self._root, self._aside, self._fault, self._at = f"{root.resolve()}{os.sep}", aside, fault, at
        self._lock, self._paused = threading.RLock(), False
        self._on_disk: dict[str, int] = {}  # how much of each file that has changed is on disk
        self._renamed: list[tuple[str, str, str]] = []  # source, target, and a link to what was there; "" for nothing
        self._patch()

    def _patch(self) -> None:
        opened, reserve, fsync, sync = io.open, os.posix_fallocate, os.fsync, os.sync
        disk = self

        class File(io.FileIO):
            def write(self, data: Any) -> int:
                disk.step("write", str(self.name))
                return super().write(data)

        def open_file(file: Any, mode: str = "r", *more: Any, **options: Any) -> Any:
            if isinstance(file, int) or not {*mode} & {*"wax+"} or not disk.covers(file):
                return opened(file, mode, *more, **options)
            raw = File(file, mode.replace("b", "").replace("t", ""))
            buffered = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
            return buffered if "b" in mode else io.TextIOWrapper(buffered, options.get("encoding"))

        def at_descriptor(operation: str, call: Callable[..., None]) -> Callable[..., None]:
            def stepped(descriptor: int, *more: int) -> None:
                disk.step(operation, path := path_of(descriptor))
                call(descriptor, *more)
                if operation == "fsync":
                    disk.synced(path)

            return stepped

        def sync_all() -> None:
            disk.step("fsync", disk._root)
            sync()
            disk._on_disk.clear()
            disk._renamed.clear()

        builtins.open = io.open = open_file  # type: ignore[assignment]
        os.posix_fallocate = at_descriptor("write", reserve)
        os.fsync, os.sync = at_descriptor("fsync", fsync), sync_all
        sys.addaudithook(self._audit)

    def covers(self, path: str | bytes | os.PathLike[str]) -> bool:
        """Whether a path is below the folder."""
        return str(Path(os.fsdecode(path)).absolute()).startswith(self._root)

    def step(self, operation: str, path: str) -> None:
        """Count an operation; fail if it is the n-th."""
        if not self.covers(path) and path != self._root:
            return
        with self._lock:
            self.counts[operation] += 1
            if self.counts.total() == self._at:
                self.reached = f"{operation} {path.removeprefix(self._root)}"
                if self._fault is not Fault.ERROR:
                    self._cut_power()
                number = errno.ENOSPC if operation == "write" else errno.EIO
                raise OSError(number, os.strerror(number), path)

    def synced(self, path: str) -> None:
        """Note that a file, or the names in a folder, are on disk."""
        with self._lock:
            self._on_disk.pop(path, None)
            self._renamed = [each for each in self._renamed if str(Path(each[1]).parent) != path]

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        operation = AUDITED.get(event)
        if operation is None or isinstance(arguments[0], int):
            return
        path = os.fsdecode(arguments[0])
        if operation == "unlink" and arguments[1] >= 0:  # relative to an open folder
            path = f"{path_of(arguments[1])}/{path}"
        with self._lock:
            if self._paused or not self.covers(path):
                return
            self._paused = True
            try:
                self.step(operation, path)
                if operation == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR):
                    kept = Path(path).is_file() and not arguments[2] & os.O_TRUNC
                    self._on_disk.setdefault(path, Path(path).stat().st_size if kept else 0)
                elif operation == "unlink":
                    self._on_disk.pop(path, None)
                elif operation in ("rename", "link"):
                    self._rename(operation, path, os.fsdecode(arguments[1]))
            finally:
                self._paused = False

    def _rename(self, operation: str, source: str, target: str) -> None:
        replaced = ""
        if Path(target).exists():
            replaced = str(self._aside / str(self.counts.total()))
            Path(replaced).hardlink_to(target)
        self._renamed.append((source if operation == "rename" else "", target, replaced))
        if source in self._on_disk:
            self._on_disk[target] = self._on_disk[source]
            if operation == "rename":
                del self._on_disk[source]

    def _cut_power(self) -> NoReturn:
        """Bring the folder into the state in which it could be after a power cut, and end the process."""
        self._paused = True
        for path, size in self._on_disk.items():
            if Path(path).exists():
                # Some of the rest may be on disk too.
                os.truncate(path, max(size, Path(path).stat().st_size // 2 if self._at % 2 else 0))
        for source, target, replaced in reversed(self._renamed) if self._fault is Fault.NAMES_LOST else ():
            if not Path(target).exists():
                continue
            if source:
                Path(target).rename(source)
            else:
                Path(target).unlink()
            if replaced:
                Path(replaced).rename(target)
        os.write(1, f"{self._fault} at {self.reached}\n".encode())
        os._exit(POWER_CUT)


def path_of(descriptor: int) -> str:
    """Return the path of an open file."""
    return str(Path(f"/proc/self/fd/{descriptor}").readlink())
