"""Decode an encoded image with Pillow. Only `worker` calls `decode`, in a process with limits on memory and time."""

import io
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
from PIL import (  # noqa: F401  # importing a plugin registers it; otherwise Pillow would import all 40 of them
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    IcoImagePlugin,
    Image,
    Jpeg2KImagePlugin,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TgaImagePlugin,
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
)
from typing_extensions import override

from retrieval.errors import PictureError
from retrieval.pictures.metadata import MAX_SCANS, TooManyScans, limit_directories, orientation_of, plain_jpeg

WHITE = (255, 255, 255)
STRIP_ROWS = 64  # converted at once, so that intermediate copies with wider pixels stay small

# Formats whose decoders start no other program and fetch nothing; Pillow's EPS decoder would run Ghostscript.
# Stereo images (MPO) are opened by the JPEG decoder and need no entry.
WEB_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "AVIF", "BMP")
FORMATS = (*WEB_FORMATS, "TIFF", "PPM", "TGA", "ICO", "JPEG2000", "HEIF")

# The usual suffixes of these formats, in lower case. A file with another suffix is not taken for an image.
SUFFIXES = {
    *(".jpg", ".jpeg", ".jpe", ".jif", ".jfif", ".mpo", ".png", ".apng", ".webp", ".gif", ".avif", ".avifs"),
    *(".bmp", ".dib", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".pfm", ".tga", ".icb", ".vda", ".vst", ".ico"),
    *(".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx", ".heic", ".heics", ".heif", ".heifs", ".hif"),
}

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
    RuntimeError,
    AssertionError,
    OverflowError,
    struct.error,
)

# EXIF orientation -> the operation that makes the image upright.
UPRIGHT: dict[int | None, Image.Transpose] = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

MAX_PIXELS = 80_000_000  # more than the 50 MP of current phones; takes 320 MB when decoded
Image.MAX_IMAGE_PIXELS = MAX_PIXELS
limit_directories()


def decode(
    data: bytes,
    most: int,
    formats: tuple[str, ...] = FORMATS,
    opened: Callable[[Image.Image], None] = lambda image: None,
) -> Image.Image:
    """Return an encoded image upright, in RGB, with transparency on white; see `loading.load_picture`.

    `opened` is called with the image before its pixels are decoded. Raise PictureError if the data is not an image
    in one of the formats, is damaged, or has more than `most` pixels.
    """
    exif = b""
    with explained(most):
        if data.startswith(b"\xff\xd8"):
            data, exif = plain_jpeg(data)
        formats = tuple(each for each in formats if each != "HEIF" or _heif_can_open(data))
        with Image.open(_Encoded(data), formats=formats) as image:
            return upright_rgb(image, most, exif, opened)


def _heif_can_open(data: bytes) -> bool:
    """Return whether an image may be HEIF; if so, load its decoder, which few processes need."""
    if data[4:8] != b"ftyp" or data[8:12] in (b"avif", b"avis"):
        return False
    from pillow_heif import register_heif_opener

    register_heif_opener(thumbnails=False, depth_images=False, aux_images=False)
    return True


@contextmanager
def explained(most: int) -> Iterator[None]:
    """Replace Pillow's errors by PictureError, which says what to do; `most` is the maximum number of pixels."""
    try:
        yield
    except Image.DecompressionBombError as error:
        raise PictureError(_too_large(most)) from error
    except UnidentifiedImageError as error:
        raise PictureError(
            "That file is not an image that can be read here. Use JPEG, PNG, WebP, GIF, BMP or AVIF."
        ) from error
    except MemoryError as error:
        raise PictureError("Decoding the image takes too much memory. Shrink it.") from error
    except TooManyScans as error:
        raise PictureError(
            f"The JPEG image has more than {MAX_SCANS} scans, so it is not decoded. Save it again or choose another."
        ) from error
    except DECODER_ERRORS as error:
        raise PictureError(
            "The image is damaged or cut off and cannot be decoded. Save it again or choose another."
        ) from error


def upright_rgb(
    image: Image.Image, most: int, exif: bytes = b"", opened: Callable[[Image.Image], None] = lambda image: None
) -> Image.Image:
    """Return an image of Pillow upright, in RGB, with transparency on white; it may be the same one.

    `exif` replaces its own EXIF block. Raise PictureError if it has no pixels or more than `most`.
    """
    if image.width * image.height > most:
        raise PictureError(_too_large(most, f" ({image.width:,} x {image.height:,})"))
    if min(image.size) < 1:
        raise PictureError("The image has no pixels. Choose another file.")
    opened(image)
    image.load()
    exif = exif or image.info.get("exif") or b""
    operation = UPRIGHT.get(orientation_of(exif) if isinstance(exif, bytes) else None)
    upright = image if operation is None else image.transpose(operation)
    if upright.mode.startswith("I") or upright.mode == "F":
        upright = _to_eight_bits(upright)
    elif upright.has_transparency_data:
        return _on_white(upright)
    return upright if upright.mode == "RGB" else upright.convert("RGB")


def _too_large(most: int, shape: str = "") -> str:
    return f"The image has too many pixels{shape}; the limit is {most // 10**6} megapixels. Shrink it."


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


def _on_white(image: Image.Image) -> Image.Image:
    canvas = Image.new("RGB", image.size, WHITE)
    for top in range(0, image.height, STRIP_ROWS):
        strip = image.crop((0, top, image.width, min(top + STRIP_ROWS, image.height))).convert("RGBA")
        canvas.paste(strip, (0, top), strip.getchannel("A"))
    return canvas


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
