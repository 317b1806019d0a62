"""Captions and labels from files beside images: `metadata.csv`, `.jsonl` or `.parquet`, or img2dataset's `.json`."""

import csv
import io
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from retrieval import hub
from retrieval.errors import GalleryError, PictureError
from retrieval.gallery.source import GallerySource, one_line
from retrieval.gallery.walk import File
from retrieval.labels import printable
from retrieval.pictures.loading import open_regular, read_bytes

MAX_BYTES = 2**30  # of a metadata file
MAX_TEXT, BATCH = 2**18, 1024  # bytes of a text, and rows read at once, of a Parquet file
KEY = "file_name"  # the column of the image's path, relative to the metadata file
CAPTIONS = ("caption", "text", "name", "title", "description")  # columns, in the order of preference
OTHER = {KEY, "id", "label", "author", "license"}
TABLE_ERRORS = (OSError, ValueError, RecursionError, csv.Error, pa.ArrowException)

Row = dict[str, Any]


@dataclass(frozen=True)
class About:
    """What a metadata file says about an image; empty texts say nothing."""

    caption: str = ""
    label: str = ""
    author: str = ""
    license: str = ""


NOTHING = About()


class Metadata:
    """The metadata files of a folder: `about` describes images by their relative path, `notes` what was not used."""

    def __init__(self, tables: Iterable[File], pictures: Iterable[File], source: GallerySource) -> None:
        self.about: dict[str, About] = {}
        self.notes: list[str] = []
        self.columns: set[str] = set()
        self._source = source
        known = {file.path for file in pictures}
        # The table in the innermost folder comes last, so it counts.
        for table in sorted(tables, key=lambda each: (each.path.count("/"), each.path)):
            try:
                self._take(table, known)
            except TABLE_ERRORS as error:
                reason = hub.first_line(error).rstrip(".")
                self.notes.append(f"`{printable(table.id)}` was not used, since it cannot be read: {reason}.")

    def _take(self, table: File, known: set[str]) -> None:
        # Read twice, since a small file can hold many millions of rows, which would not fit in memory.
        first, total, names = Row(), 0, dict[str, None]()
        for row in _rows(table):
            first, total = first or row, total + 1
            names.update(dict.fromkeys(name for name in row if name))
        columns = list(names)
        if KEY not in columns:
            self.notes.append(f"`{printable(table.id)}` was not used, since it has no column `{KEY}`.")
            return
        self.columns.update(columns)
        caption = self._source.caption_column or _caption_column(columns, first)
        label = self._source.label_column or "label"
        unknown, folder = 0, PurePosixPath(table.path).parent
        for row in _rows(table):
            path = os.path.normpath(folder / str(row.get(KEY)))
            if path not in known:
                unknown += 1
                continue
            texts = (one_line(row.get(name)) for name in (caption, label, "author", "license"))
            self.about[path] = About(*texts)
        if unknown:
            self.notes.append(f"{unknown:,} of {total:,} rows of `{printable(table.id)}` name no image here.")

    def check_columns(self, more: Iterable[str] = ()) -> None:
        """Raise GalleryError if a column that the source names does not exist."""
        columns = {"image", "label", *self.columns, *more}
        for wanted in (self._source.image_column, self._source.label_column, self._source.caption_column):
            if wanted is not None and wanted not in columns:
                raise GalleryError(
                    f"The folder {self._source.dataset!r} has no column {wanted!r}. Its metadata files have: "
                    f"{', '.join(sorted(columns))}."
                )


def _rows(table: File) -> Iterator[Row]:
    """Yield the rows of a metadata file; raise one of `TABLE_ERRORS` if it cannot be read."""
    with open_regular(Path(table.target), follow_link=False) as file:
        if os.fstat(file.fileno()).st_size > MAX_BYTES:
            raise OSError(f"it is larger than {MAX_BYTES // 2**20:,} MB")
        if table.path.endswith(".parquet"):
            yield from _parquet_rows(file)
            return
        lines = io.TextIOWrapper(file, "utf-8-sig", newline="")
        rows: Iterator[Any] = csv.DictReader(lines) if table.path.endswith(".csv") else map(json.loads, _filled(lines))
        yield from (row for row in rows if isinstance(row, dict))


def _parquet_rows(file: IO[bytes]) -> Iterator[Row]:
    """Yield the rows of a Parquet file, in which a long text can be repeated millions of times in a few bytes."""
    texts = [field.name for field in pq.read_schema(file) if _is_text(field.type)]
    file.seek(0)
    for batch in pq.ParquetFile(file, read_dictionary=texts).iter_batches(BATCH):
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            values = column.dictionary if isinstance(column, pa.DictionaryArray) else column
            if _is_text(values.type) and (pc.max(pc.binary_length(values)).as_py() or 0) > MAX_TEXT:
                raise OSError(f"a text in its column {name!r} is longer than {MAX_TEXT:,} bytes")
        yield from batch.to_pylist()


def _is_text(kind: pa.DataType) -> bool:
    return any(test(kind) for test in (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary))


def _filled(lines: Iterable[str]) -> Iterator[str]:
    return (line for line in lines if line.strip())


def _caption_column(columns: Sequence[str], first: Row) -> str:
    """Return the column of the captions: one of the usual names, otherwise the first with text, or "" if none has."""
    usual = (name for name in CAPTIONS if name in columns)
    texts = (name for name in columns if name not in OTHER and any(map(str.isalpha, str(first.get(name) or ""))))
    return next(usual, next(texts, ""))


def caption_of_json(file: File, column: str | None) -> str:
    """Return the caption in the `.json` file that img2dataset writes beside an image, or "" if there is none."""
    try:
        values = json.loads(read_bytes(Path(file.target), follow_link=False))
    except (PictureError, ValueError, RecursionError):
        return ""
    return one_line(values.get(column or "caption")) if isinstance(values, dict) else ""
