"""Checksums of a finished build: what a disk has damaged is told before it gives wrong answers, or ends the process.

ChromaDB does not look: it takes a deleted database for an empty one, answers with whatever vectors a file holds now,
and a damaged graph ends the process by a segmentation fault. Maps are no matter of this module, since their format has
checksums of its own.
"""

import json
import sqlite3
import zlib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

FILE = "checksums.json"
DATABASE = "chroma/chroma.sqlite3"
BLOCK = 2**20  # bytes read at once


def write_checksums(build: Path) -> None:
    """Keep the checksums of a build whose files for readers are made, and whose ChromaDB, if it has one, is closed.

    Raises:
        OSError: something cannot be read or written.
    """
    sums = {path.relative_to(build).as_posix(): _checksum(path) for path in sorted(_lasting(build))}
    temporary = build / f"{FILE}.tmp"
    temporary.write_text(json.dumps(sums, indent=1), encoding="utf-8")
    temporary.replace(build / FILE)


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


def _lasting(build: Path) -> Iterator[Path]:
    """Yield the files that nothing changes any more."""
    yield build / "items.parquet"
    yield from build.glob("*.npy")
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
