"""A Hugging Face data set (Hub id, folder, parquet) as a stream of items: pictures with id, label and caption."""

import glob
import hashlib
import json
import logging
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
from datasets.utils.file_utils import xopen
from huggingface_hub import constants

from retrieval import hub
from retrieval.errors import GalleryError, PictureError
from retrieval.source import GallerySource

log = logging.getLogger(__name__)

SPLIT_FOLDERS = {"train", "test", "validation", "valid", "val", "dev"}
PICTURE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif"}
CAPTION_LENGTH = 200  # characters; longer captions are cut, since they are only shown

WHOLE_SPLIT = "Name a whole split with --split, and take its first rows with --limit."

# What a row that cannot be fetched or decoded by the data set itself may raise.
ROW_ERRORS = (OSError, ValueError, KeyError, TypeError, EOFError, pa.ArrowInvalid)


@dataclass(frozen=True)
class Item:
    """One row of a gallery; `picture` holds the encoded bytes, or the reason why there are none."""

    row: int
    id: str
    label: str
    caption: str
    picture: bytes | PictureError


@dataclass(frozen=True)
class Columns:
    """The columns in use, by meaning; None where the data set has none."""

    image: str
    label: str | None
    caption: str | None
    id: str | None


class Gallery:
    """An opened data set; `batches` streams its items in gallery order."""

    def __init__(self, source: GallerySource) -> None:
        """Open the data set; pictures are not decoded yet.

        Raises:
            GalleryError: missing data set, split, revision or column, with what there is instead.
        """
        self.source = source
        self._data, self.version = _open(source)
        self.columns = _find_columns(self._data.features, source)
        self._names = _class_names(self._data.features, self.columns.label)
        try:
            self._data = self._data.cast_column(self.columns.image, datasets.Image(decode=False))
        except (ValueError, TypeError, pa.ArrowException) as error:
            raise GalleryError(f"Column {self.columns.image!r} of {source.dataset} does not hold pictures.") from error
        used = (self.columns.image, self.columns.label, self.columns.caption, self.columns.id)
        self._data = self._data.select_columns(list(dict.fromkeys(name for name in used if name)))
        if source.limit is not None:
            self._data = self._data.take(source.limit)

    @property
    def total(self) -> int | None:
        """How many rows there are, or None while streaming."""
        return None if self.source.streaming else len(self._data)

    @property
    def fingerprint(self) -> str:
        """A digest of everything that decides which items the gallery holds."""
        described = {**asdict(self.source), "dataset": self.source.identity[0], "version": self.version}
        described.pop("streaming")
        return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:16]

    def batches(self, size: int, wanted: Callable[[int], bool] = lambda start: True) -> Iterator[list[Item]]:
        """Yield items in runs of `size` rows that start at multiples of `size`; a run that is not wanted is not read.

        Args:
            size: rows in a batch; the last one may be shorter.
            wanted: told the first row of a batch, says whether to yield it.
        """
        for start, rows in self._runs(size, wanted):
            yield [self._item(start + offset, row) for offset, row in enumerate(rows)]

    def _runs(self, size: int, wanted: Callable[[int], bool]) -> Iterator[tuple[int, list[dict[str, Any]]]]:
        if self.total is not None:
            for start in range(0, self.total, size):
                if wanted(start):
                    columns = self._data[start : start + size]
                    count = len(next(iter(columns.values())))
                    yield start, [{name: values[i] for name, values in columns.items()} for i in range(count)]
            return
        start, rows = 0, list[dict[str, Any]]()
        try:
            for row in self._data:
                rows.append(row)
                if len(rows) == size:
                    if wanted(start):
                        yield start, rows
                    start, rows = start + size, []
        except (OSError, ValueError, pa.ArrowException) as error:
            raise GalleryError(
                f"Reading {self.source.dataset} stopped after row {start + len(rows)}: {hub.first_line(error)} "
                "Run the same command again to go on from there."
            ) from error
        if rows and wanted(start):
            yield start, rows

    def _item(self, row: int, values: dict[str, Any]) -> Item:
        columns = self.columns
        image = values[columns.image]
        path = (
            ((image or {}).get("path") or "").split("::")[0].split("://")[-1]
        )  # inside an archive, a stream, or as is
        relative, name = self._relative(path), Path(path).name
        own_id = values.get(columns.id) if columns.id else None
        return Item(
            row=row,
            id=str(own_id if own_id not in (None, "") else relative or (f"{row}-{name}" if name else row)),
            label=self._label(values.get(columns.label) if columns.label else None),
            caption=_text(values.get(columns.caption)) if columns.caption else Path(name).stem,
            picture=self._read(image),
        )

    def _read(self, image: dict[str, Any] | None) -> bytes | PictureError:
        """Return the encoded bytes of a row's picture, or why there are none."""
        image = image or {}
        if image.get("bytes") is not None:
            return bytes(image["bytes"])
        if not (path := image.get("path")):
            return PictureError("The row holds no picture.")
        if not self._may_read(path):
            return PictureError("The row names a file or address outside the data set, which is not read.")
        try:
            with xopen(path, "rb") as file:
                return bytes(file.read())
        except ROW_ERRORS as error:
            reason = error.strerror if isinstance(error, OSError) else None  # without the path
            return PictureError(f"The picture file cannot be read: {reason or hub.first_line(error)}.")

    def _may_read(self, path: str) -> bool:
        """Say whether a path in a row lies in the data set: a row of a stranger's parquet may name any file."""
        outer = path.split("::")[-1]  # of a file in an archive the archive
        if "://" in outer:
            return outer.startswith("hf://datasets/")
        root = self.source.path
        if root:
            folders = [root.parent if root.is_file() else root]
        else:
            cached = Path(constants.HF_HUB_CACHE) / f"datasets--{self.source.dataset.replace('/', '--')}"
            folders = [
                cached,
                Path(datasets.config.HF_DATASETS_CACHE),
                Path(datasets.config.DOWNLOADED_DATASETS_PATH),
            ]
        # A link in the folder is its owner's will, so it may lead out; `..` in a row may not.
        lexical = Path(os.path.normpath(Path(outer).absolute()))
        return any(p.is_relative_to(folder) for p in (lexical, lexical.resolve()) for folder in folders)

    def _relative(self, path: str) -> str:
        """Return a file's path below the data set's folder; empty if it does not lie there."""
        root = self.source.path
        if root and Path(path).is_relative_to(root):
            return Path(path).relative_to(root).as_posix()
        return ""

    def _label(self, value: Any) -> str:
        if value is None or (self._names and (not isinstance(value, int) or not 0 <= value < len(self._names))):
            return ""
        return self._names[value] if self._names else str(value)


def _text(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        value = ", ".join(str(part) for part in value)
    return "" if value is None else " ".join(str(value).split())[:CAPTION_LENGTH]


def _open(source: GallerySource) -> tuple[Any, str]:
    """Return the chosen split as a datasets object, and the version of its content."""
    if source.limit is not None and source.limit < 1:
        raise GalleryError("--limit must be 1 or more.")
    name, path = source.dataset, source.path
    where = f"The data set {name!r}"
    if not path and (name.startswith((".", "/", "~")) or name.count("/") > 1 or "://" in name or "\\" in name):
        raise GalleryError(f"{where} was not found: there is no such file or folder. Check the path.")
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # what it logs is raised too, and worded below
    datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = False  # or it reports every load, even of a local folder, to a server
    offline = datasets.config.HF_HUB_OFFLINE
    try:
        if path and any((path / file).is_file() for file in ("state.json", "dataset_dict.json")):
            return _from_disk(path, source), _stat_digest(path)
        arguments = _local_arguments(path, name) if path else _hub_arguments(name, source.config, source.revision)
        arguments["name"] = source.config
        builder = datasets.load_dataset_builder(**arguments)
        splits = builder.info.splits or builder.config.data_files or ()
        split = _choose_split(source, [str(s) for s in splits])
        if source.streaming and "[" in split:
            raise GalleryError(f"A slice such as {split!r} cannot be streamed. {WHOLE_SPLIT}")
        if source.streaming:
            builder.config.decode_num_threads = 0  # else datasets decodes pictures of a folder on the Hub ahead
            data = builder.as_streaming_dataset(split)
        else:
            data = datasets.load_dataset(**arguments, split=split)
    except GalleryError:
        raise
    except hub.HubError as error:
        raise GalleryError(str(error)) from error
    except RuntimeError as error:
        raise GalleryError(
            f"{where} cannot be used: {hub.first_line(error)} Code from data sets is never run."
        ) from error
    except (
        OSError,
        ValueError,
        TypeError,
        KeyError,
        pa.ArrowInvalid,
        datasets.exceptions.DatasetsError,
    ) as error:
        said = " ".join(str(error.__cause__ or error).split())[:300] or type(error).__name__
        raise GalleryError(f"{where} cannot be read: {said}") from error
    finally:
        datasets.config.HF_HUB_OFFLINE = offline  # the next data set may find the Hub back
    if not source.streaming and len(data) == 0:
        raise GalleryError(f"{where} has no rows in split {split!r}.")
    if data.features is None:  # a stream without declared features tells its columns with its first row
        data = data._resolve_features()
    return data, _stat_digest(path) if path else str(builder.hash)


def _from_disk(path: Path, source: GallerySource) -> Any:
    """Return the chosen split of what `save_to_disk` wrote: one data set, or one for each split."""
    found = datasets.load_from_disk(str(path))
    splits = found if isinstance(found, dict) else {str(found.split or "train"): found}
    split = _choose_split(source, list(splits))
    if split not in splits:
        raise GalleryError(f"What save_to_disk wrote cannot be sliced by {split!r}. {WHOLE_SPLIT}")
    data = splits[split]
    if not len(data):
        raise GalleryError(f"The data set {source.dataset!r} has no rows.")
    return data


def _local_arguments(path: Path, name: str) -> dict[str, Any]:
    """Return what `load_dataset` needs for a parquet file, a folder that is a data set, or a folder of pictures."""
    if path.is_file():
        if path.suffix != ".parquet":
            raise GalleryError(
                f"{name!r} is a file but no parquet. Name a folder of pictures, a parquet file or a Hub id."
            )
        return {"path": "parquet", "data_files": {"train": glob.escape(str(path))}}
    if any(path.glob("*.parquet")) or any(path.glob("*/*.parquet")):
        if glob.has_magic(str(path)):
            raise GalleryError(
                f"The path {name!r} has one of the characters [ ] * ?, which datasets takes for a pattern. "
                "Rename the folder, or name one parquet file in it."
            )
        return {"path": str(path)}
    if not _holds_pictures(path):
        raise GalleryError(
            f"The folder {name!r} holds neither pictures nor parquet files. "
            "Put pictures into it, one folder for each class, or name another --dataset."
        )
    # Left to itself datasets guesses splits from any part of a path, so that a class "bullet_train" becomes a
    # split and the other classes vanish. Only folders that are named exactly like a split are splits here.
    folders = [p for p in path.iterdir() if p.is_dir() and not p.name.startswith(".")]
    splits = {p.name: p for p in folders if p.name in SPLIT_FOLDERS}
    loose = any(p.suffix.lower() in PICTURE_SUFFIXES for p in path.iterdir())
    if loose or any(_holds_pictures(p) for p in folders if p.name not in SPLIT_FOLDERS):
        splits = {}
    # datasets takes a single class folder for no class at all.
    alone = len(folders) == 1 and not loose and not splits and not list(path.rglob("metadata.*"))
    return {
        "path": "imagefolder",
        "drop_labels": False if alone else None,
        "data_files": {split: f"{glob.escape(str(p))}/**" for split, p in (splits or {"train": path}).items()},
    }


def _holds_pictures(folder: Path) -> bool:
    return any(p.suffix.lower() in PICTURE_SUFFIXES for p in folder.rglob("*"))


def _hub_arguments(name: str, config: str | None, revision: str | None) -> dict[str, Any]:
    """Return what `load_dataset` needs for a Hub id: the commit if the Hub answers, the cached copy if not."""
    try:
        return {"path": name, "revision": hub.describe("dataset", name, revision).commit}
    except hub.HubUnreachable:
        # datasets would try again for 23 s before it looks into its cache; told that it is offline, it does so at once.
        datasets.config.HF_HUB_OFFLINE = True
        try:
            cached = datasets.load_dataset_builder(name, config)
        except (OSError, ValueError):
            cached = None
        if cached is None or (revision and cached.hash != revision):
            raise
        log.warning("The Hub cannot be reached; taking %s from the cache.", name)
        return {"path": name}


def _choose_split(source: GallerySource, splits: list[str]) -> str:
    """Return the split that is meant: by default `train`, or the first one if there is no `train`."""
    wanted = source.split
    if wanted is None:
        return "train" if "train" in splits or not splits else splits[0]
    base = re.split(r"[\[+]", wanted)[0]
    if splits and base not in splits and base != "all":
        raise GalleryError(f"The data set {source.dataset!r} has no split {wanted!r}. It has: {', '.join(splits)}.")
    return wanted


def _stat_digest(path: Path) -> str:
    """Return a digest of every file's name, size and time of change below a path."""
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    total = hashlib.sha256()
    for file in files:
        state = file.stat()
        total.update(f"{file.relative_to(path)}\0{state.st_size}\0{state.st_mtime_ns}\n".encode())
    return total.hexdigest()[:16]


def _find_columns(features: Any, source: GallerySource) -> Columns:
    """Find the columns by name where one was given and by feature type where not."""
    for wanted in (source.image_column, source.label_column, source.caption_column):
        if wanted is not None and wanted not in features:
            raise GalleryError(
                f"The data set {source.dataset!r} has no column {wanted!r}. It has: {', '.join(features)}."
            )
    image = source.image_column or _first(features, _is_image)
    if image is not None and _is_string(features[image]):
        raise GalleryError(f"Column {image!r} of {source.dataset} does not hold pictures but text.")
    if image is None:
        raise GalleryError(
            f"The data set {source.dataset!r} has no image column. "
            f"Its columns: {', '.join(f'{name} ({_type(feature)})' for name, feature in features.items())}. "
            "If one of them holds encoded pictures, name it with --image-column."
        )
    label = source.label_column
    if label is None and isinstance(features.get("label"), datasets.ClassLabel):
        label = "label"
    if label is None:
        label = _first(features, lambda feature: isinstance(feature, datasets.ClassLabel))
    if label is None and _is_string(features.get("label")):
        label = "label"
    texts = [name for name, feature in features.items() if _is_string(feature) and name not in ("id", label, image)]
    named = (name for name in ("caption", "text", "name", "title", "description") if name in texts)
    caption = source.caption_column or next(named, texts[0] if texts else None)
    own_id = "id" if _is_string(features.get("id")) or _type(features.get("id")).startswith("int") else None
    return Columns(image, label, caption, own_id)


def _first(features: Any, test: Callable[[Any], bool]) -> str | None:
    return next((name for name, feature in features.items() if test(feature)), None)


def _is_image(feature: Any) -> bool:
    if isinstance(feature, datasets.Image):
        return True
    # Parquet written without datasets keeps a picture as a struct of bytes and path.
    return isinstance(feature, dict) and set(feature) == {"bytes", "path"}


def _is_string(feature: Any) -> bool:
    return _type(feature) in ("string", "large_string")


def _type(feature: Any) -> str:
    return str(getattr(feature, "dtype", type(feature).__name__))


def _class_names(features: Any, label: str | None) -> list[str]:
    feature = features[label] if label else None
    return list(feature.names) if isinstance(feature, datasets.ClassLabel) else []
