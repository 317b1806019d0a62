"""Which images a gallery is built from: the dataset, its rows and the meaning of its columns."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

BUNDLED_GALLERY = Path(__file__).resolve().parents[2] / "assets" / "gallery"
BUNDLED_NAME = "icons"


def local_path(name: str) -> Path | None:
    """Return the existing local file or folder that a name refers to, or None."""
    try:
        path = Path(name).expanduser()
        return path.resolve() if path.exists() else None
    except (OSError, RuntimeError):  # the name is too long for a path, or `~user` names an unknown user
        return None


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

    @property
    def path(self) -> Path | None:
        """The local file or folder, or None for a Hub id."""
        return local_path(self.dataset)

    @property
    def identity(self) -> tuple[str, str | None, str | None]:
        """Dataset, config and split; sources that share them differ only in revision, limit or columns."""
        return (str(self.path or self.dataset), self.config, self.split)

    @property
    def slug(self) -> str:
        """A gallery name that is safe as a folder name: `org--name` for a Hub id, otherwise the folder's own name."""
        path = self.path
        if path == BUNDLED_GALLERY:
            return BUNDLED_NAME
        name = path.stem if path else self.dataset.replace("/", "--")
        return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")[:80] or "gallery"


@dataclass(frozen=True)
class Stamp:
    """What tells that a file has not changed: its path relative to the gallery's folder, its size and its time."""

    path: str
    size: int
    mtime_ns: int


@dataclass(frozen=True)
class Item:
    """One row of a gallery; `read` returns the encoded bytes of its image, or raises PictureError."""

    row: int
    id: str
    label: str
    caption: str
    read: Callable[[], bytes]
    stamp: Stamp | None = None
    author: str = ""
    license: str = ""
