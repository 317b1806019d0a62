"""Opens a Hugging Face data set by Hub id, folder, parquet file or saved copy: one split, in bounded time."""

import glob
import hashlib
import logging
import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any

import datasets
import httpx2
import pyarrow as pa
import pyarrow.dataset as pads

from retrieval import hub
from retrieval.errors import GalleryError
from retrieval.gallery.source import GallerySource

log = logging.getLogger(__name__)

# What datasets says of some data sets, and what that means to whoever named one.
UNCLEAR = {
    "BatchSize must be greater than 0": "one of its parquet files has no rows. "
    "Name another --split or --config, or download the data set and leave that file out.",
    "Invalid string class label": "its class folders lie in an archive, which datasets cannot read. "
    "Download it, unpack the archive, and name the folder.",
}

WHOLE_SPLIT = "Name a whole split with --split, and take its first rows with --limit."
SPLIT_FOLDERS = {"train", "test", "validation", "valid", "val", "dev"}
PICTURE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif"}


def check_dataset(source: GallerySource) -> None:
    """Say what can be said without opening the data set and without asking the Hub.

    Raises:
        GalleryError: an address, no such file or folder, a file of another kind, a folder with nothing to read.
    """
    name, path = source.dataset, source.path
    if "://" in name and not path:
        raise GalleryError(
            f"The data set {name!r} is an address, and there is no such file or folder. "
            "Name a data set on the Hub as org/name, or download it and name the folder."
        )
    if not path and (name.startswith((".", "/", "~")) or name.count("/") > 1 or "\\" in name):
        raise GalleryError(f"The data set {name!r} was not found: there is no such file or folder. Check the path.")
    if path and not _saved(path):
        _local_arguments(path, name)


def open_dataset(source: GallerySource) -> tuple[Any, str]:
    """Return the chosen split as a datasets object, and the version of its content.

    Raises:
        GalleryError: it cannot be had; the message says why and what to do.
    """
    if source.limit is not None and source.limit < 1:
        raise GalleryError("--limit must be 1 or more.")
    check_dataset(source)
    name, path = source.dataset, source.path
    where = f"The data set {name!r}"
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # what it logs is raised too, and worded below
    datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = False  # or it reports every load, even of a local folder, to a server
    offline = datasets.config.HF_HUB_OFFLINE
    try:
        if path and _saved(path):
            return _from_disk(path, source), _stat_digest(path)
        arguments, commit = (_local_arguments(path, name), "") if path else _hub_arguments(source)
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
            if hasattr(builder.config, "fragment_scan_options"):  # of parquet: read as needed, not all of a file ahead
                builder.config.fragment_scan_options = pads.ParquetFragmentScanOptions(pre_buffer=False)
            builder.download_and_prepare()
            data = builder.as_dataset(split)
            pa.default_memory_pool().release_unused()  # or arrow keeps what it read with for the life of the process
    except GalleryError:
        raise
    except (hub.HubError, httpx2.HTTPError) as error:
        raise GalleryError(str(hub.worded("dataset", name, source.revision, error))) from error
    except RuntimeError as error:
        if "scripts" not in str(error):
            raise GalleryError(str(hub.worded("dataset", name, source.revision, error))) from error
        raise GalleryError(
            f"{where} cannot be used: {hub.first_line(error)}. Code from data sets is never run. "
            "Of many the Hub keeps a copy in parquet: try --revision refs/convert/parquet."
        ) from error
    except (
        OSError,
        ValueError,
        TypeError,
        KeyError,
        pa.ArrowInvalid,
        datasets.exceptions.DatasetsError,
    ) as error:
        raise GalleryError(f"{where} cannot be read: {reason(error.__cause__ or error)}") from error
    finally:
        datasets.config.HF_HUB_OFFLINE = offline  # the next data set may find the Hub back
    if not source.streaming and len(data) == 0:
        raise GalleryError(f"{where} has no rows in split {split!r}.")
    if data.features is None:  # a stream without declared features tells its columns with its first row
        data = data._resolve_features()
    return data, _stat_digest(path) if path else commit or str(builder.hash)


def reason(error: BaseException) -> str:
    """Return in one line what an error of datasets means."""
    said = " ".join(str(error).split())[:300] or type(error).__name__
    return next((meaning for text, meaning in UNCLEAR.items() if text in said), said)


def _saved(path: Path) -> bool:
    """Say whether a folder was written by `save_to_disk`."""
    return any((path / file).is_file() for file in ("state.json", "dataset_dict.json"))


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
    files = [file.relative_to(path).as_posix() for file in path.rglob("*")]
    folders = [p for p in path.iterdir() if p.is_dir() and not p.name.startswith(".")]
    loose = any(p.suffix.lower() in PICTURE_SUFFIXES for p in path.iterdir())
    splits = _splits(files)
    # datasets takes a single class folder for no class at all.
    alone = len(folders) == 1 and not loose and splits == {"train": ""} and not list(path.rglob("metadata.*"))
    return {**_folder_arguments(path, splits), "drop_labels": False if alone else None}


def _folder_arguments(path: Path, splits: dict[str, str]) -> dict[str, Any]:
    """Return what `load_dataset` needs for a folder of pictures: split -> the folder in it."""
    data_files = {split: f"{glob.escape(str(path / folder))}/**" for split, folder in splits.items()}
    return {"path": "imagefolder", "data_files": data_files}


def _splits(files: Iterable[str]) -> dict[str, str]:
    """Return split -> folder ("" for all) of a folder of pictures, given the relative paths in it.

    Left to itself datasets guesses splits from any part of a path, so that a class "bullet_train" becomes a split
    and the other classes vanish. Here only folders that are named exactly like a split are splits.
    """
    paths = [PurePosixPath(file) for file in files if _is_picture(file)]
    tops = {path.parts[0] if len(path.parts) > 1 else "" for path in paths if not path.parts[0].startswith(".")}
    return {top: top for top in sorted(tops)} if tops <= SPLIT_FOLDERS else {"train": ""}


def _is_picture(file: str) -> bool:
    return PurePosixPath(file).suffix.lower() in PICTURE_SUFFIXES


def _holds_pictures(folder: Path) -> bool:
    return any(_is_picture(p.name) for p in folder.rglob("*"))


def _hub_arguments(source: GallerySource) -> tuple[dict[str, Any], str]:
    """Return what `load_dataset` needs for a Hub id, and the commit if that does not tell it.

    The commit is asked of the Hub; if it does not answer, the cached copy is taken.
    """
    name, revision = source.dataset, source.revision
    try:
        found = hub.describe("dataset", name, revision)
        # A repository of picture files, for which datasets would guess the splits.
        if not found.configured and 2 * sum(map(_is_picture, found.files)) > len(found.files):
            splits = _splits(found.files)
            if source.streaming:
                patterns = {split: f"{folder}/**".removeprefix("/") for split, folder in splits.items()}
                return {"path": name, "revision": found.commit, "data_files": patterns}, found.commit
            folder = hub.fetch("dataset", name, revision)
            return _folder_arguments(folder, splits), folder.name
        hub.remember(name, revision)
        return {"path": name, "revision": found.commit}, ""
    except hub.HubUnreachable:
        if (known := _cached_arguments(source)) is None:
            raise
        log.warning("The Hub cannot be reached; taking %s from the cache.", name)
        return known


def _cached_arguments(source: GallerySource) -> tuple[dict[str, Any], str] | None:
    """Return the same of what is cached; None if that revision is not."""
    name = source.dataset
    # datasets would try again for 23 s before it looks into its cache; told that it is offline, it does so at once.
    datasets.config.HF_HUB_OFFLINE = True
    if (folder := hub.cached("dataset", name, source.revision)) and _holds_pictures(folder):
        files = [file.relative_to(folder).as_posix() for file in folder.rglob("*")]
        return _folder_arguments(folder, _splits(files)), folder.name
    try:
        found = datasets.load_dataset_builder(name, source.config)
    except (OSError, ValueError):
        return None
    same = source.revision in (None, found.hash) or hub.cached_commit("dataset", name, source.revision) == found.hash
    return ({"path": name}, "") if same else None


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
