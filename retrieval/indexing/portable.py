"""The format of a published index: a dataset on the Hub that `datasets.load_dataset` reads and this program imports.

README.md                   the card
manifest.json               gallery, features, and the digest of each of the other files
data/train-<n>.parquet      thumbnail, texts and vectors of each image, in gallery order
"""

import json
import re
from argparse import ArgumentTypeError
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import pyarrow as pa

from retrieval.features import FEATURES, is_name
from retrieval.features.base import FeatureIdentity
from retrieval.labels import printable
from retrieval.settings import PUBLISHED_MANIFEST, folder_name
from retrieval.storage.manifest import STORE

FORMAT = 1  # increased whenever older programs can no longer import an index
MANIFEST = PUBLISHED_MANIFEST
CARD = "README.md"
TEXTS = ("id", "label", "caption", "author", "license")
NUMBERS = ("width", "height")

MAX_MANIFEST = 2**21  # bytes
MAX_PICTURES = 10**7
MAX_FEATURES = 32
MAX_DIMENSIONS = 2**22
MAX_BYTES = 2**40  # of a shard
PICTURE_BYTES = 2**14  # of a thumbnail and its texts, roughly
SHARD_ROWS, SHARD_BYTES = 10_000, 2**29
GROUP_ROWS, GROUP_BYTES = 1_000, 2**24  # of a row group, which is what writers and readers keep in memory

SHARD = re.compile(r"data/train-\d{5}\.parquet")
SHA256 = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True)
class Shard:
    """One of the Parquet files."""

    name: str
    rows: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class PublishedManifest:
    """What `manifest.json` says."""

    gallery: str
    features: dict[str, FeatureIdentity]
    pictures: int
    created: str  # when the index was built, ISO 8601
    shards: tuple[Shard, ...]
    format: int = FORMAT

    @property
    def dimensions(self) -> dict[str, int]:
        """The vector length of each feature type."""
        return {name: each.dimensions for name, each in self.features.items()}


def shard_name(number: int) -> str:
    """Return the name of a shard, numbered from 0."""
    return f"data/train-{number:05d}.parquet"


def rows_within(most: int, size: int, dimensions: Mapping[str, int]) -> int:
    """Return how many rows with vectors of these lengths take `size` bytes at most: 1 to `most`."""
    return max(1, min(most, size // (PICTURE_BYTES + 4 * sum(dimensions.values()))))


def schema_of(dimensions: Mapping[str, int]) -> pa.Schema:
    """Return the columns of the Parquet files, with the metadata that lets `datasets` decode the images."""
    columns = [("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())]))]
    columns += [(name, pa.string()) for name in TEXTS] + [(name, pa.int64()) for name in NUMBERS]
    columns += [(name, pa.list_(pa.float32(), length)) for name, length in dimensions.items()]
    kinds: dict[str, Any] = {"image": {"_type": "Image"}}
    kinds |= {name: _value("string") for name in TEXTS} | {name: _value("int64") for name in NUMBERS}
    kinds |= {name: {"_type": "List", "feature": _value("float32"), "length": n} for name, n in dimensions.items()}
    return pa.schema(columns, {"huggingface": json.dumps({"info": {"features": kinds}})})


def _value(dtype: str) -> dict[str, str]:
    return {"_type": "Value", "dtype": dtype}


def to_json(manifest: PublishedManifest) -> str:
    """Return a manifest as JSON."""
    return json.dumps(asdict(manifest), indent=1)


def from_json(text: bytes) -> PublishedManifest:
    """Parse and check a manifest that may be hostile; raise ValueError, which names the field that is wrong."""
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError("its manifest is not valid JSON") from error
    if not isinstance(values, dict):
        raise ValueError("its manifest is not a JSON object")
    if (found := values.get("format")) != FORMAT:
        raise ValueError(f"its manifest has format {found!r:.40}, but this program reads format {FORMAT}")
    shards = tuple(_shard(each, number) for number, each in enumerate(_of(list, values, "shards")))
    manifest = PublishedManifest(
        gallery=_gallery(_of(str, values, "gallery")),
        features={name: _identity(name, each) for name, each in _of(dict, values, "features").items()},
        pictures=_count(values, "pictures", MAX_PICTURES),
        created=_date(_of(str, values, "created")),
        shards=shards,
    )
    if not 1 <= (count := len(manifest.features)) <= MAX_FEATURES:
        raise ValueError(f"its manifest names {count or 'no'} feature types, not 1 to {MAX_FEATURES}")
    if sum(each.rows for each in shards) != manifest.pictures:
        raise ValueError(f"its manifest names {manifest.pictures:,} images, but shards with another number of rows")
    return manifest


def _of(kind: type, values: Any, name: str) -> Any:
    """Return a field of a JSON object if it has the given type."""
    found = values.get(name) if isinstance(values, dict) else None
    if type(found) is not kind:  # a bool is an int, too
        raise ValueError(f"its manifest has no usable `{name}`: {found!r:.40}")
    return found


def _count(values: Any, name: str, most: int) -> int:
    found: int = _of(int, values, name)
    if not 1 <= found <= most:
        raise ValueError(f"its manifest has `{name}` {found!r:.40}, which is not from 1 to {most:,}")
    return found


def _gallery(name: str) -> str:
    try:
        usable = printable(folder_name(name)) == name and len(name.encode()) <= 200 and name.casefold() != STORE
    except ArgumentTypeError:
        usable = False
    if not usable:
        raise ValueError(f"its manifest names the gallery {name!r:.40}, which cannot be the name of a folder")
    return name


def _date(text: str) -> str:
    try:
        return datetime.fromisoformat(text).isoformat()
    except ValueError as error:
        raise ValueError(f"its manifest has `created` {text!r:.40}, which is not a date") from error


def _shard(values: Any, number: int) -> Shard:
    name, digest = _of(str, values, "name"), _of(str, values, "sha256")
    if name != shard_name(number):
        raise ValueError(f"its manifest names the file {name!r:.40} in place of `{shard_name(number)}`")
    if not SHA256.fullmatch(digest):
        raise ValueError(f"its manifest has the digest {digest!r:.40}")
    return Shard(name, _count(values, "rows", MAX_PICTURES), _count(values, "bytes", MAX_BYTES), digest)


def _identity(name: str, values: Any) -> FeatureIdentity:
    if not is_name(name):
        raise ValueError(f"its manifest names the feature type {name!r:.40}, which this version does not know")
    texts = {each: _of(str, values, each) for each in ("name", "revision", "preprocessing", "dtype")}
    identity = FeatureIdentity(**texts, dimensions=_count(values, "dimensions", MAX_DIMENSIONS))
    if not FEATURES[name].is_portable(identity):
        raise ValueError(
            f"its manifest names the model {identity.name!r:.80} at {identity.revision!r:.50} for {name}, which is "
            "neither the bundled model nor a commit of a model on the Hub"
        )
    return identity
