"""Coverage-guided fuzzing of one target with atheris: `python -m tests.support.fuzz_target NAME [libFuzzer flags]`.

libFuzzer mutates inputs, keeps those that reach new code, and ends with an error if a target raises anything that it
should not, takes too long or too much memory. It then writes the input to a file `crash-*` and prints its path.
"""

import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qsl

import atheris
import pyarrow as pa

with atheris.instrument_imports(include=["retrieval", "PIL"]):
    from retrieval.errors import IndexingError, PictureError, QueryError
    from retrieval.indexing import portable
    from retrieval.indexing.unpack import unpack
    from retrieval.pictures.decoding import FORMATS, decode
    from retrieval.pictures.metadata import TooManyScans, orientation_of, plain_jpeg
    from retrieval.search.query import Query
    from retrieval.search.validation import CHECKS, checked_query
    from retrieval.storage.catalog import Indexes
    from retrieval.storage.manifest import _checksum, from_json, read_manifest, to_json
    from retrieval.ui.permalink import NAMES, from_address, to_address

Value = TypeVar("Value")

CORPORA = Path(__file__).parents[1] / "corpora"
MOST_PIXELS = 250_000
VALUES = (
    "",
    "fox",
    "icons",
    "clip",
    "pixels",
    "l1",
    "cosine",
    "exact",
    "chroma",
    "0.5",
    "1e-7",
    "12",
    "0.1,0.2,1,0.9",
    "nan",
)
SHARD_ROWS, SHARD_DIMENSIONS = 2, {"pixels": 12, "clip": 4}  # of the files in the corpus
INDEX = "FUZZ_INDEX"  # the environment variable with the index that permalinks refer to


def picture(data: bytes) -> None:
    """Decode an image; the result is small, upright and RGB, or there is a message."""
    try:
        decoded = decode(data, MOST_PIXELS, FORMATS)
    except PictureError as error:
        assert str(error)
    else:
        assert decoded.mode == "RGB"
        assert 0 < decoded.width * decoded.height <= MOST_PIXELS


def metadata(data: bytes) -> None:
    """Read the orientation, and take the metadata out of a JPEG: what is left is a JPEG without EXIF."""
    assert orientation_of(data) in (None, *range(1, 9))
    try:
        plain, exif = plain_jpeg(b"\xff\xd8" + data)
    except TooManyScans:
        return
    assert plain.startswith(b"\xff\xd8")
    assert len(plain) + len(exif) <= len(data) + 2


def permalink(data: bytes) -> None:
    """Read an address; if nothing is wrong with it, the address of what was read is read in the same way."""
    chance, indexes = Chance(data), _indexes()
    items = [(chance.one_of([*NAMES, "other"]), chance.text_of(VALUES)) for _ in range(chance.number(8))]
    query, features, problems = from_address(items, indexes, Query())
    if not problems:
        address = to_address(query, features, indexes.get(query.gallery))
        again, features, problems = from_address(parse_qsl(address), indexes, Query())
        assert not problems, (address, problems)
        assert to_address(again, features, indexes.get(query.gallery)) == address


def query(data: bytes) -> None:
    """Check the fields of a query that are any JSON: they are accepted with the right types, or there is a message."""
    chance = Chance(data)
    try:
        checked = checked_query(picture=None, **{name: chance.json() for name in CHECKS if chance.number(1)})
    except QueryError as error:
        assert str(error)
    else:
        assert isinstance(checked.top_k, int)
        assert all(isinstance(label, str) for label in checked.labels)
        hash(checked)


def manifest(data: bytes) -> None:
    """Read a manifest in which some values are any JSON: it can be used and written again, or there is a message."""
    chance = Chance(data)
    values = json.loads(_manifest())
    for _ in range(1 + chance.number(2)):
        chance.change(values)
    values.pop("checksum", None)
    values["checksum"] = _checksum(values)
    try:
        read = from_json(json.dumps(values))
    except (ValueError, IndexingError) as error:
        assert str(error)
    else:
        assert from_json(to_json(read)) == read
        assert (type(read.gallery), type(read.pictures), type(read.source.dataset)) == (str, int, str)
        assert str(read.model)
        assert all(read.dimensions(name) > 0 for name in read.features)


def published_manifest(data: bytes) -> None:
    """Read the manifest of a published index in which some values are any JSON: it is safe to use, or refused."""
    chance = Chance(data)
    values = json.loads(_published_manifest())
    for _ in range(1 + chance.number(2)):
        chance.change(values)
    try:
        read = portable.from_json(json.dumps(values).encode())
    except ValueError as error:
        assert str(error)
    else:
        assert portable.from_json(portable.to_json(read).encode()) == read
        assert os.sep not in read.gallery
        assert all(portable.SHARD.fullmatch(shard.name) for shard in read.shards)
        assert sum(shard.rows for shard in read.shards) == read.pictures


def shard(data: bytes) -> None:
    """Read any bytes as a Parquet file of a published index: it becomes a snapshot, or there is a message."""
    with tempfile.TemporaryDirectory() as folder:
        snapshot, name = Path(folder) / "snapshot", portable.shard_name(0)
        for each in (snapshot, (Path(folder) / name).parent):
            each.mkdir()
        (Path(folder) / name).write_bytes(data)
        expected = {"rows": SHARD_ROWS, "sha256": hashlib.sha256(data).hexdigest()}
        try:
            unpack(Path(folder), {name: expected}, snapshot, SHARD_DIMENSIONS)
        except (ValueError, pa.ArrowException, MemoryError, OSError) as error:
            assert str(error) or isinstance(error, MemoryError)


class Chance:
    """Turns an input of libFuzzer into values."""

    def __init__(self, data: bytes) -> None:
        self._provider = atheris.FuzzedDataProvider(data)

    def number(self, most: int) -> int:
        """Return a whole number from 0 to `most`."""
        found: int = self._provider.ConsumeIntInRange(0, most)
        return found

    def one_of(self, choices: Sequence[Value]) -> Value:
        """Return one of the choices."""
        return choices[self.number(len(choices) - 1)]

    def text(self) -> str:
        """Return any text, perhaps with halves of surrogate pairs."""
        found: str = self._provider.ConsumeUnicode(self.number(40))
        return found

    def text_of(self, usual: Sequence[str]) -> str:
        """Return one of the usual texts, or any text."""
        return self.one_of(usual) if self.number(2) else self.text()

    def json(self, depth: int = 2) -> Any:
        """Return any value that JSON can hold, as Python reads it."""
        kind = self.number(7 if depth else 5)
        if kind == 6:
            return [self.json(depth - 1) for _ in range(self.number(5))]
        if kind == 7:
            return {self.text(): self.json(depth - 1) for _ in range(self.number(3))}
        makers: list[Callable[[], Any]] = [
            lambda: None,
            lambda: bool(self.number(1)),
            lambda: self._provider.ConsumeInt(9),
            self._provider.ConsumeFloat,
            self._provider.ConsumeProbability,
            lambda: self.text_of(VALUES),
        ]
        return makers[kind]()

    def change(self, values: Any) -> None:
        """Replace, remove or add a value somewhere in a JSON object or list."""
        while True:
            names: list[Any] = list(values) if isinstance(values, dict) else list(range(len(values)))
            name = self.one_of([*names, "new"]) if isinstance(values, dict) or names else None
            if name is None or (isinstance(values, list) and name == "new"):
                return
            inner = values.get(name) if isinstance(values, dict) else values[name]
            if isinstance(inner, (dict, list)) and inner and self.number(2):
                values = inner
                continue
            if self.number(3):
                values[name] = self.json()
            elif name != "new":
                del values[name]
            return


TARGETS: dict[str, Callable[[bytes], None]] = {
    each.__name__: each for each in (picture, metadata, permalink, query, manifest, published_manifest, shard)
}


@cache
def _indexes() -> Indexes:
    return Indexes(Path(os.environ[INDEX]))


@cache
def _manifest() -> str:
    return next(Path(os.environ[INDEX]).glob("*/manifest.json")).read_text()


@cache
def _published_manifest() -> str:
    [path] = Path(os.environ[INDEX]).glob("*/manifest.json")
    local = read_manifest(path.parent)
    assert local
    shards = (portable.Shard(portable.shard_name(0), local.pictures, 1000, "0" * 64),)
    return portable.to_json(
        portable.PublishedManifest(local.gallery, dict(local.features), local.pictures, local.created, shards)
    )


def main(arguments: list[str]) -> None:
    """Fuzz the target that the first argument names; the others are for libFuzzer."""
    name, *flags = arguments
    corpus = CORPORA / name
    atheris.Setup([sys.argv[0], *flags, *([str(corpus)] if corpus.is_dir() else [])], TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1:])
