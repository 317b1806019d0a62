"""Open one split of a Hugging Face dataset, given as a Hub id, folder, Parquet file or `save_to_disk` copy."""

import glob
import hashlib
import logging
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
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

# Unclear error messages of the datasets library, and what to tell the user instead.
EXPLANATIONS = {
    "BatchSize must be greater than 0": "one of its Parquet files has no rows. "
    "Choose another `--split` or `--config`, or download the dataset and remove that file.",
    "Invalid string class label": "its class folders are inside an archive, which datasets cannot read. "
    "Download it, unpack the archive, and name the folder.",
}

WHOLE_SPLIT_HINT = "Choose a whole split with `--split`, and limit its rows with `--limit`."
SPLIT_FOLDERS = {"train", "test", "validation", "valid", "val", "dev"}
PICTURE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif"}


def check_dataset(source: GallerySource) -> None:
    """Raise GalleryError if the dataset cannot be read, as far as is known without opening it or asking the Hub."""
    name, path = source.dataset, source.path
    if "://" in name and not path:
        raise GalleryError(
            f"The dataset {name!r} is a URL, and there is no such file or folder. "
            "Use a Hub id (`org/name`), or download the dataset and name the folder."
        )
    if not path and (name.startswith((".", "/", "~")) or name.count("/") > 1 or "\\" in name):
        raise GalleryError(f"The dataset {name!r} was not found: there is no such file or folder. Check the path.")
    if path and not _is_saved_to_disk(path):
        _local_arguments(path, name)


def open_dataset(source: GallerySource) -> tuple[Any, str]:
    """Return the chosen split as a `Dataset` or `IterableDataset`, and the version of its content."""
    if source.limit is not None and source.limit < 1:
        raise GalleryError("`--limit` must be 1 or more.")
    check_dataset(source)
    path = source.path
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # whatever it logs is also raised, and explained below
    datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = False  # otherwise every load, even of a local folder, is reported
    offline = datasets.config.HF_HUB_OFFLINE
    try:
        with _explained_errors(source):
            data, version = _load(source, path)
    finally:
        datasets.config.HF_HUB_OFFLINE = offline  # the Hub may be reachable again for the next dataset
    if data.features is None:  # a stream without declared features: its columns are known from the first row only
        data = data._resolve_features()
    return data, _stat_digest(path) if path else version


def _load(source: GallerySource, path: Path | None) -> tuple[Any, str]:
    """Return the chosen split, and the commit or hash of a dataset on the Hub."""
    if path and _is_saved_to_disk(path):
        return _from_disk(path, source), ""
    arguments, commit = (_local_arguments(path, source.dataset), "") if path else _hub_arguments(source)
    arguments["name"] = source.config
    builder = datasets.load_dataset_builder(**arguments)
    splits = builder.info.splits or builder.config.data_files or ()
    split = _choose_split(source, [str(s) for s in splits])
    if source.streaming:
        if "[" in split:
            raise GalleryError(f"A slice such as {split!r} cannot be streamed. {WHOLE_SPLIT_HINT}")
        builder.config.decode_num_threads = 0  # otherwise datasets decodes images of a folder on the Hub in advance
        data = builder.as_streaming_dataset(split)
    else:
        if hasattr(builder.config, "fragment_scan_options"):  # Parquet: do not read whole files ahead into memory
            builder.config.fragment_scan_options = pads.ParquetFragmentScanOptions(pre_buffer=False)
        builder.download_and_prepare()
        data = builder.as_dataset(split)
        pa.default_memory_pool().release_unused()  # otherwise arrow keeps its read buffers until the process ends
        if len(data) == 0:
            raise GalleryError(f"The dataset {source.dataset!r} has no rows in split {split!r}.")
    return data, commit or str(builder.hash)


@contextmanager
def _explained_errors(source: GallerySource) -> Iterator[None]:
    """Turn errors of datasets and of the Hub into a `GalleryError` that says what to do."""
    where = f"The dataset {source.dataset!r}"
    try:
        yield
    except GalleryError:
        raise
    except (hub.HubError, httpx2.HTTPError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "scripts" in str(error):
            raise GalleryError(
                f"{where} cannot be used: {hub.first_line(error)}. Code from datasets is never run. "
                "The Hub has a Parquet copy of many datasets: try `--revision refs/convert/parquet`."
            ) from error
        raise GalleryError(str(hub.explain_error("dataset", source.dataset, source.revision, error))) from error
    except (OSError, ValueError, TypeError, KeyError, pa.ArrowInvalid, datasets.exceptions.DatasetsError) as error:
        raise GalleryError(f"{where} cannot be read: {reason(error.__cause__ or error)}") from error


def reason(error: BaseException) -> str:
    """Return a one-line explanation of an error raised by datasets."""
    message = " ".join(str(error).split())[:300] or type(error).__name__
    return next((explanation for text, explanation in EXPLANATIONS.items() if text in message), message)


def _is_saved_to_disk(path: Path) -> bool:
    return any((path / file).is_file() for file in ("state.json", "dataset_dict.json"))


def _from_disk(path: Path, source: GallerySource) -> Any:
    """Return the chosen split of a `Dataset` or `DatasetDict` that `save_to_disk` wrote."""
    found = datasets.load_from_disk(str(path))
    splits = found if isinstance(found, dict) else {str(found.split or "train"): found}
    split = _choose_split(source, list(splits))
    if split not in splits:
        raise GalleryError(f"A dataset written by `save_to_disk` cannot be sliced by {split!r}. {WHOLE_SPLIT_HINT}")
    data = splits[split]
    if not len(data):
        raise GalleryError(f"The dataset {source.dataset!r} has no rows.")
    return data


def _local_arguments(path: Path, name: str) -> dict[str, Any]:
    """Return the arguments of `load_dataset` for a Parquet file, a folder of Parquet files or a folder of images."""
    if path.is_file():
        if path.suffix != ".parquet":
            raise GalleryError(
                f"The file {name!r} is not a Parquet file. Name a folder of images, a Parquet file or a Hub id."
            )
        return {"path": "parquet", "data_files": {"train": glob.escape(str(path))}}
    if any(path.glob("*.parquet")) or any(path.glob("*/*.parquet")):
        if glob.has_magic(str(path)):
            raise GalleryError(
                f"The path {name!r} contains one of the characters [ ] * ?, which datasets reads as a pattern. "
                "Rename the folder, or name one Parquet file in it."
            )
        return {"path": str(path)}
    files = _files(path)
    if not any(map(_is_picture, files)):
        raise GalleryError(
            f"The folder {name!r} contains neither images nor Parquet files. "
            "Put images into it, one folder per class, or choose another `--dataset`."
        )
    folders = [p for p in path.iterdir() if p.is_dir() and not p.name.startswith(".")]
    loose = any(_is_picture(file) for file in files if "/" not in file)
    splits = _splits(files)
    # datasets drops the labels of a folder that contains a single class folder.
    single_class = len(folders) == 1 and not loose and splits == {"train": ""} and not list(path.rglob("metadata.*"))
    return {**_folder_arguments(path, splits), "drop_labels": False if single_class else None}


def _folder_arguments(path: Path, splits: dict[str, str]) -> dict[str, Any]:
    """Return the arguments of `load_dataset` for a folder of images, given split -> subfolder."""
    data_files = {split: f"{glob.escape(str(path / folder))}/**" for split, folder in splits.items()}
    return {"path": "imagefolder", "data_files": data_files}


def _splits(files: Iterable[str]) -> dict[str, str]:
    """Return split -> subfolder ("" for the folder itself) of a folder of images, given the relative paths in it.

    By default datasets guesses splits from any part of a path: a class "bullet_train" becomes a split, and the other
    classes disappear. Here, only a folder whose name is exactly that of a split is a split.
    """
    paths = [PurePosixPath(file) for file in files if _is_picture(file)]
    tops = {path.parts[0] if len(path.parts) > 1 else "" for path in paths if not path.parts[0].startswith(".")}
    return {top: top for top in sorted(tops)} if tops <= SPLIT_FOLDERS else {"train": ""}


def _is_picture(file: str) -> bool:
    return PurePosixPath(file).suffix.lower() in PICTURE_SUFFIXES


def _files(folder: Path) -> list[str]:
    return [file.relative_to(folder).as_posix() for file in folder.rglob("*")]


def _hub_arguments(source: GallerySource) -> tuple[dict[str, Any], str]:
    """Return the arguments of `load_dataset` for a Hub id, and the commit where the builder's hash is not it.

    The commit comes from the Hub. If the Hub is unreachable, the cached copy is used.
    """
    name, revision = source.dataset, source.revision
    try:
        found = hub.describe("dataset", name, revision)
        # For a repository of image files, datasets would guess the splits.
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
        log.warning("The Hub is unreachable. Using the cached copy of %s.", name)
        return known


def _cached_arguments(source: GallerySource) -> tuple[dict[str, Any], str] | None:
    """Return what `_hub_arguments` returns, from the cache alone; None if the revision is not cached."""
    name = source.dataset
    # Online, datasets would retry for 23 s before it looks into its cache.
    datasets.config.HF_HUB_OFFLINE = True
    if (folder := hub.cached("dataset", name, source.revision)) and any(map(_is_picture, files := _files(folder))):
        return _folder_arguments(folder, _splits(files)), folder.name
    try:
        found = datasets.load_dataset_builder(name, source.config)
    except (OSError, ValueError):
        return None
    same = source.revision in (None, found.hash) or hub.cached_commit("dataset", name, source.revision) == found.hash
    return ({"path": name}, "") if same else None


def _choose_split(source: GallerySource, splits: list[str]) -> str:
    """Return the split to use: the requested one, otherwise `train`, or the first split if there is no `train`."""
    wanted = source.split
    if wanted is None:
        return "train" if "train" in splits or not splits else splits[0]
    base = re.split(r"[\[+]", wanted)[0]
    if splits and base not in splits and base != "all":
        raise GalleryError(f"The dataset {source.dataset!r} has no split {wanted!r}. It has: {', '.join(splits)}.")
    return wanted


def _stat_digest(path: Path) -> str:
    """Return a digest of the names, sizes and modification times of all files below a path."""
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    total = hashlib.sha256()
    for file in files:
        state = file.stat()
        total.update(f"{file.relative_to(path)}\0{state.st_size}\0{state.st_mtime_ns}\n".encode())
    return total.hexdigest()[:16]
