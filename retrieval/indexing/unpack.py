"""The process that turns the Parquet files of a published index into a snapshot, `python -m retrieval.indexing.unpack`.

The files may be hostile, and no check of a Parquet file's metadata keeps a reader from using too much memory or from a
flaw in it. This process has limits on both, and an environment without secrets. What it reads, it checks and writes
again in the files of a snapshot. `pulling` starts it, with a JSON object on its stdin. It prints what is wrong, if
anything is.
"""

import io
import json
import resource
import sys
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, JpegImagePlugin  # noqa: F401  # importing the plugin registers it

from retrieval.digests import digest_of
from retrieval.features import FEATURES, Vectors
from retrieval.gallery.source import one_line, valid_unicode
from retrieval.indexing.embeddings import key_of, new_matrix
from retrieval.indexing.portable import GROUP_BYTES, GROUP_ROWS, NUMBERS, TEXTS, rows_within, schema_of
from retrieval.indexing.publish import COLUMNS
from retrieval.labels import printable
from retrieval.storage.items import ITEMS
from retrieval.storage.manifest import thumbnail_path

DISK_ERROR = 2  # exit code
MEMORY = 4 * 2**30
OPEN_FILES = 64
MAX_ID = 1000  # characters
MAX_NUMBER = 10**6  # pixels of a side
MAX_THUMBNAIL = 2**20  # bytes
MAX_SIDE = 512  # pixels of a thumbnail, more than any version of this program has made
JPEG = b"\xff\xd8\xff"
LARGEST = 1e6  # of the numbers of a vector; squares of larger ones could overflow
LENGTH_ERROR = 0.01  # of a vector that should have length 1


def main() -> int:
    """Write the snapshot; return 0, 1 after printing what is wrong, or 2 after printing the number of a disk error."""
    job: dict[str, Any] = json.load(sys.stdin)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_NOFILE, (OPEN_FILES, OPEN_FILES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        unpack(Path(job["copy"]), job["shards"], Path(job["snapshot"]), job["dimensions"])
    except MemoryError:
        print("reading it takes too much memory")
    except (ValueError, pa.ArrowException) as error:
        print(str(error))
    except OSError as error:
        if error.errno:
            print(error.errno)
            return DISK_ERROR
        print(f"it is damaged ({error})")  # pyarrow's own
    else:
        return 0
    return 1


def unpack(copy: Path, shards: Mapping[str, Mapping[str, Any]], snapshot: Path, dimensions: Mapping[str, int]) -> None:
    """Write the items, matrices and thumbnails of a snapshot from the shards, by name, of a copy of the repository.

    Raises:
        ValueError, pa.ArrowException, MemoryError, OSError: a shard is not what it should be.
    """
    count = sum(each["rows"] for each in shards.values())
    matrices = {name: new_matrix(snapshot / f"{name}.npy", (count, length)) for name, length in dimensions.items()}
    rows = 0
    with pq.ParquetWriter(snapshot / ITEMS, COLUMNS, write_page_checksum=True) as items:
        for name, expected in shards.items():
            if digest_of(copy / name) != expected["sha256"]:
                raise ValueError(f"`{name}` is not the file that the manifest names")
            for batch in _batches(copy / name, name, expected["rows"], dimensions):
                values = [_item(snapshot, rows + i, each) for i, each in enumerate(_without_vectors(batch))]
                items.write_table(pa.Table.from_pylist(values, schema=COLUMNS))
                for features, file in matrices.items():
                    file.write(_vectors(batch[features], features, dimensions[features]).tobytes())
                rows += len(values)
    for file in matrices.values():
        file.close()


def _batches(path: Path, name: str, rows: int, dimensions: Mapping[str, int]) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a shard, with exactly the columns that it should have."""
    schema = schema_of(dimensions)
    options = {"pre_buffer": False, "page_checksum_verification": True, "arrow_extensions_enabled": False}
    with pq.ParquetFile(path, **options) as file:
        if file.schema_arrow.names != schema.names or file.schema_arrow.types != schema.types:
            raise ValueError(f"`{name}` has other columns than the manifest says")
        most = rows_within(GROUP_ROWS, GROUP_BYTES, dimensions)
        left = rows
        for batch in file.iter_batches(batch_size=most, use_threads=False):
            batch.validate(full=True)
            left -= batch.num_rows
            if left < 0:
                break
            yield batch
    if left:
        raise ValueError(f"`{name}` does not have the {rows:,} rows that the manifest says")


def _without_vectors(batch: pa.RecordBatch) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = batch.select(["image", *TEXTS, *NUMBERS]).to_pylist()
    return found


def _item(snapshot: Path, row: int, values: dict[str, Any]) -> dict[str, Any]:
    """Write the thumbnail of an image; return its row among the items, with texts as a builder would write them."""
    content = (values["image"] or {}).get("bytes") or b""
    _check_thumbnail(row, content)
    path = thumbnail_path(snapshot, row)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    sides = {name: values[name] for name in NUMBERS}
    if not all(isinstance(side, int) and 1 <= side <= MAX_NUMBER for side in sides.values()):
        raise ValueError(f"image {row:,} has an impossible width or height")
    texts = {name: printable(one_line(values[name])) for name in TEXTS}
    texts["id"] = printable(valid_unicode(values["id"] or "")[:MAX_ID])
    about = {"row": row, "key": key_of(content), "thumbnail_crc": zlib.crc32(content)}
    return about | sides | texts | {"path": "", "bytes": 0, "mtime_ns": 0}


def _check_thumbnail(row: int, content: bytes) -> None:
    """Raise ValueError unless a thumbnail begins as a small JPEG image; the pixels are not decoded."""
    if not content.startswith(JPEG) or len(content) > MAX_THUMBNAIL:
        raise ValueError(f"the thumbnail of image {row:,} is not a JPEG file of at most {MAX_THUMBNAIL // 1024:,} kB")
    try:
        with Image.open(io.BytesIO(content), formats=["JPEG"]) as image:
            width, height = image.size
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"the thumbnail of image {row:,} is damaged") from error
    if not 1 <= min(width, height) <= max(width, height) <= MAX_SIDE:
        raise ValueError(f"the thumbnail of image {row:,} has {width:,} x {height:,} pixels")


def _vectors(column: pa.Array, features: str, dimensions: int) -> Vectors:
    """Return a column of vectors, shape (n, d); raise ValueError unless each can be compared."""
    if column.null_count or column.flatten().null_count:
        raise ValueError(f"a vector of {features} is missing")
    vectors: Vectors = column.flatten().to_numpy().reshape(-1, dimensions)
    if not np.abs(vectors).max(initial=0) <= LARGEST:  # false for NaN
        raise ValueError(f"a vector of {features} has a number that is not finite or too large")
    if FEATURES[features].unit_length:
        lengths = np.linalg.norm(vectors, axis=1)
        if np.abs(lengths - 1).max(initial=0) > LENGTH_ERROR:
            raise ValueError(f"a vector of {features} does not have length 1")
    return vectors


if __name__ == "__main__":
    sys.exit(main())
