"""Metadata of encoded images: read the orientation, and refuse what would exhaust memory or time before it is copied.

A TIFF directory (also in EXIF) lists values by offset and length. Thousands of entries may name the same megabytes, and
Pillow copies them for each entry. A JPEG may consist of thousands of scans, each of which passes over the whole image.
"""

import re
import struct
from collections.abc import Iterator
from typing import IO, Any

from PIL import TiffImagePlugin

MAX_SCANS = 100  # of a JPEG; encoders write up to a few dozen
ORIENTATION = 0x0112
EXIF_PREFIX = b"Exif\0\0"

# JPEG markers, see ITU-T T.81, table B.1.
APP0, APP1, APP14, COMMENT, START_OF_SCAN, END = 0xE0, 0xE1, 0xEE, 0xFE, 0xDA, 0xD9
SCAN = bytes((0xFF, START_OF_SCAN))
WITHOUT_LENGTH = {0x01, *range(0xD0, 0xD9)}
APPLICATION = set(range(APP0, 0xF0)) - {APP0, APP14}  # JFIF and Adobe say how colours are stored; the rest is metadata
NEXT_MARKER = re.compile(rb"\xff+[^\x00\xd0-\xd7\xff]")  # after a scan, whose data may contain only these markers

# Bytes of one value by TIFF type, see TIFF 6.0, section 2, and BigTIFF for 16 to 18.
TYPE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}


class TooManyScans(ValueError):
    """A JPEG has more scans than any real one."""


def orientation_of(exif: bytes) -> int | None:
    """Return the EXIF orientation (1 to 8) of an EXIF block, or None if there is none or the block is damaged."""
    block = exif.removeprefix(EXIF_PREFIX)
    order = {b"II": "<", b"MM": ">"}.get(block[:2])
    try:
        if order is None:
            return None
        (first,) = struct.unpack_from(f"{order}L", block, 4)
        (entries,) = struct.unpack_from(f"{order}H", block, first)
        for at in range(first + 2, first + 2 + 12 * entries, 12):
            tag, kind, _, value = struct.unpack_from(f"{order}HHLH", block, at)
            if tag == ORIENTATION:
                return value if kind == 3 and 1 <= value <= 8 else None
    except struct.error:  # the block ends early
        pass
    return None


def plain_jpeg(data: bytes) -> tuple[bytes, bytes]:
    """Return a JPEG without its metadata, and its EXIF block (empty if there is none).

    Raise TooManyScans if it has more than `MAX_SCANS`. From the first damage on, the data stays as it is.
    """
    kept, exif, end = [data[:2]], b"", 2
    for marker, start, end in _segments(data, scanned=False):
        if marker == APP1 and not exif and data.startswith(EXIF_PREFIX, start + 4):
            exif = data[start + 4 : end]
        if marker not in APPLICATION and marker != COMMENT:
            kept.append(data[start:end])
    # Counting the bytes is fast; only files with something appended, such as a video, need the exact number.
    if data.count(SCAN, end) > MAX_SCANS:
        scans = sum(marker == START_OF_SCAN for marker, _, _ in _segments(data, scanned=True))
        if scans > MAX_SCANS:
            raise TooManyScans
    return b"".join((*kept, data[end:])), exif


def _segments(data: bytes, scanned: bool) -> Iterator[tuple[int, int, int]]:
    """Yield the marker, start and end of each segment of a JPEG up to its end or its first damage.

    Unless `scanned`, stop at the first scan, since the bytes of the scans have to be searched for the next marker.
    """
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        start, marker = at, data[at + 1]
        if marker == 0xFF:  # a fill byte
            at += 1
            continue
        if marker == END or (marker == START_OF_SCAN and not scanned):
            return
        if marker in WITHOUT_LENGTH:
            at += 2
        else:
            at += 2 + int.from_bytes(data[at + 2 : at + 4])
            if marker == START_OF_SCAN:
                found = NEXT_MARKER.search(data, at)
                at = found.start() if found else len(data)
        yield marker, start, min(at, len(data))


def limit_directories() -> None:
    """Make Pillow add up the sizes of a TIFF directory's values before it reads them, in all formats that have one.

    Pillow then raises ValueError if they are larger than the whole file, so that they must overlap.
    """
    directory = TiffImagePlugin.ImageFileDirectory_v2
    load = directory.load

    def load_bounded(self: Any, file: IO[bytes]) -> None:
        start = file.tell()
        _check_directory(file, self._endian, self._bigtiff)
        file.seek(start)
        load(self, file)

    directory.load = load_bounded  # type: ignore[assignment, method-assign]  # for the whole process


def _check_directory(file: IO[bytes], order: str, big: bool) -> None:
    start = file.tell()
    size = file.seek(0, 2)
    file.seek(start)
    count, entry = ("Q", "HHQQ") if big else ("H", "HHLL")
    count_bytes, entry_bytes = struct.calcsize(f"={count}"), struct.calcsize(f"={entry}")
    counted = file.read(count_bytes)
    if len(counted) < count_bytes:
        return  # cut off, which Pillow reports
    (entries,) = struct.unpack(order + count, counted)
    if entries * entry_bytes > size:
        raise ValueError("the directory is larger than the file")
    table = file.read(entries * entry_bytes)
    table = table[: len(table) // entry_bytes * entry_bytes]
    values = sum(n * TYPE_BYTES.get(kind, 0) for _, kind, n, _ in struct.iter_unpack(order + entry, table))
    if values > size:
        raise ValueError("the directory's values are larger than the file")
