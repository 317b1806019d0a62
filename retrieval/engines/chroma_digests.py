"""Digests of ChromaDB's files, which it does not check itself, and copies of them.

It treats a deleted database as an empty one and searches whatever vectors a file holds, and a damaged graph crashes the
process. The digests are written when ChromaDB is closed after its last write, so files without them are not complete.
"""

import hashlib
import json
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from retrieval.digests import digest_of
from retrieval.files import whole_file

FORMAT = 2  # of ids and metadata; files of another format are built again
CHROMA = "chroma"
DIGESTS = "chroma/digests.json"
RECALL = "chroma/recall.json"
DATABASE = "chroma/chroma.sqlite3"
TEMPORARY = {  # errors of SQLite that say nothing about the file
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_PERM,
}


def write_chroma_digests(build: Path) -> None:
    """Write the digests of ChromaDB's files, once it is closed; raise ValueError if its database is damaged."""
    found = _digests(build)
    with whole_file(build / DIGESTS) as file:
        file.write(json.dumps(found, indent=1).encode())


def chroma_is_unchanged(build: Path) -> bool:
    """Return whether ChromaDB's files match the digests that `write_chroma_digests` wrote.

    Raises:
        OSError: the files exist, but cannot be read at the moment.
    """
    try:
        return bool(json.loads((build / DIGESTS).read_text(encoding="utf-8")) == _digests(build))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return False


def copy_chroma(source: Path, target: Path) -> bool:
    """Copy ChromaDB's files to the folder of another build, without the digests; others may be reading them.

    Return False, and leave nothing, if they are not as they were when the digests were written.
    """
    try:
        digests = json.loads((source / DIGESTS).read_text(encoding="utf-8"))
        for path in _graph_files(source):
            (target / path.relative_to(source)).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target / path.relative_to(source))
        (target / CHROMA).mkdir(exist_ok=True)
        with closing(_read_only(source / DATABASE)) as database, closing(sqlite3.connect(target / DATABASE)) as copy:
            database.backup(copy)
        same = bool(digests == _digests(target))
    except (OSError, ValueError, sqlite3.Error):
        same = False
    if not same:
        delete_chroma(target)
    return same


def delete_chroma(build: Path) -> None:
    """Delete ChromaDB's files, if any; what is left after a kill has no digests."""
    if (build / CHROMA).is_dir():
        (build / DIGESTS).unlink(missing_ok=True)
        shutil.rmtree(build / CHROMA)
    else:
        (build / CHROMA).unlink(missing_ok=True)


def _digests(build: Path) -> dict[str, str | int]:
    files = {path.relative_to(build).as_posix(): digest_of(path) for path in sorted(_graph_files(build))}
    return {"format": FORMAT, DATABASE: _database_digest(build / DATABASE), **files}


def _graph_files(build: Path) -> Iterator[Path]:
    """Yield the files of ChromaDB's graphs and what was measured, which do not change once it is closed."""
    if (build / RECALL).exists():  # older versions did not measure
        yield build / RECALL
    for metadata in build.glob("chroma/*/index_metadata.pickle"):  # without it, ChromaDB writes the graph again
        yield from metadata.parent.iterdir()


def _read_only(database: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{database.resolve().as_uri()}?mode=ro", uri=True)


def _database_digest(path: Path) -> str:
    """Return the digest of a database's contents, except for the table that every client writes when it opens it."""
    try:
        with closing(_read_only(path)) as database:
            (answer,) = database.execute("PRAGMA integrity_check(1)").fetchone()  # also checks the indexes
            if answer != "ok":
                raise ValueError(f"{path.name}: {answer}")
            tables = database.execute(
                "SELECT name FROM sqlite_master WHERE type = 'table' AND name != 'acquire_write' ORDER BY name"
            ).fetchall()
            total = hashlib.sha256()
            for (table,) in tables:
                for row in database.execute(f'SELECT * FROM "{table}"'):
                    total.update(repr(row).encode())
            return total.hexdigest()
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF in TEMPORARY:
            if not path.exists():
                raise FileNotFoundError(str(path)) from error
            raise OSError(f"{path.name}: {error}") from error
        raise ValueError(f"{path.name}: {error}") from error
