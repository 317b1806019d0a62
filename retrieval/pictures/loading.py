"""Decode images, for the builder and the search alike, so that an image always has the same pixels."""

import io
import math
import stat
import struct
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError
from PIL.ExifTags import Base as Exif
from typing_extensions import override

from retrieval.errors import PictureError

MAX_PIXELS = 80_000_000  # more than the 50 MP of current phones; takes 240 MB when decoded
MAX_BYTES = 64 * 2**20
WHITE = (255, 255, 255)
STRIP_ROWS = 64  # converted at once, so that intermediate copies with wider pixels stay small

# Formats whose decoders start no other program and fetch nothing; Pillow's EPS decoder would run Ghostscript.
# Stereo images (MPO) are opened by the JPEG decoder and need no entry.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "PPM", "TGA", "ICO", "JPEG2000")

# How often a decoder may read from a file. A file of nothing but tiny chunks would keep it busy for minutes, and Pillow
# copies the whole comment of a GIF with each chunk of it. A PNG of 64 MB, in chunks of 8 kB, takes 25,000 reads.
MAX_READS = 100_000
MAX_READS_GIF = 10_000

# What Pillow's decoders raise on damaged files; found by changing bytes of valid files.
DECODER_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    TypeError,
    MemoryError,
    RuntimeError,
    AssertionError,
    OverflowError,
    struct.error,
)

# EXIF orientation -> the operation that makes the image upright.
UPRIGHT: dict[object, Image.Transpose] = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

Image.MAX_IMAGE_PIXELS = MAX_PIXELS

PictureSource = bytes | Path | Image.Image

Region = tuple[float, float, float, float]
"""Left, top, right and bottom, as shares of width and height from 0 to 1."""


def read_bytes(source: bytes | Path) -> bytes:
    """Return the encoded bytes of an image; raise PictureError if it is unreadable, empty or above `MAX_BYTES`."""
    if isinstance(source, Path):
        unreadable = f"The image file {source.name!r} cannot be read"
        try:
            state = source.stat()
            if not stat.S_ISREG(state.st_mode):  # reading a device or a pipe might never end
                raise PictureError(f"{unreadable}: it is not a regular file. Choose another file.")
            size = state.st_size
            data = source.read_bytes() if size <= MAX_BYTES else b""
        except (OSError, ValueError) as error:  # ValueError: the name contains a NUL character
            reason = getattr(error, "strerror", None) or error
            raise PictureError(f"{unreadable}: {reason}. Choose another file.") from error
    else:
        size, data = len(source), source
    if size > MAX_BYTES:
        raise PictureError(
            f"The image file has {size / 2**20:.0f} MB; the limit is {MAX_BYTES // 2**20} MB. Save it smaller."
        )
    if not size:
        raise PictureError("The image file is empty (0 bytes). Choose another file.")
    return data


def load_picture(source: PictureSource, most: int = MAX_PIXELS) -> Image.Image:
    """Return an image upright, in RGB, with transparency on white.

    Applies the EXIF orientation, uses the first frame of an animation and scales 16-bit and float channels to 8 bits.
    Colour profiles are not applied, as in CLIP's published preprocessing. `most` is the maximum number of pixels, up to
    `MAX_PIXELS`. Raise PictureError if the source is not an image, is damaged, empty or too large.
    """
    try:
        if isinstance(source, Image.Image):
            return _to_upright_rgb(source, most)
        with Image.open(_Encoded(read_bytes(source)), formats=FORMATS) as image:
            return _to_upright_rgb(image, most)
    except PictureError:
        raise
    except Image.DecompressionBombError as error:
        raise PictureError(_too_large(most)) from error
    except UnidentifiedImageError as error:
        raise PictureError(
            "That file is not an image this program can read. Use JPEG, PNG, WebP, GIF, BMP, TIFF or AVIF."
        ) from error
    except DECODER_ERRORS as error:
        raise PictureError(
            "The image is damaged or cut off and cannot be decoded. Save it again or choose another."
        ) from error


class _Encoded(io.BytesIO):
    """A file in memory that limits the number of reads."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self._reads_left = MAX_READS_GIF if data.startswith(b"GIF") else MAX_READS

    @override
    def read(self, size: int | None = -1, /) -> bytes:
        self._reads_left -= 1
        if self._reads_left < 0:
            raise OSError("too many chunks")
        return super().read(size)


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


def _too_large(most: int, size: tuple[int, int] | None = None) -> str:
    shape = f" ({size[0]:,} x {size[1]:,})" if size else ""
    return f"The image has too many pixels{shape}; the limit is {most // 10**6} megapixels. Shrink it."


def _to_upright_rgb(image: Image.Image, most: int) -> Image.Image:
    if image.width * image.height > most:
        raise PictureError(_too_large(most, image.size))
    if min(image.size) < 1:
        raise PictureError("The image has no pixels. Choose another file.")
    image.load()
    operation = UPRIGHT.get(_orientation(image))
    upright = image if operation is None else image.transpose(operation)
    if upright.mode.startswith("I") or upright.mode == "F":
        return _to_eight_bits(upright).convert("RGB")
    if upright.has_transparency_data:
        canvas = Image.new("RGB", upright.size, WHITE)
        for top in range(0, upright.height, STRIP_ROWS):
            strip = upright.crop((0, top, upright.width, min(top + STRIP_ROWS, upright.height))).convert("RGBA")
            canvas.paste(strip, (0, top), strip.getchannel("A"))
        return canvas
    picture = upright.convert("RGB")
    picture.info = {}  # otherwise the EXIF orientation would be applied again later
    return picture


def _orientation(image: Image.Image) -> object:
    """Return the EXIF orientation, or None if the metadata is damaged, since the pixels may still be valid."""
    try:
        return image.getexif().get(Exif.Orientation)
    except (SyntaxError, ValueError, struct.error):
        return None


def _to_eight_bits(image: Image.Image) -> Image.Image:
    """Scale channels to 0..255: 16-bit ones from their full range, float ones from 1.0, 255 or the largest value."""
    values = np.asarray(image)
    strips = [slice(start, start + STRIP_ROWS) for start in range(0, len(values), STRIP_ROWS)]
    top = max(float(np.nan_to_num(values[strip], nan=0, posinf=0, neginf=0).max(initial=0)) for strip in strips)
    if image.mode.startswith("I"):
        full = 65535.0 if top <= 65535 else top
    else:
        full = 1.0 if top <= 1 else 255.0 if top <= 255 else top
    narrow = np.empty(values.shape, np.uint8)
    for strip in strips:
        wide = np.nan_to_num(values[strip].astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
        narrow[strip] = np.clip(np.rint(wide / full * 255), 0, 255)
    return Image.fromarray(narrow)
