"""Load images, for the builder and the search alike, so that an image always has the same pixels."""

import math
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from PIL import Image

from retrieval.errors import PictureError, PictureUnavailable
from retrieval.pictures.decoder import Decoders
from retrieval.pictures.decoding import FORMATS, MAX_PIXELS, explained, upright_rgb

MAX_BYTES = 64 * 2**20

DECODERS = Decoders()  # of this process; they start when they are first needed

PictureSource = bytes | Path | Image.Image


@dataclass(frozen=True)
class PictureLimits:
    """Which encoded images are decoded; by default those of the owner of this machine."""

    pixels: int = MAX_PIXELS  # at most that number
    formats: tuple[str, ...] = FORMATS


OWNER = PictureLimits()

Region = tuple[float, float, float, float]
"""Left, top, right and bottom, as shares of width and height from 0 to 1."""

WHOLE: Region = (0, 0, 1, 1)


@contextmanager
def open_regular(path: Path, follow_link: bool = True) -> Iterator[IO[bytes]]:
    """Open a file; raise OSError if it is not a regular one, or is a symbolic link and not `follow_link`."""
    # Opening a pipe without O_NONBLOCK would wait for a writer.
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | (0 if follow_link else os.O_NOFOLLOW)
    with os.fdopen(os.open(path, flags), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):  # reading a device or a pipe might never end
            raise OSError("it is not a regular file")
        yield file


def check_size(size: int) -> None:
    """Raise PictureError if an image file of so many bytes is empty or above `MAX_BYTES`."""
    if size > MAX_BYTES:
        raise PictureError(
            f"The image file has {size / 2**20:.0f} MB; the limit is {MAX_BYTES // 2**20} MB. Save it smaller."
        )
    if not size:
        raise PictureError("The image file is empty (0 bytes). Choose another file.")


def read_bytes(source: bytes | Path, follow_link: bool = True) -> bytes:
    """Return the encoded bytes of an image; raise PictureError if it is unreadable, empty or above `MAX_BYTES`.

    Unless `follow_link`, a file that is a symbolic link is unreadable.
    """
    if isinstance(source, Path):
        try:
            with open_regular(source, follow_link) as file:
                size = os.fstat(file.fileno()).st_size
                data = file.read(MAX_BYTES + 1) if size <= MAX_BYTES else b""
        except (OSError, ValueError) as error:  # ValueError: the name contains a NUL character
            reason = getattr(error, "strerror", None) or error
            raise PictureUnavailable(
                f"The image file {source.name!r} cannot be read: {reason}. Choose another file."
            ) from error
    else:
        size, data = len(source), source
    check_size(size)
    return data


def load_picture(source: PictureSource, limits: PictureLimits = OWNER) -> Image.Image:
    """Return an image upright, in RGB, with transparency on white.

    Applies the EXIF orientation, uses the first frame of an animation and scales 16-bit and float channels to 8 bits.
    Colour profiles are not applied, as in CLIP's published preprocessing. An encoded image is decoded in a process of
    its own. Raise PictureError if the source is not an image within the limits, is damaged or empty.
    """
    if isinstance(source, Image.Image):
        with explained(limits.pixels):
            picture = upright_rgb(source, limits.pixels).copy()
        picture.info = {}  # otherwise the EXIF orientation would be applied again later
        return picture
    return DECODERS.decode(read_bytes(source), limits.pixels, limits.formats)


def cut_out(picture: Image.Image, region: Region) -> Image.Image:
    """Return a region of an image, at least one pixel; the region has left < right and top < bottom."""
    left, top, right, bottom = region
    width, height = picture.size
    x, y = min(int(left * width), width - 1), min(int(top * height), height - 1)
    return picture.crop((x, y, max(x + 1, math.ceil(right * width)), max(y + 1, math.ceil(bottom * height))))


def fit_within(picture: Image.Image, longest: int) -> Image.Image:
    """Return the image shrunk (never enlarged) so that its longer side has at most `longest` pixels."""
    copy = picture.copy()
    copy.thumbnail((longest, longest), Image.Resampling.HAMMING, reducing_gap=3.0)  # twice as fast as Lanczos
    return copy
