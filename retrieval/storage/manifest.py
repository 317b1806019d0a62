"""The manifest of a build; a gallery becomes visible to readers once its manifest is published.

index/<gallery>/manifest.json        names the published build; written last, by rename
index/<gallery>/build-<digest>-<n>/  chroma/, thumbnails/, items.parquet, pixels.npy, clip.npy, map-*.npz,
                                     checksums.json, lock, and batches/ until it is published
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

FORMAT = 4  # increased whenever older indexes must be rebuilt; 4 added an identity for each feature type
FILE = "manifest.json"
SKIPPED_LISTED = 1000  # skipped images listed with their reason; further ones are only counted
THUMBNAIL_FOLDER_ROWS = 1000


@dataclass(frozen=True)
class Skipped:
    """An image that is not in the index, and the reason."""

    row: int
    id: str
    reason: str


@dataclass(frozen=True)
class Manifest:
    """A published build: its source, its features and its results.

    `background` holds the quantiles of the scores of random pairs, by feature type and metric.
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
        """The identity of the first feature type that has a model, or else of the first feature type."""
        with_model = (each for name, each in self.features.items() if name in FEATURES and FEATURES[name].has_model)
        return next(with_model, next(iter(self.features.values())))

    def dimensions(self, features: str) -> int:
        """Return the vector length of a feature type."""
        return self.features[features].dimensions


def thumbnail_path(build: Path, row: int) -> Path:
    """Return the path of a row's thumbnail; a folder holds at most `THUMBNAIL_FOLDER_ROWS` of them."""
    return build / "thumbnails" / f"{row // THUMBNAIL_FOLDER_ROWS:06d}" / f"{row:012d}.jpg"


def rebuild_command(folder: Path) -> str:
    """Return the command that rebuilds a gallery, with its dataset if the manifest can be read, for messages."""
    try:
        dataset = shlex.quote(json.loads((folder / FILE).read_text(encoding="utf-8"))["source"]["dataset"])
    except (OSError, ValueError, KeyError, TypeError):
        dataset = "..."
    index, name = shlex.quote(str(folder.parent)), shlex.quote(folder.name)
    return f"python index_builder.py --index {index} --gallery {name} --dataset {dataset} --rebuild"


def read_manifest(folder: Path) -> Manifest | None:
    """Return the published manifest in a gallery's folder, or None; raise IndexingError if it cannot be used."""
    try:
        text = (folder / FILE).read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise _unreadable(folder, str(error)) from error
    try:
        return from_json(text)
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
        values["source"] = GallerySource(**values["source"])
        values["features"] = {name: FeatureIdentity(**each) for name, each in values["features"].items()}
        if not values["features"]:
            raise ValueError("it names no feature type")
        values["skipped_pictures"] = tuple(Skipped(**each) for each in values["skipped_pictures"])
        return Manifest(**values)
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{type(error).__name__} {error}") from error


def to_json(manifest: Manifest) -> str:
    """Return a manifest as JSON with a checksum."""
    values = asdict(manifest)
    return json.dumps({**values, "checksum": _checksum(values)}, indent=1)


def _checksum(values: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(values).encode())


def publish_manifest(folder: Path, manifest: Manifest) -> None:
    """Make a build visible in one step: write the manifest to a temporary file, flush it and rename it."""
    temporary = folder / f"{FILE}.{os.getpid()}.tmp"
    with temporary.open("w", encoding="utf-8") as file:
        file.write(to_json(manifest))
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(folder / FILE)


def _unreadable(folder: Path, reason: str) -> IndexingError:
    return IndexingError(
        f"The manifest in `{folder}` cannot be read ({reason}). Rebuild the index: `{rebuild_command(folder)}`"
    )
