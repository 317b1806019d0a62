"""A folder of images as a gallery: one item per image file, in the order of the relative paths."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path, PurePosixPath

from retrieval.gallery.metadata import NOTHING, Metadata, caption_of_json
from retrieval.gallery.source import GallerySource, Item, folder_label, one_line
from retrieval.gallery.splits import select, split_folders
from retrieval.gallery.walk import File, Walk, digest
from retrieval.pictures.loading import read_bytes


class FolderRows:
    """The images of a folder that a source selects.

    `version` identifies the content; by default it is derived from the names, sizes and times of the files.

    Raises:
        GalleryError: the folder has no such split or column.
    """

    def __init__(self, source: GallerySource, found: Walk, version: str = "") -> None:
        self._source = source
        folders = split_folders(file.path for file in found.pictures)
        groups = {
            split: [(file, len(PurePosixPath(folder).parts)) for file in _below(found.pictures, folder)]
            for split, folder in folders.items()
        }
        self._files, left_out = select(source, groups)
        beside = {file.path: file for file in found.with_suffix(".json")}
        self._json = {
            file.path: beside.get(str(PurePosixPath(file.path).with_suffix(".json"))) for file, _ in self._files
        }
        metadata = Metadata(found.metadata, found.pictures, source)
        metadata.check_columns([source.caption_column or "caption"] if any(self._json.values()) else [])
        self._about = metadata.about
        self.ignored = dict(found.ignored)
        self.notes = [*found.notes, *metadata.notes, *left_out]
        texts = [file for file in self._json.values() if file]
        self.version = version or digest([*found.pictures, *found.metadata, *texts])

    @property
    def total(self) -> int:
        """The number of images."""
        return len(self._files)

    @property
    def labelled(self) -> bool:
        """Whether any image has a label."""
        return any(self._label(file, depth) for file, depth in self._files)

    def items(self) -> Iterator[Item]:
        """Yield all items. Only captions are read from files, not the images."""
        for row, (file, depth) in enumerate(self._files):
            about = self._about.get(file.path, NOTHING)
            text = self._json[file.path]
            yield Item(
                row=row,
                id=file.id,
                label=self._label(file, depth),
                caption=about.caption
                or (caption_of_json(text, self._source.caption_column) if text else "")
                or one_line(PurePosixPath(file.path).stem),
                read=partial(read_bytes, Path(file.target), follow_link=False),
                stamp=file.stamp,
                author=about.author,
                license=about.license,
            )

    def _label(self, file: File, depth: int) -> str:
        """Return an image's label; the first `depth` folders of its path are a split's."""
        about = self._about.get(file.path, NOTHING)
        return folder_label(self._source.labels, about.label, PurePosixPath(file.path).parts[depth:-1])


def _below(files: list[File], folder: str) -> list[File]:
    return [file for file in files if file.path.startswith(f"{folder}/")] if folder else files
