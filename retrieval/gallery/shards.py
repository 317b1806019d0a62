"""A webdataset as a gallery: archives (`.tar`) of images, each with a caption and a class in files of the same name."""

import json
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from retrieval import hub
from retrieval.errors import GalleryError, PictureError, PictureUnavailable
from retrieval.gallery.source import GallerySource, Item, folder_label, one_line, valid_unicode
from retrieval.gallery.splits import select, split_of_file
from retrieval.gallery.walk import File, digest
from retrieval.labels import printable
from retrieval.pictures.decoding import SUFFIXES
from retrieval.pictures.loading import check_size, open_regular

TEXTS = {".json", ".txt", ".cls"}


@dataclass(frozen=True)
class Member:
    """A file in an archive, where its bytes are, and the texts that belong to it by suffix."""

    shard: File
    path: str
    start: int
    size: int | None  # None unless it is a regular file that is stored as it is
    texts: dict[str, "Member"] = field(default_factory=dict)

    def read(self) -> bytes:
        """Return the bytes; raise PictureError if they cannot be read."""
        if self.size is None:
            raise PictureError("The member of the archive is not a regular file.")
        check_size(self.size)
        try:
            with open_regular(Path(self.shard.target), follow_link=False) as file:
                file.seek(self.start)
                return file.read(self.size)
        except OSError as error:
            raise PictureUnavailable(f"The archive cannot be read: {error.strerror or error}.") from error

    def text(self, suffix: str) -> str:
        """Return a text that belongs to an image, or "" if there is none."""
        try:
            return self.texts[suffix].read().decode() if suffix in self.texts else ""
        except (PictureError, UnicodeDecodeError):
            return ""


class ShardRows:
    """The images of archives that a source selects, in the order of the archives.

    Raises:
        GalleryError: an archive is damaged, or there is no such split, or no image.
    """

    labelled = True

    def __init__(
        self, source: GallerySource, shards: Sequence[File], ignored: Mapping[str, int], notes: Sequence[str]
    ) -> None:
        self._source = source
        groups: dict[str, list[Member]] = {}
        for shard in shards:
            groups.setdefault(split_of_file(shard.path), []).extend(_pictures(shard, source.image_column))
        self._members, left_out = select(source, groups)
        self.ignored = dict(ignored)
        self.notes = [*notes, *left_out]
        self.version = digest(shards)

    @property
    def total(self) -> int:
        """The number of images."""
        return len(self._members)

    def items(self) -> Iterator[Item]:
        """Yield all items. Only captions and classes are read, not the images."""
        source = self._source
        for row, member in enumerate(self._members):
            values = {"txt": member.text(".txt"), "cls": member.text(".cls"), **_parsed(member.text(".json"))}
            caption = values.get(source.caption_column or "txt") or values.get("caption")
            folders = PurePosixPath(member.path).parts[:-1]
            yield Item(
                row=row,
                id=valid_unicode(f"{member.shard.path}/{member.path}"),
                label=folder_label(source.labels, one_line(values.get(source.label_column or "cls")), folders),
                caption=one_line(caption or PurePosixPath(member.path).stem),
                read=member.read,
                stamp=None,
                author=one_line(values.get("author")),
                license=one_line(values.get("license")),
            )


def _parsed(text: str) -> dict[str, Any]:
    try:
        values = json.loads(text or "{}")
    except (ValueError, RecursionError):
        return {}
    return values if isinstance(values, dict) else {}


def _pictures(shard: File, column: str | None) -> list[Member]:
    """Return the images of an archive, with their texts; if a `column` is given, those with that suffix."""
    wanted = SUFFIXES if column is None else {f".{column.lower()}"}
    pictures, texts = list[Member](), dict[str, dict[str, Member]]()
    for member in _members(shard):
        key, suffix = str(PurePosixPath(member.path).with_suffix("")), PurePosixPath(member.path).suffix.lower()
        belonging = texts.setdefault(key, {})
        if suffix in wanted:
            pictures.append(Member(shard, member.path, member.start, member.size, belonging))
        elif suffix in TEXTS:
            belonging[suffix] = member
    return pictures


def _members(shard: File) -> Iterator[Member]:
    try:
        with (
            open_regular(Path(shard.target), follow_link=False) as file,
            tarfile.open(fileobj=file, mode="r:", errors="surrogateescape") as archive,
        ):
            for info in archive:
                if info.size < 0:  # the next member would be this one again, without end
                    raise tarfile.TarError(f"the size of {printable(info.name)} is negative")
                if not info.isdir() and not PurePosixPath(info.name).name.startswith((".", "__")):
                    plain = info.isreg() and not info.issparse()
                    yield Member(shard, info.name, info.offset_data, info.size if plain else None)
                archive.members = []  # type: ignore[attr-defined]  # otherwise they all stay in memory
    except (OSError, ValueError, EOFError, tarfile.TarError) as error:
        raise GalleryError(
            f"The archive `{printable(shard.id)}` cannot be read: {hub.first_line(error)}. Replace it or remove it."
        ) from error
