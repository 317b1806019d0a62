"""Which images a gallery is built from: the dataset, its rows and the meaning of its columns."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from retrieval.installation import asset

CAPTION_LENGTH = 200  # characters; captions are only displayed, so longer ones are cut
SURROGATES = re.compile("[\ud800-\udfff]")

BUNDLED_GALLERIES = {"photos": asset("photos"), "icons": asset("gallery")}  # name -> dataset
DEFAULT_GALLERY = "photos"


def local_path(name: str) -> Path | None:
    """Return the existing local file or folder that a name refers to, or None."""
    try:
        path = Path(name).expanduser()
        return path.resolve() if path.exists() else None
    except (OSError, RuntimeError):  # the name is too long for a path, or `~user` names an unknown user
        return None


def valid_unicode(text: str) -> str:
    """Return a text that can be encoded: bytes of a file name that are not UTF-8 become `\\xNN`."""
    return SURROGATES.sub(lambda found: rf"\x{ord(found[0]) & 0xFF:02x}", text)


def one_line(value: Any) -> str:
    """Return a value of a dataset as a text of one line, at most `CAPTION_LENGTH` characters."""
    if isinstance(value, (list, tuple)):
        value = ", ".join(str(part) for part in value)
    return "" if value is None else valid_unicode(" ".join(str(value).split()))[:CAPTION_LENGTH]


class Labels(StrEnum):
    """Which folder is the label of an image in a local folder."""

    FOLDER = "folder"  # the one that contains the image
    TOP = "top"  # the first one below the gallery's folder, or below a split
    NONE = "none"


def folder_label(labels: str, given: str, folders: Sequence[str]) -> str:
    """Return an image's label: the one that is given, if any, otherwise that of the folders that contain the image."""
    if labels == Labels.NONE:
        return ""
    return given or (valid_unicode(folders[0 if labels == Labels.TOP else -1]) if folders else "")


@dataclass(frozen=True)
class GallerySource:
    """A dataset, the selection of its rows, and the columns to use; None means the default or detection by type."""

    dataset: str
    config: str | None = None
    split: str | None = None
    revision: str | None = None
    image_column: str | None = None
    label_column: str | None = None
    caption_column: str | None = None
    limit: int | None = None
    streaming: bool = False
    labels: str = Labels.FOLDER

    @property
    def path(self) -> Path | None:
        """The local file or folder, or the bundled dataset of this name; None for a Hub id."""
        return local_path(self.dataset) or BUNDLED_GALLERIES.get(self.dataset)

    @property
    def bundled(self) -> str | None:
        """The name of the bundled gallery that this dataset is, or None."""
        path = self.path
        return next((name for name, folder in BUNDLED_GALLERIES.items() if folder == path), None)

    @property
    def identity(self) -> tuple[str, str | None, str | None]:
        """Dataset, config and split; sources that share them differ only in revision, limit or columns."""
        return (str(self.path or self.dataset), self.config, self.split)

    @property
    def slug(self) -> str:
        """A gallery name that is safe as a folder name: `org--name` for a Hub id, otherwise the folder's own name."""
        path = self.path
        if bundled := self.bundled:
            return bundled
        name = path.stem if path else self.dataset.replace("/", "--")
        return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")[:80] or "gallery"


@dataclass(frozen=True)
class Stamp:
    """What identifies the bytes of a local file without reading them."""

    path: str  # relative to the gallery's folder, valid Unicode
    size: int
    mtime_ns: int


@dataclass(frozen=True)
class Item:
    """One row of a gallery. `read` returns the encoded bytes of its image.

    `read` raises PictureError if this image cannot be read, and GalleryError if the others cannot be read either.
    """

    row: int  # position in the gallery, from 0
    id: str
    label: str
    caption: str
    read: Callable[[], bytes] = field(compare=False)
    stamp: Stamp | None = None  # None unless it is a local file
    author: str = ""
    license: str = ""
