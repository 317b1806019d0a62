"""Checksums of a finished build: what a disk has damaged is told before it gives wrong answers, or ends the process.

ChromaDB does not look: it takes a deleted database for an empty one, answers with whatever vectors a file holds now,
and a damaged graph ends the process by a segmentation fault. Maps are no matter of this module, since their format has
checksums of its own.
"""

import json
import sqlite3
import zlib
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path

FILE = "checksums.json"
CHROMA = "chroma"
WHOLE = "chroma/whole"  # the checksums of ChromaDB's files alone, of a build that is not finished
DATABASE = "chroma/chroma.sqlite3"
BLOCK = 2**20  # bytes read at once


def write_checksums(build: Path) -> None:
    """Keep the checksums of a build whose files for readers are made, and whose ChromaDB, if it has one, is closed.

    Raises:
        OSError: something cannot be read or written.
        ValueError: ChromaDB's database is damaged.
    """
    chroma = _noted(build)  # what comes of its files after that is damage already
    if chroma is None:
        chroma = _sums(build, _of_chroma(build))
    readers = (build / "items.parquet", *build.glob("*.npy"))
    _write(build / FILE, _sums(build, readers) | chroma)


def note_whole(build: Path) -> None:
    """Keep the checksums of ChromaDB's files, which it has given back after its last write.

    Raises:
        OSError: something cannot be read or written.
        ValueError: its database is damaged.
    """
    _write(build / WHOLE, _sums(build, _of_chroma(build)))


def is_whole(build: Path) -> bool:
    """Whether ChromaDB's files are what they were when it gave them back after its last write."""
    noted = _noted(build)
    try:
        return noted is not None and noted == _sums(build, _of_chroma(build))
    except (OSError, ValueError):
        return False


def check(build: Path, *names: str) -> None:
    """See that files of a build are what they were when it was published; a folder stands for all in it.

    Raises:
        OSError: one cannot be read.
        ValueError: one is damaged, is missing, or was never there.
    """
    sums = json.loads((build / FILE).read_text(encoding="utf-8"))
    for name in names:
        found = {path: kept for path, kept in sums.items() if path == name or path.startswith(f"{name}/")}
        if not found:
            raise ValueError(f"no checksum of {name}")
        for path, kept in found.items():
            if _checksum(build / path) != kept:
                raise ValueError(f"{path} has changed")


def _noted(build: Path) -> dict[str, int] | None:
    """Return what `note_whole` kept; None if it is not there, or damaged itself."""
    try:
        noted = json.loads((build / WHOLE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return noted if isinstance(noted, dict) else None


def _write(path: Path, sums: dict[str, int]) -> None:
    temporary = path.with_name(f"{path.name}.tmp")
    temporary.write_text(json.dumps(sums, indent=1), encoding="utf-8")
    temporary.replace(path)


def _sums(build: Path, files: Iterable[Path]) -> dict[str, int]:
    return {path.relative_to(build).as_posix(): _checksum(path) for path in sorted(files)}


def _of_chroma(build: Path) -> Iterator[Path]:
    """Yield the files of ChromaDB that nothing changes once it is closed."""
    yield from build.glob(DATABASE)
    for written in build.glob("chroma/*/index_metadata.pickle"):  # without it, ChromaDB makes the graph's files anew
        yield from written.parent.iterdir()


def _checksum(path: Path) -> int:
    if path.name == Path(DATABASE).name:
        return _of_tables(path)
    total = 0
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            total = zlib.crc32(block, total)
    return total


def _of_tables(path: Path) -> int:
    """Return the checksum of a database's contents; whoever opens it leaves a row in one table of ChromaDB's."""
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as database:
            (answer,) = database.execute("PRAGMA integrity_check(1)").fetchone()  # also of what tables are found by
            if answer != "ok":
                raise ValueError(f"{path.name}: {answer}")
            tables = database.execute(
                "SELECT name FROM sqlite_master WHERE type = 'table' AND name != 'acquire_write' ORDER BY name"
            ).fetchall()
            total = 0
            for (table,) in tables:
                for row in database.execute(f'SELECT * FROM "{table}"'):
                    total = zlib.crc32(repr(row).encode(), total)
            return total
    except sqlite3.Error as error:
        raise ValueError(f"{path.name}: {error}") from error
