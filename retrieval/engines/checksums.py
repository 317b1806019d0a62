"""Checksums of a finished build, which reveal damaged files before they cause wrong results or a crash.

ChromaDB does not check its files: it treats a deleted database as an empty one and searches whatever vectors a file
holds, and a damaged graph crashes the process. Maps are checked by their own format.
"""

import json
import shutil
import sqlite3
import zlib
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path

FILE = "checksums.json"
CHROMA = "chroma"
CHROMA_CHECKSUMS = "chroma/whole"  # written when ChromaDB is closed after its last write
DATABASE = "chroma/chroma.sqlite3"
BLOCK = 2**20  # bytes read at once
TEMPORARY = {  # errors of SQLite that say nothing about the file
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_PERM,
}


def write_checksums(build: Path) -> None:
    """Write the checksums of a build's items and matrices."""
    _write(build / FILE, _checksums(build, (build / "items.parquet", *build.glob("*.npy"))))


def write_chroma_checksums(build: Path) -> None:
    """Write the checksums of ChromaDB's files, once it is closed; raise ValueError if its database is damaged."""
    _write(build / CHROMA_CHECKSUMS, _checksums(build, _chroma_files(build)))


def chroma_is_unchanged(build: Path) -> bool:
    """Return whether ChromaDB's files match the checksums that `write_chroma_checksums` wrote.

    Raises:
        OSError: the files exist, but cannot be read at the moment.
    """
    try:
        written = json.loads((build / CHROMA_CHECKSUMS).read_text(encoding="utf-8"))
        return bool(written == _checksums(build, _chroma_files(build)))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return False


def delete_chroma(build: Path) -> None:
    """Delete ChromaDB's files, if any; what is left after a kill does not match any checksums."""
    if (build / CHROMA).is_dir():
        (build / CHROMA_CHECKSUMS).unlink(missing_ok=True)
        shutil.rmtree(build / CHROMA)
    else:
        (build / CHROMA).unlink(missing_ok=True)


def check(build: Path, *names: str) -> None:
    """Check files against `write_checksums`; raise OSError if one cannot be read, ValueError if one has changed."""
    written = json.loads((build / FILE).read_text(encoding="utf-8"))
    for name in names:
        if _checksum(build / name) != written.get(name):
            raise ValueError(f"{name} has changed")


def _write(path: Path, checksums: dict[str, int]) -> None:
    temporary = path.with_name(f"{path.name}.tmp")
    temporary.write_text(json.dumps(checksums, indent=1), encoding="utf-8")
    temporary.replace(path)


def _checksums(build: Path, files: Iterable[Path]) -> dict[str, int]:
    return {path.relative_to(build).as_posix(): _checksum(path) for path in sorted(files)}


def _chroma_files(build: Path) -> Iterator[Path]:
    """Yield the files of ChromaDB that do not change once it is closed."""
    yield from build.glob(DATABASE)
    for metadata in build.glob("chroma/*/index_metadata.pickle"):  # without it, ChromaDB writes the graph again
        yield from metadata.parent.iterdir()


def _checksum(path: Path) -> int:
    if path.name == Path(DATABASE).name:
        return _database_checksum(path)
    total = 0
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            total = zlib.crc32(block, total)
    return total


def _database_checksum(path: Path) -> int:
    """Return the checksum of a database's contents, except for the table that every client writes when it opens it."""
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
        if getattr(error, "sqlite_errorcode", 0) & 0xFF in TEMPORARY:
            raise OSError(f"{path.name}: {error}") from error
        raise ValueError(f"{path.name}: {error}") from error
