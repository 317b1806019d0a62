"""Bytes, a path or a PIL image become an upright RGB picture; the one place where bad pictures are judged.

Builder and query share `load_picture`, so a picture gets the same pixels wherever it comes from.
"""

import io
import math
import stat
import struct
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError
from PIL.ExifTags import Base as Exif

from retrieval.errors import PictureError

MAX_PIXELS = 80_000_000  # a 2026 phone's 50 MP with room to spare; decoded it takes 240 MB
MAX_BYTES = 64 * 2**20
WHITE = (255, 255, 255)
STRIP = 64  # rows converted at once, so that wider copies of a picture stay small

# Formats whose decoders start no other program and fetch nothing. Pillow's EPS decoder would run Ghostscript.
# The two pictures of a stereo camera (MPO) are opened by the JPEG decoder, and are no format of their own here.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "PPM", "TGA", "ICO", "JPEG2000")

# Times that a decoder may read from a file. Files of nothing but tiny parts would keep it busy for minutes; of a GIF's
# comment, Pillow copies all at each part. A PNG of 64 MB, in parts of 8 kB, is read 25,000 times.
MAX_READS = 100_000
MAX_READS_GIF = 10_000

# What Pillow's decoders raise on damaged files; found by changing bytes of good ones.
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

TURNS: dict[object, Image.Transpose] = {
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
"""Left, top, right and bottom as shares of width and height, from 0 to 1."""


def read_bytes(source: bytes | Path) -> bytes:
    """Return the encoded bytes of a picture.

    Raises:
        PictureError: the file cannot be read, is empty or is larger than `MAX_BYTES`.
    """
    if isinstance(source, Path):
        unreadable = f"The picture file {source.name!r} cannot be read"
        try:
            state = source.stat()
            if not stat.S_ISREG(state.st_mode):  # a device or a pipe may never end
                raise PictureError(f"{unreadable}: it is no file. Choose another one.")
            size = state.st_size
            data = source.read_bytes() if size <= MAX_BYTES else b""
        except (OSError, ValueError) as error:  # ValueError: a name with a NUL in it
            reason = getattr(error, "strerror", None) or error
            raise PictureError(f"{unreadable}: {reason}. Choose another file.") from error
    else:
        size, data = len(source), source
    if size > MAX_BYTES:
        raise PictureError(
            f"The picture file has {size / 2**20:.0f} MB; the limit is {MAX_BYTES // 2**20} MB. Save it smaller."
        )
    if not size:
        raise PictureError("The picture file is empty (0 bytes). Choose another file.")
    return data


def load_picture(source: PictureSource, most: int = MAX_PIXELS) -> Image.Image:
    """Return the picture upright, in RGB, with transparency laid on white.

    EXIF orientation is applied; of an animation the first frame is taken; 16-bit and float channels are
    scaled to 8 bits. Colour profiles are not applied, as in CLIP's published preprocessing.

    Args:
        source: encoded bytes, the path of a file, or a PIL image.
        most: pixels it may have; no more than `MAX_PIXELS` counts.

    Raises:
        PictureError: not a picture, damaged, empty, or larger than the limits.
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
            "That file is not a picture this program can read. Use JPEG, PNG, WebP, GIF, BMP, TIFF or AVIF."
        ) from error
    except DECODER_ERRORS as error:
        raise PictureError(
            "The picture is damaged or cut off and cannot be decoded. Save it again or choose another."
        ) from error


class _Encoded(io.BytesIO):
    """A file in memory that can be read only so many times."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self._left = MAX_READS_GIF if data.startswith(b"GIF") else MAX_READS

    def read(self, size: int | None = -1, /) -> bytes:
        self._left -= 1
        if self._left < 0:
            raise OSError("too many parts")
        return super().read(size)


def cut_out(picture: Image.Image, region: Region) -> Image.Image:
    """Return a part of a picture, of at least one pixel.

    Args:
        picture: any picture.
        region: left < right and top < bottom.
    """
    left, top, right, bottom = region
    width, height = picture.size
    x, y = min(int(left * width), width - 1), min(int(top * height), height - 1)
    return picture.crop((x, y, max(x + 1, math.ceil(right * width)), max(y + 1, math.ceil(bottom * height))))


def fit_within(picture: Image.Image, longest: int) -> Image.Image:
    """Return the RGB picture shrunk (never enlarged) so that its longer side is at most `longest` pixels."""
    copy = picture.copy()
    copy.thumbnail((longest, longest), Image.Resampling.HAMMING, reducing_gap=3.0)  # half the time of Lanczos
    return copy


def _too_large(most: int, size: tuple[int, int] | None = None) -> str:
    shape = f" ({size[0]:,} x {size[1]:,})" if size else ""
    return f"The picture has too many pixels{shape}; the limit is {most // 10**6} megapixels. Shrink it."


def _check_size(size: tuple[int, int], most: int) -> None:
    if size[0] * size[1] > most:
        raise PictureError(_too_large(most, size))
    if min(size) < 1:
        raise PictureError("The picture has no pixels. Choose another file.")


def _to_upright_rgb(image: Image.Image, most: int) -> Image.Image:
    _check_size(image.size, most)
    image.load()
    turn = TURNS.get(_orientation(image))
    upright = image if turn is None else image.transpose(turn)
    if upright.mode.startswith("I") or upright.mode == "F":
        return _to_eight_bits(upright).convert("RGB")
    if upright.has_transparency_data:
        canvas = Image.new("RGB", upright.size, WHITE)
        for top in range(0, upright.height, STRIP):
            strip = upright.crop((0, top, upright.width, min(top + STRIP, upright.height))).convert("RGBA")
            canvas.paste(strip, (0, top), strip.getchannel("A"))
        return canvas
    picture = upright.convert("RGB")
    picture.info = {}  # with its EXIF kept, the picture would be turned again
    return picture


def _orientation(image: Image.Image) -> object:
    """Return the EXIF orientation; of metadata that is damaged, none, since the pixels may well be sound."""
    try:
        return image.getexif().get(Exif.Orientation)
    except (SyntaxError, ValueError, struct.error):
        return None


def _to_eight_bits(image: Image.Image) -> Image.Image:
    """Scale wide channels to 0..255: 16-bit by its full range, float by 1.0 or by the largest value."""
    values = np.asarray(image)
    strips = [slice(start, start + STRIP) for start in range(0, len(values), STRIP)]
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
