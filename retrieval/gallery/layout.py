"""How the files of a local dataset are read: images one by one, archives, or Parquet files with `datasets`."""

import glob
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
from huggingface_hub import metadata_load

from retrieval.errors import GalleryError
from retrieval.gallery.source import GallerySource
from retrieval.gallery.splits import split_of_file
from retrieval.gallery.walk import File, Walk, counts, digest, listed, walk
from retrieval.labels import printable
from retrieval.pictures.loading import open_regular

README = "README.md"
PARQUET = "parquet"  # the name of its reader in datasets

# Unclear error messages of the datasets library, and what to tell the user instead.
EXPLANATIONS = {
    "BatchSize must be greater than 0": "one of its Parquet files has no rows. "
    "Choose another `--split` or `--config`, or download the dataset and remove that file.",
    "Invalid string class label": "its class folders are inside an archive, which datasets cannot read. "
    "Download it, unpack the archive, and name the folder.",
}


SCHEMA_ERRORS = (OSError, ValueError, KeyError, TypeError, AttributeError, pa.ArrowException)  # of a Parquet file


@dataclass(frozen=True)
class Layout:
    """How `datasets` reads a local folder or file: the arguments of `load_dataset`, and the files that hold rows."""

    arguments: dict[str, Any]
    files: list[Path]
    version: str  # of the files, and of the images that rows may name
    ignored: Mapping[str, int] = field(default_factory=dict)
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Shards:
    """The archives of a webdataset."""

    files: list[File]
    ignored: Mapping[str, int] = field(default_factory=dict)
    notes: Sequence[str] = ()


def layout_of(path: Path, source: GallerySource) -> Walk | Shards | Layout:
    """Return how to read a local file or folder; a folder whose images are files is returned as it was walked."""
    name = source.dataset
    if path.is_file():
        if path.suffix.lower() == ".tar":
            return Shards([_stat(path)])
        if path.suffix.lower() == ".parquet":
            return _file_layout(path)
        raise GalleryError(
            f"The file {name!r} is not a Parquet file. Name a folder of images, a Parquet file or a Hub id."
        )
    found = walk(path)
    tables = found.with_suffix(".parquet")
    if holding := [file for file in tables if _holds_pictures(file, source, found)]:
        return _parquet_layout(found, holding, source)
    if found.pictures:
        return found
    if shards := found.with_suffix(".tar"):
        return Shards(shards, found.ignored - Counter({".tar": len(shards)}), found.notes)
    if tables:
        return _parquet_layout(found, tables, source)
    there = f" It has {counts(found.ignored)}." if found.ignored else ""
    raise GalleryError(
        f"The folder {name!r} contains neither images nor Parquet files.{there} "
        "Put images into it, one folder per class, or choose another `--dataset`."
    )


def _file_layout(path: Path) -> Layout:
    """Return how to read a single Parquet file."""
    try:
        whole = any(map(is_image_column, _columns_of(path).values()))
    except SCHEMA_ERRORS:
        whole = True  # the error is reported when the file is read
    named = [] if whole else walk(path.parent).pictures
    version = digest([_stat(path), *named])
    return Layout({"path": PARQUET, "data_files": {"train": glob.escape(str(path))}}, [path], version)


def _stat(path: Path) -> File:
    state = path.stat()
    return File(path.name, str(path), state.st_size, state.st_mtime_ns)


def _columns_of(path: Path) -> Any:
    with open_regular(path, follow_link=False) as opened:
        return datasets.Features.from_arrow_schema(pq.read_schema(opened))


def _holds_pictures(file: File, source: GallerySource, found: Walk) -> bool:
    """Return whether a Parquet file has a column of images; one that cannot be read counts only beside images."""
    try:
        features = _columns_of(Path(file.target))
    except SCHEMA_ERRORS as error:
        if found.pictures:
            return False
        raise GalleryError(
            f"The Parquet file `{printable(file.id)}` in {source.dataset!r} cannot be read: {reason(error)}. "
            "Replace it or remove it."
        ) from error
    return source.image_column in features or any(map(is_image_column, features.values()))


def is_image_column(feature: Any) -> bool:
    """Return whether a column holds images, judged by its type."""
    # Parquet files that were not written by datasets store an image as a struct of bytes and path.
    return isinstance(feature, datasets.Image) or (isinstance(feature, dict) and set(feature) == {"bytes", "path"})


def _parquet_layout(found: Walk, files: list[File], source: GallerySource) -> Layout:
    """Return how to read the Parquet files of a folder, as its README configures or else all of them."""
    notes, ignored = found.notes, found.ignored - Counter({".parquet": len(files)})
    if found.pictures:
        notes = [*notes, f"Image files, read only if a row of a Parquet file names them: {len(found.pictures):,}."]
    paths = [found.root / file.path for file in files]
    readme = found.root / README
    card = [_stat(readme)] if readme.is_file() else []
    version = digest([*found.readable, *found.metadata, *found.pictures, *card])
    if source.config or _is_configured(found.root):
        if glob.has_magic(str(found.root)):
            raise GalleryError(
                f"The path {source.dataset!r} contains one of the characters [ ] * ?, which datasets reads as "
                "a pattern. Rename the folder, or name one Parquet file in it."
            )
        return Layout({"path": str(found.root)}, paths, version, ignored, notes)
    data_files: dict[str, list[str]] = {}
    for file, path in zip(files, paths, strict=True):
        data_files.setdefault(split_of_file(file.path), []).append(glob.escape(str(path)))
    return Layout({"path": PARQUET, "data_files": data_files}, paths, version, ignored, notes)


def _is_configured(folder: Path) -> bool:
    """Return whether a folder's README names the files of its splits."""
    readme = folder / README
    return readme.is_file() and "configs" in (metadata_load(readme) or {})


def unread_files(layout: Layout, builder: Any) -> list[str]:
    """Return a sentence about the files that the folder's README does not name, if there are any."""
    read = {os.path.realpath(file) for files in builder.config.data_files.values() for file in files}
    unread = [file.name for file in layout.files if os.path.realpath(file) not in read]
    return [f"Not read, since the README does not name them: {listed(unread)}."] if unread else []


@contextmanager
def naming_damaged(layout: Layout | None) -> Iterator[None]:
    """If reading a local dataset fails, name the file that is damaged."""
    try:
        yield
    except GalleryError:
        raise
    except Exception as error:
        for file in layout.files if layout else ():
            if damage := _damage(file):
                raise GalleryError(
                    f"The file `{printable(str(file))}` cannot be read: {damage}. Replace it or remove it."
                ) from error
        raise


def _damage(file: Path) -> str:
    """Return why a Parquet file cannot be read to its end, or "" if it can."""
    try:
        with pq.ParquetFile(file) as table:
            for _ in table.iter_batches():
                pass
    except (OSError, ValueError, pa.ArrowException) as error:
        return reason(error).rstrip(".")
    return ""


def reason(error: BaseException) -> str:
    """Return a one-line explanation of an error raised by datasets."""
    message = printable(" ".join(str(error).split()))[:300] or type(error).__name__
    return next((explanation for text, explanation in EXPLANATIONS.items() if text in message), message)
