"""The items of a gallery, whatever its source: images with id, label and caption."""

import hashlib
import json
import re
import time
from collections.abc import Iterator
from dataclasses import asdict, astuple, dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import datasets
import httpx2
import pyarrow as pa
from datasets.utils.file_utils import xopen
from huggingface_hub import constants

from retrieval import hub
from retrieval.errors import GalleryError, PictureError
from retrieval.gallery.layout import is_image_column, reason
from retrieval.gallery.metadata import CAPTIONS
from retrieval.gallery.opening import Opened, open_dataset
from retrieval.gallery.source import GallerySource, Item, Labels, one_line, valid_unicode
from retrieval.gallery.splits import is_picture
from retrieval.pictures.loading import MAX_BYTES, read_bytes

READ_AT_ONCE = 64  # rows

# Errors of the connection to the Hub. They stop the build, since the images of other rows would be missing too.
CONNECTION_ERRORS = (hub.HubError, httpx2.HTTPError, ConnectionError)

# A file in an archive, as datasets writes it. Other protocols, such as ftp, would connect to a server.
ARCHIVE_MEMBER = re.compile(r"(zip|tar|gzip|bz2|xz|lz4|zstd)://((?!://|::).)*", re.DOTALL)
WEBDATASET_KEY = "__key__"  # the column of names in a webdataset
NO_CAPTIONS = ("id", "author", "license", "source", WEBDATASET_KEY, "__url__")  # columns of texts
OUTSIDE = PictureError("The row names a file or URL outside the dataset. Such files are not read.")


@dataclass(frozen=True)
class Columns:
    """The names of the columns in use; None if the dataset has no such column."""

    image: str
    label: str | None
    caption: str | None
    id: str | None
    author: str | None
    license: str | None


class Gallery:
    """An opened dataset; `items` streams its items in gallery order.

    Raises:
        GalleryError: the dataset, split, revision or column does not exist; the message lists the alternatives.
    """

    def __init__(self, source: GallerySource) -> None:
        self.source = source
        self.opened_ns = time.time_ns()
        opened = open_dataset(source)
        self._rows = DatasetRows(source, opened) if isinstance(opened, Opened) else opened
        self.version = self._rows.version
        self.ignored: dict[str, int] = self._rows.ignored  # suffix -> number of files that are not images
        self.notes: list[str] = self._rows.notes  # sentences about files that are not counted and what is left out

    @property
    def total(self) -> int | None:
        """The number of rows, or None if the dataset is streamed."""
        return self._rows.total

    @property
    def labelled(self) -> bool:
        """Whether the items may have labels."""
        return self._rows.labelled

    @property
    def fingerprint(self) -> str:
        """A digest of everything that determines which items the gallery contains."""
        described = {**asdict(self.source), "dataset": self.source.identity[0], "version": self.version}
        described.pop("streaming")
        return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:16]

    def items(self) -> Iterator[Item]:
        """Yield all items in gallery order; raise GalleryError if the dataset cannot be read any further."""
        return self._rows.items()

    def item(self, row: int) -> Item | None:
        """Return one item; None if the source has to be read from its beginning to find it."""
        if isinstance(self._rows, DatasetRows) and not self.source.streaming:
            return self._rows.item(row)
        return None


class DatasetRows:
    """The rows of a split that `datasets` reads.

    Raises:
        GalleryError: a column does not exist or contains no images.
    """

    def __init__(self, source: GallerySource, opened: Opened) -> None:
        self._source = source
        self._root = source.path  # resolved once, since `_read` needs it for every row
        self._layout = opened.layout
        self._data, self.version, self.notes = opened.data, opened.version, list(opened.notes)
        self.ignored = dict(opened.layout.ignored) if opened.layout else {}
        self._columns = _find_columns(self._data, source, local=opened.layout is not None)
        self._names = _class_names(self._data.features, self._columns.label)
        try:
            self._data = self._data.cast_column(self._columns.image, datasets.Image(decode=False))
        except (ValueError, TypeError, pa.ArrowException) as error:
            raise GalleryError(f"Column {self._columns.image!r} of {source.dataset} contains no images.") from error
        self._data = self._data.select_columns(list(dict.fromkeys(filter(None, astuple(self._columns)))))
        if source.limit is not None:
            self._data = self._data.take(source.limit)

    @property
    def total(self) -> int | None:
        """The number of rows, or None if the dataset is streamed."""
        return None if self._source.streaming else len(self._data)

    @property
    def labelled(self) -> bool:
        """Whether there is a column of labels."""
        return self._columns.label is not None

    def items(self) -> Iterator[Item]:
        """Yield all items; raise GalleryError if they cannot be read."""
        row = 0
        try:
            for values in self._values():
                yield self._item(row, values)
                row += 1
        except Exception as error:  # of datasets, pyarrow or an archive
            raise self._read_error(row, error) from error

    def item(self, row: int) -> Item:
        """Return one item of a dataset that is not streamed; raise GalleryError if it cannot be read."""
        try:
            return self._item(row, self._data[row])
        except Exception as error:  # of datasets, pyarrow or an archive
            raise self._read_error(row, error) from error

    def _values(self) -> Iterator[dict[str, Any]]:
        if self.total is None:
            yield from self._data
            return
        for start in range(0, self.total, READ_AT_ONCE):
            columns = self._data[start : start + READ_AT_ONCE]
            yield from (dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True))

    def _item(self, row: int, values: dict[str, Any]) -> Item:
        texts = {meaning: values[column] for meaning, column in asdict(self._columns).items() if column}
        image = texts["image"] or {}
        # datasets writes "zip://inner::archive.zip" for a file in an archive, and a URL for a streamed file.
        path = (image.get("path") or "").split("::")[0].split("://")[-1]
        relative, name = self._relative(path), Path(path).name
        own_id, encoded = texts.get("id"), image.get("bytes")
        item_id = own_id if own_id not in (None, "") else relative or (f"{row}-{name}" if name else row)
        return Item(
            row=row,
            id=valid_unicode(str(item_id)),
            label=self._label(texts.get("label")),
            caption=one_line(texts.get("caption") if self._columns.caption else Path(name).stem),
            read=partial(self._read, row, image.get("path")) if encoded is None else partial(bytes, encoded),
            stamp=None,
            author=one_line(texts.get("author")),
            license=one_line(texts.get("license")),
        )

    def _read_error(self, row: int, error: Exception) -> GalleryError:
        resume = " Run the same command again to resume from there." if isinstance(error, CONNECTION_ERRORS) else ""
        why = reason(error).rstrip(".")
        return GalleryError(f"Reading {self._source.dataset} stopped at row {row}: {why}.{resume}")

    def _read(self, row: int, path: str | None) -> bytes:
        """Return the bytes of the file that a row names."""
        if not path:
            raise PictureError("The row has no image.")
        try:
            return self._read_path(path)
        except CONNECTION_ERRORS as error:
            raise self._read_error(row, error) from error
        except PictureError:
            raise
        except Exception as error:  # of datasets or an archive
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
            if self._root or not outer.startswith(f"hf://datasets/{self._source.dataset}@"):
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
        """Return the real path of a file inside the dataset; raise PictureError if it lies outside.

        A relative path starts at the folder of a Parquet file.
        """
        beside = {file.parent for file in self._layout.files} if self._layout else set[Path]()
        candidates = {(folder / path).resolve() for folder in beside} or {Path(path).resolve()}
        found = [file for file in candidates if any(map(file.is_relative_to, self._folders))]
        if not found:
            raise OUTSIDE
        if len(found) > 1 and len(found := [file for file in found if file.exists()]) != 1:
            raise PictureError("The row names a file that is beside none or several of the Parquet files.")
        return found[0]

    @cached_property
    def _folders(self) -> list[Path]:
        """The folders that the dataset's files may lie in, also under their real paths."""
        if root := self._root:
            folders = [root.parent if root.is_file() else root]
        else:
            cached = Path(constants.HF_HUB_CACHE) / f"datasets--{self._source.dataset.replace('/', '--')}"
            own = (datasets.config.HF_DATASETS_CACHE, datasets.config.DOWNLOADED_DATASETS_PATH)
            folders = [cached, *map(Path, own)]
        return [name for folder in folders for name in (folder, folder.resolve())]

    def _relative(self, path: str) -> str:
        """Return a file's path relative to the dataset's folder, or "" if it lies elsewhere."""
        root, file = self._root, Path(path)
        return file.relative_to(root).as_posix() if root and file.is_relative_to(root) else ""

    def _label(self, value: Any) -> str:
        if value is None or self._source.labels == Labels.NONE:
            return ""
        if not self._names:
            return valid_unicode(str(value))
        return self._names[value] if isinstance(value, int) and 0 <= value < len(self._names) else ""


def _find_columns(data: Any, source: GallerySource, local: bool) -> Columns:
    """Return the columns that the source names; find the others by their type and usual names.

    Only a `local` dataset may name image files in a column of texts.
    """
    features = data.features
    for wanted in (source.image_column, source.label_column, source.caption_column):
        if wanted is not None and wanted not in features:
            raise GalleryError(
                f"The dataset {source.dataset!r} has no column {wanted!r}. It has: {', '.join(features)}."
            )
    image = _image_column(data, source, local)
    strings = [name for name, feature in features.items() if _is_string(feature)]
    classes = [name for name, feature in features.items() if isinstance(feature, datasets.ClassLabel)]
    if "label" in classes or (not classes and "label" in strings):
        classes = ["label"]
    elif WEBDATASET_KEY in features and "cls" in features:
        classes = ["cls"]
    label = source.label_column or next(iter(classes), None)
    texts = [name for name in strings if name not in (label, image, *NO_CAPTIONS)]
    named = (name for name in (*CAPTIONS, "txt") if name in texts)
    caption = source.caption_column or next(named, texts[0] if texts else None)
    ids = (name for name in ("id", WEBDATASET_KEY) if name in strings or _type(features.get(name)).startswith("int"))
    author, licence = (name if name in strings else None for name in ("author", "license"))
    return Columns(image, label, caption, next(ids, None), author, licence)


def _image_column(data: Any, source: GallerySource, local: bool) -> str:
    features = data.features
    images = [name for name, feature in features.items() if is_image_column(feature)]
    files = [name for name in features if local and not images and _names_pictures(data, name)]
    image = source.image_column or next(iter(images + files), None)
    if image is None:
        raise GalleryError(
            f"The dataset {source.dataset!r} has no image column. "
            f"Its columns: {', '.join(f'{name} ({_type(feature)})' for name, feature in features.items())}. "
            "If one of them contains encoded images, name it with `--image-column`."
        )
    if _is_string(features[image]) and image not in files:
        raise GalleryError(f"Column {image!r} of {source.dataset} contains no images but text.")
    return image


def _names_pictures(data: Any, column: str) -> bool:
    """Return whether the first row of a column is the name of an image file."""
    if not _is_string(data.features[column]):
        return False
    first = next(iter(data.select_columns([column]).take(1)), None)
    value = first[column] if first else None
    return isinstance(value, str) and "://" not in value and is_picture(value)


def _is_string(feature: Any) -> bool:
    return _type(feature) in ("string", "large_string")


def _type(feature: Any) -> str:
    return str(getattr(feature, "dtype", type(feature).__name__))


def _class_names(features: Any, label: str | None) -> list[str]:
    feature = features[label] if label else None
    return list(feature.names) if isinstance(feature, datasets.ClassLabel) else []
