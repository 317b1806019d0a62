"""Which images a gallery is built from: the dataset, its rows and the meaning of its columns."""

import re
from dataclasses import dataclass
from pathlib import Path

from retrieval.errors import PictureError

ASSETS = Path(__file__).resolve().parents[2] / "assets"
BUNDLED_GALLERIES = {"photos": ASSETS / "photos", "icons": ASSETS / "gallery"}  # name -> dataset
DEFAULT_GALLERY = "photos"


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
class Item:
    """One row of a gallery; `picture` holds the encoded bytes, or the error that explains why they are missing."""

    row: int
    id: str
    label: str
    caption: str
    picture: bytes | PictureError
