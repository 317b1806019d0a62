"""Digests of ChromaDB's files, which it does not check itself.

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

CHROMA = "chroma"
DIGESTS = "chroma/digests.json"
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
    temporary = (build / DIGESTS).with_suffix(".tmp")
    temporary.write_text(json.dumps(_digests(build), indent=1), encoding="utf-8")
    temporary.replace(build / DIGESTS)


def chroma_is_unchanged(build: Path) -> bool:
    """Return whether ChromaDB's files match the digests that `write_chroma_digests` wrote.

    Raises:
        OSError: the files exist, but cannot be read at the moment.
    """
    try:
        return bool(json.loads((build / DIGESTS).read_text(encoding="utf-8")) == _digests(build))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return False


def delete_chroma(build: Path) -> None:
    """Delete ChromaDB's files, if any; what is left after a kill has no digests."""
    if (build / CHROMA).is_dir():
        (build / DIGESTS).unlink(missing_ok=True)
        shutil.rmtree(build / CHROMA)
    else:
        (build / CHROMA).unlink(missing_ok=True)


def _digests(build: Path) -> dict[str, str]:
    files = {path.relative_to(build).as_posix(): digest_of(path) for path in sorted(_graph_files(build))}
    return {DATABASE: _database_digest(build / DATABASE), **files}


def _graph_files(build: Path) -> Iterator[Path]:
    """Yield the files of ChromaDB's graphs, which do not change once it is closed."""
    for metadata in build.glob("chroma/*/index_metadata.pickle"):  # without it, ChromaDB writes the graph again
        yield from metadata.parent.iterdir()


def _database_digest(path: Path) -> str:
    """Return the digest of a database's contents, except for the table that every client writes when it opens it."""
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as database:
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
