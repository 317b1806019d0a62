"""What an index says of itself on disk; a gallery is visible to readers once its manifest is published.

index/<gallery>/manifest.json        names the finished build; written last, by rename
index/<gallery>/build-<digest>-<n>/  chroma/, thumbnails/, items.parquet, pixels.npy, clip.npy, map-*.npz,
                                     checksums.json, lock; until it is published also batches/, see
                                     `retrieval.storage.batches`, and chroma/whole, see `retrieval.engines.checksums`
"""

import json
import os
import shlex
import zlib
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from retrieval.errors import IndexingError
from retrieval.features import FEATURES
from retrieval.features.base import FeatureIdentity
from retrieval.gallery.source import GallerySource

FORMAT = 4  # changed whenever an index must be built again: 4 has an identity for each feature type
FILE = "manifest.json"
SKIPPED_LISTED = 1000  # reasons kept by picture; beyond that they are only counted
THUMBNAIL_FOLDER_ROWS = 1000


@dataclass(frozen=True)
class Skipped:
    """A picture that is not in the index, and why."""

    row: int
    id: str
    reason: str


@dataclass(frozen=True)
class Manifest:
    """A finished build: what it was made from, with what, and what came out.

    `background` holds, for features and metric, the quantiles of the scores of random pairs of the gallery.
    """

    gallery: str
    build: str
    source: GallerySource
    fingerprint: str
    features: dict[str, FeatureIdentity]
    pictures: int
    skipped: int
    created: str
    seconds: float
    bytes: int
    background: dict[str, dict[str, list[float]]]
    skipped_pictures: tuple[Skipped, ...] = field(default=())
    format: int = FORMAT

    @property
    def model(self) -> FeatureIdentity:
        """The identity of the first feature type with a model; of the first feature type if none has one."""
        with_model = (identity for name, identity in self.features.items() if _has_model(name))
        return next(with_model, next(iter(self.features.values())))

    def dimensions(self, features: str) -> int:
        """Return the length of a vector of one of the gallery's feature types."""
        return self.features[features].dimensions


def _has_model(features: str) -> bool:
    return features in FEATURES and FEATURES[features].has_model


def thumbnail_path(build: Path, row: int) -> Path:
    """Return where the thumbnail of a row lies; folders hold at most `THUMBNAIL_FOLDER_ROWS` files."""
    return build / "thumbnails" / f"{row // THUMBNAIL_FOLDER_ROWS:06d}" / f"{row:012d}.jpg"


def rebuild_command(folder: Path) -> str:
    """Return the command that makes a gallery anew, for messages; with the data set's name if the manifest tells it."""
    try:
        dataset = shlex.quote(json.loads((folder / FILE).read_text(encoding="utf-8"))["source"]["dataset"])
    except (OSError, ValueError, KeyError, TypeError):
        dataset = "..."
    index, name = shlex.quote(str(folder.parent)), shlex.quote(folder.name)
    return f"python index_builder.py --index {index} --gallery {name} --dataset {dataset} --rebuild"


def read_manifest(folder: Path) -> Manifest | None:
    """Return the published manifest of a gallery's folder, or None if nothing was published yet.

    Raises:
        IndexingError: unreadable, or of another format.
    """
    try:
        text = (folder / FILE).read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise _unreadable(folder, str(error)) from error
    try:
        return from_json(text)
    except IndexingError as error:
        raise IndexingError(f"The index in {folder}: {error} Build it again: {rebuild_command(folder)}") from error
    except ValueError as error:
        raise _unreadable(folder, str(error)) from error


def from_json(text: str) -> Manifest:
    """Return the manifest that `to_json` wrote.

    Raises:
        IndexingError: it has another format than this program reads.
        ValueError: it is none.
    """
    try:
        values: dict[str, Any] = json.loads(text)
        if values["format"] != FORMAT:
            raise IndexingError(f"It has format {values['format']}, this program reads {FORMAT}.")
        if values.pop("checksum") != _checksum(values):
            raise ValueError("it has changed since it was written")
        values["source"] = GallerySource(**values["source"])
        values["features"] = {name: FeatureIdentity(**each) for name, each in values["features"].items()}
        values["skipped_pictures"] = tuple(Skipped(**each) for each in values["skipped_pictures"])
        return Manifest(**values)
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{type(error).__name__} {error}") from error


def to_json(manifest: Manifest) -> str:
    """Return a manifest as text."""
    values = asdict(manifest)
    return json.dumps({**values, "checksum": _checksum(values)}, indent=1)


def _checksum(values: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(values).encode())


def publish_manifest(folder: Path, manifest: Manifest) -> None:
    """Make a build the visible one, in one step: written under another name, flushed, renamed."""
    temporary = folder / f"{FILE}.{os.getpid()}.tmp"
    with temporary.open("w", encoding="utf-8") as file:
        file.write(to_json(manifest))
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(folder / FILE)


def _unreadable(folder: Path, reason: str) -> IndexingError:
    return IndexingError(
        f"The manifest in {folder} cannot be read ({reason}). Build it again: {rebuild_command(folder)}"
    )
