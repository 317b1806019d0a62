"""Read a Hugging Face dataset (Hub id, folder, Parquet) as items: images with id, label and caption."""

import hashlib
import json
import logging
import lzma
import os
import re
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, astuple, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import datasets
import httpx2
import pyarrow as pa
from datasets.utils.file_utils import xopen
from huggingface_hub import constants

from retrieval import hub
from retrieval.errors import GalleryError, PictureError
from retrieval.gallery.opening import open_dataset, reason
from retrieval.gallery.source import GallerySource, Item
from retrieval.pictures.loading import MAX_BYTES, read_bytes

log = logging.getLogger(__name__)

CAPTION_LENGTH = 200  # characters; captions are only displayed, so longer ones are cut

# Errors of the connection to the Hub. They stop the build, since the images of other rows would be missing too.
CONNECTION_ERRORS = (hub.HubError, httpx2.HTTPError, ConnectionError)

# Errors of a single row that datasets cannot fetch or decode. The row is skipped.
ROW_ERRORS = (
    *(OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, RuntimeError, pa.ArrowInvalid),
    *(zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError),  # of damaged archives
)

# A file in an archive, as datasets writes it. Other protocols, such as ftp, would connect to a server.
ARCHIVE_MEMBER = re.compile(r"(zip|tar|gzip|bz2|xz|lz4|zstd)://((?!://|::).)*", re.DOTALL)
OUTSIDE = PictureError("The row names a file or URL outside the dataset. Such files are not read.")


@dataclass(frozen=True)
class Columns:
    """The names of the columns in use; None if the dataset has no such column."""

    image: str
    label: str | None
    caption: str | None
    id: str | None


class Gallery:
    """An opened dataset; `batches` streams its items in gallery order.

    Raises:
        GalleryError: the dataset, split, revision or column does not exist; the message lists the alternatives.
    """

    def __init__(self, source: GallerySource) -> None:
        self.source = source
        self._root = source.path  # resolved once, since `_read` needs it for every row
        self._rows_streamed = 0
        self._data, self.version = open_dataset(source)
        self.columns = _find_columns(self._data.features, source)
        self._names = _class_names(self._data.features, self.columns.label)
        try:
            self._data = self._data.cast_column(self.columns.image, datasets.Image(decode=False))
        except (ValueError, TypeError, pa.ArrowException) as error:
            raise GalleryError(f"Column {self.columns.image!r} of {source.dataset} contains no images.") from error
        self._data = self._data.select_columns(list(dict.fromkeys(filter(None, astuple(self.columns)))))
        if source.limit is not None:
            self._data = self._data.take(source.limit)

    @property
    def total(self) -> int | None:
        """The number of rows, or None if the dataset is streamed."""
        return None if self.source.streaming else len(self._data)

    @property
    def seen(self) -> int:
        """The number of rows; if the dataset is streamed, the number that the last call of `batches` has read."""
        return self._rows_streamed if self.total is None else self.total

    @property
    def fingerprint(self) -> str:
        """A digest of everything that determines which items the gallery contains."""
        described = {**asdict(self.source), "dataset": self.source.identity[0], "version": self.version}
        described.pop("streaming")
        return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:16]

    ignored: dict[str, int] = {}
    notes: tuple[str, ...] = ()

    def items(self) -> Iterator[Item]:
        """Yield all items."""
        for batch in self.batches(64):
            yield from batch

    def batches(self, size: int, wanted: Callable[[int], bool] = lambda start: True) -> Iterator[list[Item]]:
        """Yield batches of `size` rows; `wanted` takes the first row of a batch and returns whether to read it."""
        for start, rows in self._row_batches(size, wanted):
            yield [self._item(start + offset, row) for offset, row in enumerate(rows)]

    def _row_batches(self, size: int, wanted: Callable[[int], bool]) -> Iterator[tuple[int, list[dict[str, Any]]]]:
        if self.total is not None:
            for start in range(0, self.total, size):
                if wanted(start):
                    columns = self._data[start : start + size]
                    count = len(next(iter(columns.values())))
                    yield start, [{name: values[i] for name, values in columns.items()} for i in range(count)]
            return
        start, rows = 0, list[dict[str, Any]]()
        self._rows_streamed = 0
        try:
            for row in self._data:
                rows.append(row)
                self._rows_streamed += 1
                if len(rows) == size:
                    if wanted(start):
                        yield start, rows
                    start, rows = start + size, []
        except (*CONNECTION_ERRORS, *ROW_ERRORS, pa.ArrowException) as error:
            raise self._read_error(start + len(rows), error) from error
        if rows and wanted(start):
            yield start, rows

    def _item(self, row: int, values: dict[str, Any]) -> Item:
        columns = self.columns
        image = values[columns.image]
        # datasets writes "zip://inner::archive.zip" for a file in an archive, and a URL for a streamed file.
        path = ((image or {}).get("path") or "").split("::")[0].split("://")[-1]
        relative, name = self._relative(path), Path(path).name
        own_id = values.get(columns.id) if columns.id else None
        return Item(
            row=row,
            id=str(own_id if own_id not in (None, "") else relative or (f"{row}-{name}" if name else row)),
            label=self._label(values.get(columns.label) if columns.label else None),
            caption=_text(values.get(columns.caption)) if columns.caption else Path(name).stem,
            read=lambda: self._read(row, image),
            stamp=self._stamp(path),
        )

    def _stamp(self, path: str) -> Any:
        from retrieval.gallery.source import Stamp

        try:
            state = Path(path).stat()
        except OSError:
            return None
        return Stamp(self._relative(path), state.st_size, state.st_mtime_ns) if self._relative(path) else None

    def _read_error(self, row: int, error: Exception) -> GalleryError:
        resume = " Run the same command again to resume from there." if isinstance(error, CONNECTION_ERRORS) else ""
        return GalleryError(f"Reading {self.source.dataset} stopped at row {row}: {reason(error).rstrip('.')}.{resume}")

    def _read(self, row: int, image: dict[str, Any] | None) -> bytes:
        """Return the encoded bytes of a row's image; raise PictureError if it has none."""
        image = image or {}
        if image.get("bytes") is not None:
            return bytes(image["bytes"])
        if not (path := image.get("path")):
            raise PictureError("The row has no image.")
        try:
            return self._read_path(path)
        except CONNECTION_ERRORS as error:
            raise self._read_error(row, error) from error
        except PictureError:
            raise
        except ROW_ERRORS as error:
            reason = error.strerror if isinstance(error, OSError) else None  # unlike str(error), without the path
            raise PictureError(f"The image file cannot be read: {reason or hub.first_line(error)}.") from error

    def _read_path(self, path: str) -> bytes:
        """Return the bytes of a file that a row names, which an untrusted row may choose freely.

        Allowed are a regular file inside the dataset, a member of an archive inside the dataset, written by datasets as
        `zip://member::archive`, and for a streamed dataset of the Hub the same with its own `hf://` paths.
        """
        member, _, outer = path.rpartition("::")
        if member and not ARCHIVE_MEMBER.fullmatch(member):
            raise OUTSIDE
        if "://" in outer:
            if self._root or not outer.startswith(f"hf://datasets/{self.source.dataset}@"):
                raise OUTSIDE
        elif not member:
            return read_bytes(self._inside(outer), follow_link=False)
        else:
            archive = self._inside(outer)
            if not archive.is_file():  # opening a pipe would wait without end
                raise PictureError("The row names an archive that is not a regular file.")
            path = f"{member}::{archive}"
        with xopen(path, "rb") as file:
            return read_bytes(bytes(file.read(MAX_BYTES + 1)))

    def _inside(self, path: str) -> Path:
        """Return the real path of a file inside the dataset; raise PictureError if it lies outside."""
        lexical = Path(os.path.normpath(Path(path).absolute()))
        resolved = lexical.resolve()
        # The owner of a folder of images chose its symbolic links, so they may lead outside.
        allowed = (lexical, resolved) if self._data.info.builder_name == "imagefolder" else (resolved,)
        if not any(each.is_relative_to(folder) for each in allowed for folder in self._folders):
            raise OUTSIDE
        return resolved

    @cached_property
    def _folders(self) -> list[Path]:
        """The folders that the dataset's files may lie in, also under their real paths."""
        if root := self._root:
            folders = [root.parent if root.is_file() else root]
        else:
            cached = Path(constants.HF_HUB_CACHE) / f"datasets--{self.source.dataset.replace('/', '--')}"
            own = (datasets.config.HF_DATASETS_CACHE, datasets.config.DOWNLOADED_DATASETS_PATH)
            folders = [cached, *map(Path, own)]
        return [name for folder in folders for name in (folder, folder.resolve())]

    def _relative(self, path: str) -> str:
        """Return a file's path relative to the dataset's folder, or "" if it lies elsewhere."""
        root, file = self._root, Path(path)
        return file.relative_to(root).as_posix() if root and file.is_relative_to(root) else ""

    def _label(self, value: Any) -> str:
        if value is None or (self._names and (not isinstance(value, int) or not 0 <= value < len(self._names))):
            return ""
        return self._names[value] if self._names else str(value)


def _text(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        value = ", ".join(str(part) for part in value)
    return "" if value is None else " ".join(str(value).split())[:CAPTION_LENGTH]


def _find_columns(features: Any, source: GallerySource) -> Columns:
    """Return the columns that the source names; find the others by their type and usual names."""
    for wanted in (source.image_column, source.label_column, source.caption_column):
        if wanted is not None and wanted not in features:
            raise GalleryError(
                f"The dataset {source.dataset!r} has no column {wanted!r}. It has: {', '.join(features)}."
            )
    image = source.image_column or next((name for name, feature in features.items() if _is_image(feature)), None)
    if image is not None and _is_string(features[image]):
        raise GalleryError(f"Column {image!r} of {source.dataset} contains no images but text.")
    if image is None:
        raise GalleryError(
            f"The dataset {source.dataset!r} has no image column. "
            f"Its columns: {', '.join(f'{name} ({_type(feature)})' for name, feature in features.items())}. "
            "If one of them contains encoded images, name it with `--image-column`."
        )
    classes = [name for name, feature in features.items() if isinstance(feature, datasets.ClassLabel)]
    if "label" in classes or (not classes and _is_string(features.get("label"))):
        classes = ["label"]
    label = source.label_column or next(iter(classes), None)
    texts = [name for name, feature in features.items() if _is_string(feature) and name not in ("id", label, image)]
    named = (name for name in ("caption", "text", "name", "title", "description") if name in texts)
    caption = source.caption_column or next(named, texts[0] if texts else None)
    own_id = "id" if _is_string(features.get("id")) or _type(features.get("id")).startswith("int") else None
    return Columns(image, label, caption, own_id)


def _is_image(feature: Any) -> bool:
    # Parquet files that were not written by datasets store an image as a struct of bytes and path.
    return isinstance(feature, datasets.Image) or (isinstance(feature, dict) and set(feature) == {"bytes", "path"})


def _is_string(feature: Any) -> bool:
    return _type(feature) in ("string", "large_string")


def _type(feature: Any) -> str:
    return str(getattr(feature, "dtype", type(feature).__name__))


def _class_names(features: Any, label: str | None) -> list[str]:
    feature = features[label] if label else None
    return list(feature.names) if isinstance(feature, datasets.ClassLabel) else []
