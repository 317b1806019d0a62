"""Runs, qrels and ignore lists in TREC's formats, and qrels as a table.

    run:     query Q0 item rank score tag      only query, item and score count, as in trec_eval
    qrels:   query 0 item grade                a grade of 1 or more is relevant, a negative one is junk
    ignore:  query item                        or as qrels, whose grades are not read

Fields are separated by white space, so in ids it is written as `%20`, and `%` as `%25`. Files are read with ids in that
form or as they are.
"""

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pyarrow.csv as pc
import pyarrow.parquet as pq

from retrieval.analysis.measures import Ints
from retrieval.errors import GalleryError

UNSAFE = re.compile(r"[\s%]")
TABLES = (".csv", ".parquet")  # qrels as a table
# The usual names of the columns of a table, lower case.
QUERY, ITEM = (
    ("query", "query_id", "query-id", "qid"),
    ("item", "item_id", "doc_id", "docid", "corpus-id", "image", "id"),
)
GRADE = ("grade", "relevance", "rel", "score", "label")

Qrels = dict[str, dict[str, int]]
Run = dict[str, dict[str, float]]


def encoded(id: str) -> str:
    """Return an id without white space."""
    return UNSAFE.sub(lambda found: quote(found[0], safe=""), id) or "%"


def read_qrels(path: Path) -> Qrels:
    """Return grades by query and item, from TREC's format or from a table (.csv or .parquet).

    Raise GalleryError if the file cannot be read; the message names the line or the columns.
    """
    rows = _table(path) if path.suffix.lower() in TABLES else _qrels_lines(path)
    return _by_query(path, rows)


def read_ignored(path: Path) -> dict[str, list[str]]:
    """Return the items that each query ignores; raise GalleryError if the file cannot be read."""
    ignored: dict[str, list[str]] = {}
    for number, fields in _lines(path):
        if len(fields) not in (2, 4):
            raise _bad_line(path, number, "query item", fields)
        ignored.setdefault(fields[0], []).append(fields[1 if len(fields) == 2 else 2])
    return ignored


def read_run(path: Path) -> Run:
    """Return scores by query and item; raise GalleryError if the file cannot be read."""
    run: Run = {}
    for number, fields in _lines(path):
        try:
            query, _, item, _, score, *_ = fields
            value = float(score)
        except ValueError:
            raise _bad_line(path, number, "query Q0 item rank score tag", fields) from None
        if math.isnan(value):
            raise _bad_line(path, number, "a score that is a number", fields)
        if item in run.setdefault(query, {}):
            raise GalleryError(
                f"`{path}`, line {number}: {query!r} has {item[:80]!r} twice. Each item may be ranked once."
            )
        run[query][item] = value
    if not run:
        raise GalleryError(f"`{path}` has no line. A run has lines such as: query Q0 item 1 0.93 name")
    return run


def places_of(ids: Sequence[str]) -> dict[str, int]:
    """Return the first position of each id, under the id itself and in its encoded form."""
    places: dict[str, int] = {}
    for form in (str, encoded):
        for position, id in enumerate(ids):
            places.setdefault(form(id), position)
    return places


def ranked(scores: Mapping[str, float], places: Mapping[str, int]) -> Ints:
    """Return the positions of a query's items, best first, ties in gallery order; unknown items are left out."""
    found = {places[id]: score for id, score in scores.items() if id in places}
    return np.array(sorted(found, key=lambda place: (-found[place], place)), np.intp)


def write_qrels(file: IO[str], qrels: Iterable[tuple[str, str, int]]) -> None:
    """Write (query, item, grade) triples, given encoded ids."""
    file.writelines(f"{query} 0 {item} {grade}\n" for query, item, grade in qrels)


def write_run(file: IO[str], query: str, items: Sequence[str], size: int, tag: str) -> None:
    """Write one query's ranking, given encoded ids.

    The score is `size` - rank: trec_eval sorts by float32 scores and breaks ties by id, so other scores could
    reorder what is a tie here.
    """
    lines = (f"{query} Q0 {id} {rank} {size - rank} {tag}\n" for rank, id in enumerate(items, start=1))
    file.writelines(lines)


def _by_query(path: Path, rows: Iterable[tuple[str, str, int]]) -> Qrels:
    qrels: Qrels = {}
    for query, item, grade in rows:
        if not -(2**15) <= grade < 2**15:
            raise GalleryError(f"`{path}`: the grade {grade} of {item[:80]!r} is too large. Use small whole numbers.")
        qrels.setdefault(query, {})[item] = grade
    if not qrels:
        raise GalleryError(f"`{path}` has no judgement. Qrels have lines such as: query 0 item 1")
    return qrels


def _qrels_lines(path: Path) -> Iterator[tuple[str, str, int]]:
    for number, fields in _lines(path):
        try:
            query, _, item, grade = fields
            yield query, item, int(grade)
        except ValueError:
            raise _bad_line(path, number, "query 0 item grade", fields) from None


def _table(path: Path) -> Iterator[tuple[str, str, int]]:
    """Yield the rows of a table; without a column of grades, every row is relevant."""
    try:
        table = pq.read_table(path) if path.suffix.lower() == ".parquet" else pc.read_csv(path)
        columns = [_column(path, table, names) for names in (QUERY, ITEM)]
        grades = _column(path, table, GRADE, required=False)
        queries, items = (column.cast(pa.string()).to_pylist() for column in columns if column is not None)
        values = [1] * len(queries) if grades is None else grades.cast(pa.int64()).to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise GalleryError(f"The qrels in `{path}` cannot be read: {error}") from error
    if None in queries or None in items or None in values:
        raise GalleryError(f"The qrels in `{path}` have empty cells. Fill in query, item and grade in every row.")
    yield from zip(queries, items, values, strict=True)


def _column(path: Path, table: pa.Table, names: Sequence[str], required: bool = True) -> pa.ChunkedArray | None:
    found = [column for name in names for column in table.column_names if column.lower() == name]
    if not found and required:
        has = ", ".join(table.column_names)
        raise GalleryError(
            f"`{path}` has no column {names[0]!r}. It has: {has[:200]}. Qrels need query, item and grade."
        )
    return table[found[0]] if found else None


def _lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield number and fields of the lines that are not empty."""
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                if fields := line.split():
                    yield number, fields
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text in UTF-8"
        raise GalleryError(f"`{path}` cannot be read: {reason}.") from error


def _bad_line(path: Path, number: int, expected: str, fields: Sequence[str]) -> GalleryError:
    return GalleryError(f"`{path}`, line {number}: expected `{expected}`, not {' '.join(fields)[:80]!r}.")
