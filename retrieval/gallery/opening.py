"""Open a gallery's source: a folder of images, webdataset archives, or one split of a Hugging Face dataset.

The dataset is a Hub id, a Parquet file, a folder of Parquet files, or a `save_to_disk` copy.
"""

import json
import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Any

import datasets
import httpx2
import pyarrow as pa
import pyarrow.dataset as pads
from datasets.utils.file_utils import is_relative_path, xjoin

from retrieval import hub
from retrieval.errors import GalleryError
from retrieval.gallery.folder import FolderRows
from retrieval.gallery.layout import PARQUET, Layout, Shards, layout_of, naming_damaged, reason, unread_files
from retrieval.gallery.shards import ShardRows
from retrieval.gallery.source import GallerySource
from retrieval.gallery.splits import choose_split, is_picture, left_out, split_folders
from retrieval.gallery.walk import File, Walk, digest, walk
from retrieval.labels import printable

log = logging.getLogger(__name__)

WHOLE_SPLIT_HINT = "Choose a whole split with `--split`, and limit its rows with `--limit`."


@dataclass(frozen=True)
class Opened:
    """A split as a `Dataset` or `IterableDataset`, the version of its content, and what was left out."""

    data: Any
    version: str
    layout: Layout | None = None  # of a local dataset, unless `save_to_disk` wrote it
    notes: Sequence[str] = ()


def check_dataset(source: GallerySource) -> None:
    """Raise GalleryError if the dataset cannot be read, as far as is known without opening it or asking the Hub."""
    _check_name(source)
    if (path := source.path) and not _is_saved_to_disk(path):
        with _explained_errors(source):
            layout_of(path, source)


def _check_name(source: GallerySource) -> None:
    name, path = source.dataset, source.path
    if "://" in name and not path:
        raise GalleryError(
            f"The dataset {name!r} is a URL, and there is no such file or folder. "
            "Use a Hub id (`org/name`), or download the dataset and name the folder."
        )
    if not path and (name.startswith((".", "/", "~")) or name.count("/") > 1 or "\\" in name):
        raise GalleryError(f"The dataset {name!r} was not found: there is no such file or folder. Check the path.")


def open_dataset(source: GallerySource) -> FolderRows | ShardRows | Opened:
    """Return the images of a folder or of archives, or the chosen split of another dataset."""
    if source.limit is not None and source.limit < 1:
        raise GalleryError("`--limit` must be 1 or more.")
    _check_name(source)
    path = source.path
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # whatever it logs is also raised, and explained below
    datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = False  # otherwise every load, even of a local folder, is reported
    offline = datasets.config.HF_HUB_OFFLINE
    try:
        with _explained_errors(source):
            return _load(source, path)
    finally:
        datasets.config.HF_HUB_OFFLINE = offline  # the Hub may be reachable again for the next dataset


def _load(source: GallerySource, path: Path | None) -> FolderRows | ShardRows | Opened:
    if path and _is_saved_to_disk(path):
        return Opened(_from_disk(path, source), _stat_digest(path))
    layout = None
    if path:
        local = layout_of(path, source)
        if isinstance(local, Walk):
            return FolderRows(source, local)
        if isinstance(local, Shards):
            return ShardRows(source, local.files, local.ignored, local.notes)
        layout, version = local, local.version
        arguments = {**local.arguments, "cache_dir": str(_cache_of(path, version))}
    else:
        remote, version = _hub_arguments(source)
        if isinstance(remote, Path):
            return FolderRows(source, walk(remote), version)
        arguments = remote
    with _only_own_files(arguments["path"]):
        builder = datasets.load_dataset_builder(**arguments, name=source.config)
    splits = [str(split) for split in builder.info.splits or builder.config.data_files or ()]
    split = choose_split(source, splits)
    with naming_damaged(layout):
        data = _streamed(builder, split) if source.streaming else _prepared(builder, split, source)
    notes = left_out(split, dict.fromkeys(splits))
    if layout:
        notes = [*layout.notes, *unread_files(layout, builder), *notes]
    return Opened(data, version or str(builder.hash), layout, notes)


@contextmanager
def _only_own_files(path: str) -> Iterator[None]:
    """Refuse files outside a local folder or a repository on the Hub that its own README or settings name.

    datasets would read any file of this machine, and fetch any URL. Patterns that this module passes itself, for
    Parquet files, are not affected.
    """
    resolve = datasets.data_files.resolve_pattern
    repository, real = f"hf://datasets/{path}@", os.path.realpath(path)

    def is_own(place: str) -> bool:
        if ".." in PurePosixPath(place).parts or "::" in place:
            return False
        return place.startswith(repository) or any(Path(place).is_relative_to(each) for each in (path, real))

    def resolve_own(pattern: str, base_path: str, *rest: Any, **named: Any) -> list[str]:
        if not is_own(xjoin(base_path, pattern) if is_relative_path(pattern) else pattern):
            raise GalleryError(
                f"The README of the dataset {path!r} names the data files {printable(pattern)!r}, which are not inside "
                "the dataset. Correct its `data_files`."
            )
        found: list[str] = resolve(pattern, base_path, *rest, **named)
        return found

    if path != PARQUET:
        datasets.data_files.resolve_pattern = resolve_own
    try:
        yield
    finally:
        datasets.data_files.resolve_pattern = resolve


def _cache_of(path: Path, version: str) -> Path:
    """Return the folder for the copy of a local dataset that `datasets` makes; copies of old versions are deleted.

    It has a folder of its own because datasets does not notice that a file has changed if a README configures it.
    """
    folder = Path(datasets.config.HF_DATASETS_CACHE) / sha256(os.fsencode(path)).hexdigest()[:16]
    for other in folder.glob("*/"):
        if other.name != version:
            shutil.rmtree(other, ignore_errors=True)
    return folder / version


def _streamed(builder: Any, split: str) -> Any:
    if "[" in split:
        raise GalleryError(f"A slice such as {split!r} cannot be streamed. {WHOLE_SPLIT_HINT}")
    builder.config.decode_num_threads = 0  # otherwise datasets decodes images of a folder on the Hub in advance
    data = builder.as_streaming_dataset(split)
    # Without declared features, the columns are known from the first row only.
    return data if data.features is not None else data._resolve_features()


def _prepared(builder: Any, split: str, source: GallerySource) -> Any:
    if hasattr(builder.config, "fragment_scan_options"):  # Parquet: do not read whole files ahead into memory
        builder.config.fragment_scan_options = pads.ParquetFragmentScanOptions(pre_buffer=False)
    builder.download_and_prepare()
    data = builder.as_dataset(split)
    pa.default_memory_pool().release_unused()  # otherwise arrow keeps its read buffers until the process ends
    if len(data) == 0:
        raise GalleryError(f"The dataset {source.dataset!r} has no rows in split {split!r}.")
    return data


@contextmanager
def _explained_errors(source: GallerySource) -> Iterator[None]:
    """Turn errors of datasets and of the Hub into a `GalleryError` that says what to do."""
    where = f"The dataset {source.dataset!r}"
    try:
        yield
    except GalleryError:
        raise
    except Exception as error:  # of datasets, pyarrow, fsspec, an archive or a README
        if isinstance(error, RuntimeError) and "scripts" in str(error):
            raise GalleryError(
                f"{where} cannot be used: {hub.first_line(error)}. Code from datasets is never run. "
                "The Hub has a Parquet copy of many datasets: try `--revision refs/convert/parquet`."
            ) from error
        if not source.path and isinstance(error, (hub.HubError, httpx2.HTTPError, RuntimeError)):
            raise GalleryError(str(hub.explain_error("dataset", source.dataset, source.revision, error))) from error
        cache = Path(datasets.config.HF_DATASETS_CACHE)
        if isinstance(error, OSError) and error.filename and Path(error.filename) in (cache, *cache.parents):
            raise GalleryError(
                f"{where} cannot be copied to `{cache}`: {error.strerror}. Set `HF_HOME` to another folder."
            ) from error
        raise GalleryError(f"{where} cannot be read: {reason(error.__cause__ or error)}") from error


def _is_saved_to_disk(path: Path) -> bool:
    # Other programs have a `state.json` too.
    written = ("dataset_dict.json",), ("state.json", "dataset_info.json")
    return any(all((path / file).is_file() for file in files) for files in written)


def _from_disk(path: Path, source: GallerySource) -> Any:
    """Return the chosen split of a `Dataset` or `DatasetDict` that `save_to_disk` wrote."""
    for state in (*path.glob("state.json"), *path.glob("*/state.json")):
        named = [str(each["filename"]) for each in json.loads(state.read_bytes())["_data_files"]]
        if outside := [name for name in named if PurePosixPath(name).name != name]:
            raise GalleryError(
                f"The dataset {source.dataset!r} names the data file {printable(outside[0])!r}, which is not in its "
                "folder. Correct its `state.json`."
            )
    found = datasets.load_from_disk(str(path))
    splits = found if isinstance(found, dict) else {str(found.split or "train"): found}
    split = choose_split(source, list(splits))
    if split not in splits:
        raise GalleryError(f"A dataset written by `save_to_disk` cannot be sliced by {split!r}. {WHOLE_SPLIT_HINT}")
    data = splits[split]
    if not len(data):
        raise GalleryError(f"The dataset {source.dataset!r} has no rows.")
    return data


def _streamed_pictures(name: str, commit: str, files: Sequence[str]) -> dict[str, Any]:
    """Return the arguments of `load_dataset` for a repository of image files on the Hub."""
    patterns = {split: f"{folder}/**".removeprefix("/") for split, folder in split_folders(files).items()}
    return {"path": name, "revision": commit, "data_files": patterns}


def _hub_arguments(source: GallerySource) -> tuple[dict[str, Any] | Path, str]:
    """Return the arguments of `load_dataset` for a Hub id, and the commit where the builder's hash is not it.

    For a repository of image files, return its local copy instead of arguments, unless it is streamed. The commit comes
    from the Hub. If the Hub is unreachable, the cached copy is used.
    """
    name, revision = source.dataset, source.revision
    try:
        found = hub.describe("dataset", name, revision)
        # For a repository of image files, datasets would guess the splits.
        if not found.configured and 2 * sum(map(is_picture, found.files)) > len(found.files):
            if source.streaming:
                return _streamed_pictures(name, found.commit, found.files), found.commit
            folder = hub.fetch("dataset", name, revision)
            return folder, folder.name
        hub.remember(name, revision)
        return {"path": name, "revision": found.commit}, ""
    except hub.HubUnreachable:
        if (known := _cached_arguments(source)) is None:
            raise
        log.warning("The Hub is unreachable. Using the cached copy of %s.", name)
        return known


def _cached_arguments(source: GallerySource) -> tuple[dict[str, Any] | Path, str] | None:
    """Return what `_hub_arguments` returns, from the cache alone; None if the revision is not cached."""
    name = source.dataset
    # Online, datasets would retry for 23 s before it looks into its cache.
    datasets.config.HF_HUB_OFFLINE = True
    if (folder := hub.cached("dataset", name, source.revision)) and walk(folder).pictures:
        return folder, folder.name
    try:
        found = datasets.load_dataset_builder(name, source.config)
    except (OSError, ValueError):
        return None
    same = source.revision in (None, found.hash) or hub.cached_commit("dataset", name, source.revision) == found.hash
    return ({"path": name}, "") if same else None


def _stat_digest(path: Path) -> str:
    """Return a digest of the names, sizes and modification times of all files below a path."""
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    states = ((file, file.stat()) for file in files)
    return digest(
        File(str(file.relative_to(path)), str(file), state.st_size, state.st_mtime_ns) for file, state in states
    )
