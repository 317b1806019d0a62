"""What a gallery is made from: the rows of a data set that are meant, and the meaning of its columns."""

import re
from dataclasses import dataclass
from pathlib import Path

from retrieval.errors import PictureError

BUNDLED_GALLERY = Path(__file__).resolve().parents[2] / "assets" / "gallery"
BUNDLED_NAME = "icons"


def local_path(name: str) -> Path | None:
    """Return the file or folder that a name means on this machine, or None if there is none."""
    try:
        path = Path(name).expanduser()
        return path.resolve() if path.exists() else None
    except (OSError, RuntimeError):  # a name too long for a path; the home of somebody who is not here
        return None


@dataclass(frozen=True)
class GallerySource:
    """Which rows of which data set make up a gallery, and which of its columns mean what."""

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
        """What makes two sources the same data set, whatever the limit or the columns."""
        return (str(self.path or self.dataset), self.config, self.split)

    @property
    def slug(self) -> str:
        """A name for the gallery, fit for a folder: `org--name` of a Hub id, the folder's own name else."""
        path = self.path
        if path == BUNDLED_GALLERY:
            return BUNDLED_NAME
        name = path.stem if path else self.dataset.replace("/", "--")
        return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")[:80] or "gallery"


@dataclass(frozen=True)
class Item:
    """One row of a gallery; `picture` holds the encoded bytes, or the reason why there are none."""

    row: int
    id: str
    label: str
    caption: str
    picture: bytes | PictureError
