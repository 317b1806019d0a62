"""The manifest of a snapshot; a gallery becomes visible to readers once its manifest is published.

index/<gallery>/manifest.json           names the published snapshot; written last, by rename
index/<gallery>/snapshot-<n>-<digest>/  items.parquet, <features>.npy, thumbnails/, map-*.npz, and the engines' files
index/embeddings/                       the store of embeddings, see `retrieval.indexing.embeddings`
"""

import json
import shlex
import zlib
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from retrieval import addresses
from retrieval.errors import IndexingError
from retrieval.features import FEATURES, default_first, is_known
from retrieval.features.base import FeatureIdentity
from retrieval.files import whole_file
from retrieval.gallery.source import GallerySource
from retrieval.installation import BUILDER

FORMAT = 5  # increased whenever older indexes must be built again; 5 added the embedding store
FILE = "manifest.json"
STORE = "embeddings"  # the folder of the store
SKIPPED_LISTED = 1000  # skipped images listed with their reason; further ones are only counted
THUMBNAIL_FOLDER_ROWS = 1000


@dataclass(frozen=True)
class Skipped:
    """An image that is not in the index, and the reason."""

    row: int
    id: str
    reason: str


@dataclass(frozen=True)
class Changes:
    """How a build differs from the one before, in images."""

    embedded: int  # for which at least one feature type was computed
    reused: int  # whose embeddings were in the store
    removed: int  # of the snapshot before, whose content is no longer in the gallery


@dataclass(frozen=True)
class Manifest:
    """A published snapshot: its source, its features and its results.

    Attributes:
        snapshot: the name of its folder.
        fingerprint: a digest of everything that determines its content.
        ignored: the number of files that are not images, by suffix.
        background: the quantiles of the scores of random pairs, by feature type and metric.
        digests: of the items and matrices, by file name.
        skipped_pictures: the first `SKIPPED_LISTED` of the skipped images.
        retry: whether an image was skipped for a reason that may pass, so that the next build tries it again.
        collections: the beginning of the names of the collections on a ChromaDB server that hold the vectors; empty if
            they are in matrices.
    """

    gallery: str
    snapshot: str
    source: GallerySource
    fingerprint: str
    features: dict[str, FeatureIdentity]
    pictures: int
    skipped: int
    ignored: dict[str, int]
    notes: tuple[str, ...]
    created: str
    changes: Changes
    background: dict[str, dict[str, list[float]]]
    digests: dict[str, str]
    skipped_pictures: tuple[Skipped, ...] = field(default=())
    retry: bool = False
    collections: str = ""
    format: int = FORMAT

    @property
    def model(self) -> FeatureIdentity:
        """The identity of the first feature type that has a model, or else of the first feature type."""
        with_model = list(self.models)
        return self.models[with_model[0]] if with_model else next(iter(self.features.values()))

    @property
    def models(self) -> dict[str, FeatureIdentity]:
        """The identities of the feature types that have a model, by name, the default one first."""
        return {name: self.known[name] for name in default_first(self.known) if FEATURES[name].has_model}

    @property
    def known(self) -> dict[str, FeatureIdentity]:
        """The identities of the feature types that this version can use."""
        return {name: each for name, each in self.features.items() if is_known(name, each)}

    def dimensions(self, features: str) -> int:
        """Return the vector length of a feature type."""
        return self.features[features].dimensions


def thumbnail_path(snapshot: Path, row: int) -> Path:
    """Return the path of a row's thumbnail; a folder holds at most `THUMBNAIL_FOLDER_ROWS` of them."""
    return snapshot / "thumbnails" / f"{row // THUMBNAIL_FOLDER_ROWS:06d}" / f"{row:012d}.jpg"


def stored_thumbnail(index: Path, key: bytes) -> Path:
    """Return the path of an image's thumbnail in the store of an index."""
    return index / STORE / "thumbnails" / key.hex()[:2] / f"{key.hex()}.jpg"


def build_command(folder: Path, flag: str = "") -> str:
    """Return the command that builds a gallery, with its dataset if the manifest can be read, for messages."""
    server = False
    try:
        values = json.loads((folder / FILE).read_text(encoding="utf-8"))
        server = bool(values.get("collections"))
        dataset = shlex.quote(values["source"]["dataset"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        dataset = "..."
    if dataset.strip("'").startswith((addresses.HUB, addresses.MOUNTED)):  # opening a published index imports it again
        return f"python -m retrieval info --index {dataset}"
    index, name = shlex.quote(str(folder.parent)), shlex.quote(folder.name)
    index = f"http://... --files {index}" if server else index
    return f"{BUILDER} --index {index} --gallery {name} --dataset {dataset} {flag}".rstrip()


def rebuild_command(folder: Path) -> str:
    """Return the command that embeds a gallery again."""
    return build_command(folder, "--rebuild")


def read_manifest(folder: Path) -> Manifest | None:
    """Return the published manifest in a gallery's folder, or None; raise IndexingError if it cannot be used.

    The gallery's name is that of the folder, which can be renamed.
    """
    try:
        text = (folder / FILE).read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise _unreadable(folder, str(error)) from error
    try:
        return replace(from_json(text), gallery=folder.name)
    except IndexingError as error:
        raise IndexingError(
            f"The index in `{folder}` cannot be used. {error} Rebuild it: `{rebuild_command(folder)}`"
        ) from error
    except ValueError as error:
        raise _unreadable(folder, str(error)) from error


def from_json(text: str) -> Manifest:
    """Parse the text of a manifest; raise IndexingError for another format, ValueError for damaged text."""
    try:
        values: dict[str, Any] = json.loads(text)
        if values["format"] != FORMAT:
            raise IndexingError(f"It has format {values['format']}, but this program reads format {FORMAT}.")
        if values.pop("checksum") != _checksum(values):
            raise ValueError("it has changed since it was written")
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{type(error).__name__} {error}") from error
    try:
        manifest = _manifests().validate_json(json.dumps(values), strict=True)
    except ValidationError as error:
        wrong = error.errors()[0]
        raise ValueError(f"{'.'.join(map(str, wrong['loc']))}: {wrong['msg']}") from error
    if not manifest.features or min(each.dimensions for each in manifest.features.values()) < 1:
        raise ValueError("it names no feature type, or one without dimensions")
    return manifest


def to_json(manifest: Manifest) -> str:
    """Return a manifest as JSON with a checksum."""
    values = asdict(manifest)
    return json.dumps({**values, "checksum": _checksum(values)}, indent=1)


@cache
def _manifests() -> TypeAdapter[Manifest]:
    return TypeAdapter(Manifest)


def _checksum(values: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(values).encode())


def publish_manifest(folder: Path, manifest: Manifest) -> None:
    """Make a snapshot visible in one step."""
    with whole_file(folder / FILE) as file:
        file.write(to_json(manifest).encode())


def size_of(folder: Path) -> int:
    """Return the size of all files below a folder in bytes."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _unreadable(folder: Path, reason: str) -> IndexingError:
    return IndexingError(
        f"The manifest in `{folder}` cannot be read ({reason}). Rebuild the index: `{rebuild_command(folder)}`"
    )
