"""Checksums of a finished build, so that damaged files are found before they give wrong results or end the process.

ChromaDB does not check its files: it takes a deleted database for an empty one, searches whatever vectors a file now
holds, and a damaged graph ends the process with a segmentation fault. Maps have checksums in their own format.
"""

import json
import sqlite3
import zlib
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path

FILE = "checksums.json"
CHROMA = "chroma"
WHOLE = "chroma/whole"  # the checksums of ChromaDB's files, written when it was closed after its last write
DATABASE = "chroma/chroma.sqlite3"
BLOCK = 2**20  # bytes read at once


def write_checksums(build: Path) -> None:
    """Write the checksums of the items and matrices of a build.

    Raises:
        OSError: something cannot be read or written.
    """
    _write(build / FILE, _sums(build, (build / "items.parquet", *build.glob("*.npy"))))


def note_whole(build: Path) -> None:
    """Write the checksums of ChromaDB's files, after it was closed following its last write.

    Raises:
        OSError: something cannot be read or written.
        ValueError: its database is damaged.
    """
    _write(build / WHOLE, _sums(build, _of_chroma(build)))


def is_whole(build: Path) -> bool:
    """Return whether ChromaDB's files are unchanged since `note_whole`."""
    noted = _noted(build)
    try:
        return noted is not None and noted == _sums(build, _of_chroma(build))
    except (OSError, ValueError):
        return False


def check(build: Path, *names: str) -> None:
    """Check that files of a build are unchanged since `write_checksums`.

    Raises:
        OSError: one cannot be read.
        ValueError: one is damaged or missing.
    """
    sums = json.loads((build / FILE).read_text(encoding="utf-8"))
    for name in names:
        if _checksum(build / name) != sums.get(name):
            raise ValueError(f"{name} has changed")


def _noted(build: Path) -> dict[str, int] | None:
    """Return what `note_whole` wrote; None if it is missing or damaged."""
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
    """Yield the files of ChromaDB that do not change once it is closed."""
    yield from build.glob(DATABASE)
    for written in build.glob("chroma/*/index_metadata.pickle"):  # without it, ChromaDB writes the graph again
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
    """Return the checksum of a database's contents, except for the table in which every client that opens it writes."""
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as database:
            (answer,) = database.execute("PRAGMA integrity_check(1)").fetchone()  # also checks the indexes
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
