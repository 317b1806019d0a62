"""Find every file below a folder, and say of each whether it is an image."""

import hashlib
import heapq
import os
import stat
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from retrieval.errors import GalleryError
from retrieval.gallery.source import Stamp, valid_unicode
from retrieval.gallery.splits import is_picture
from retrieval.labels import printable

METADATA = {"metadata.csv", "metadata.jsonl", "metadata.parquet"}
THUMBNAILS = {"@eadir", ".thumbnails", "thumbs.db"}  # other programs' thumbnails, in lower case
READABLE = {".json", ".parquet", ".tar"}  # suffixes of files that a gallery may also be read from
LISTED = 5  # names in a note


@dataclass(frozen=True)
class File:
    """A file below a folder. Bytes of its name that are not UTF-8 are surrogates, as Python has them."""

    path: str  # relative to the folder
    target: str  # the absolute path, with links resolved
    size: int | None  # None unless it is a regular file
    mtime_ns: int = 0

    @property
    def id(self) -> str:
        """The relative path as valid Unicode."""
        return valid_unicode(self.path)

    @property
    def stamp(self) -> Stamp | None:
        """What identifies the file's bytes; None unless it is a regular file."""
        return None if self.size is None else Stamp(self.id, self.size, self.mtime_ns)


@dataclass
class Walk:
    """What lies below a folder. Every file is in exactly one of the lists, or counted in `ignored`.

    Files in `readable` are counted in `ignored` too, since they are not images. Lists are sorted by the bytes of the
    relative path.
    """

    root: Path
    pictures: list[File] = field(default_factory=list)
    metadata: list[File] = field(default_factory=list)
    readable: list[File] = field(default_factory=list)
    ignored: Counter[str] = field(default_factory=Counter)  # suffix -> files
    thumbnails: list[str] = field(default_factory=list)
    hidden: list[str] = field(default_factory=list)
    repeated: list[str] = field(default_factory=list)  # folders that a link reaches again
    unreadable: dict[str, str] = field(default_factory=dict)  # folder -> the reason

    def with_suffix(self, suffix: str) -> list[File]:
        """Return the readable files with a suffix."""
        return [file for file in self.readable if PurePosixPath(file.path).suffix.lower() == suffix]

    @property
    def notes(self) -> list[str]:
        """Sentences about what is not counted."""
        kinds = {
            "Hidden files and folders": self.hidden,
            "Metadata files": [file.path for file in self.metadata],
            "Thumbnails of other programs": self.thumbnails,
            "Folders that links reach more than once, read only once": self.repeated,
            "Folders that cannot be read": [f"{path} ({reason})" for path, reason in self.unreadable.items()],
        }
        return [f"{kind}: {listed(names)}." for kind, names in kinds.items() if names]


def listed(names: Iterable[str]) -> str:
    """Return the first names for one line of a terminal, and how many there are in total."""
    shown = sorted(map(valid_unicode, names))
    more = f" and {len(shown) - LISTED:,} more" if len(shown) > LISTED else ""
    return ", ".join(f"`{printable(name)}`" for name in shown[:LISTED]) + more


def counts(ignored: Mapping[str, int]) -> str:
    """Return numbers of files by suffix, the most frequent first, for one line of a terminal."""
    ordered = sorted(ignored.items(), key=lambda each: (-each[1], each[0]))[:LISTED]
    return ", ".join(f"{number:,} {printable(suffix) or 'without suffix'}" for suffix, number in ordered)


def digest(files: Iterable[File]) -> str:
    """Return a digest of the paths, sizes and times of files."""
    total = hashlib.sha256()
    for file in files:
        total.update(os.fsencode(f"{file.path}\0{file.size}\0{file.mtime_ns}\n"))
    return total.hexdigest()[:16]


def walk(folder: Path) -> Walk:
    """Walk a folder, its subfolders and the folders that symbolic links lead to, each of them once.

    A link to a folder that contains the link is not followed. Raise GalleryError if the folder cannot be read.
    """
    found = _Walker(Walk(folder)).run()
    for files in (found.pictures, found.metadata, found.readable):
        files.sort(key=lambda file: os.fsencode(file.path))
    return found


class _Walker:
    def __init__(self, found: Walk) -> None:
        self._found = found
        self._seen: set[tuple[int, int]] = set()  # device and inode of each folder
        self._links: list[tuple[bytes, str, str]] = []  # heap: path as bytes, path, and the folder that holds the link

    def run(self) -> Walk:
        root = os.path.realpath(self._found.root)
        self._folder("", root)
        if reason := self._found.unreadable.get(""):
            raise GalleryError(f"The folder `{printable(str(self._found.root))}` cannot be read: {reason}.")
        # Folders in their own place come first, so that a link to one of them does not rename it.
        while self._links:
            _, path, holder = heapq.heappop(self._links)
            target = os.path.realpath(f"{holder}/{PurePosixPath(path).name}")
            if Path(holder).is_relative_to(target):
                self._found.repeated.append(path)
            else:
                self._folder(path, target)
        return self._found

    def _folder(self, path: str, folder: str) -> None:
        """Walk a folder, given by its relative and its real path, without following links to folders."""
        pending = [(path, folder)]
        while pending:
            path, folder = pending.pop()
            try:
                state = Path(folder).stat()
                if (state.st_dev, state.st_ino) in self._seen:
                    self._found.repeated.append(path)
                    continue
                self._seen.add((state.st_dev, state.st_ino))
                with os.scandir(folder) as entries:
                    for entry in entries:
                        inner = f"{path}/{entry.name}" if path else entry.name
                        if self._take(entry, inner, folder):
                            pending.append((inner, entry.path))
            except OSError as error:
                self._found.unreadable[path] = error.strerror or str(error)

    def _take(self, entry: os.DirEntry[str], path: str, holder: str) -> bool:
        """Put an entry of a folder where it belongs; return whether it is a folder to walk next."""
        name, found = entry.name, self._found
        if name.lower() in THUMBNAILS:
            found.thumbnails.append(path)
        elif name.startswith("."):
            found.hidden.append(path)
        elif _is_folder(entry):
            if not entry.is_symlink():
                return True
            heapq.heappush(self._links, (os.fsencode(path), path, holder))
        elif name in METADATA:
            found.metadata.append(_file(entry, path))
        elif is_picture(name):
            found.pictures.append(_file(entry, path))
        else:
            suffix = PurePosixPath(name).suffix.lower()
            found.ignored[valid_unicode(suffix)] += 1
            # Only regular files, because opening a pipe would wait without end.
            if suffix in READABLE and (file := _file(entry, path)).size is not None:
                found.readable.append(file)
        return False


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads in a circle
        return False


def _file(entry: os.DirEntry[str], path: str) -> File:
    # A link is resolved here, so that reading the file later need not follow any.
    target = os.path.realpath(entry.path) if entry.is_symlink() else entry.path
    try:
        state = entry.stat()
    except OSError:
        return File(path, target, None)
    return File(path, target, state.st_size if stat.S_ISREG(state.st_mode) else None, state.st_mtime_ns)
