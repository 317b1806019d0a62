import io
import os
import random
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from retrieval.errors import PictureError
from retrieval.pictures.loading import MAX_BYTES, MAX_PIXELS, fit_within, load_picture

RED, WHITE = (255, 0, 0), (255, 255, 255)
REMEDY = r"Choose another|Save it|Shrink it|Use JPEG"  # every error says what to do

Turn = Image.Transpose
STORED = {  # how each EXIF orientation stores an upright picture
    1: None,
    2: Turn.FLIP_LEFT_RIGHT,
    3: Turn.ROTATE_180,
    4: Turn.FLIP_TOP_BOTTOM,
    5: Turn.TRANSPOSE,
    6: Turn.ROTATE_90,
    7: Turn.TRANSVERSE,
    8: Turn.ROTATE_270,
}


def encode(picture, kind="PNG", **options):
    data = io.BytesIO()
    picture.save(data, kind, **options)
    return data.getvalue()


def noise(width=24, height=20):
    values = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


def blocks():
    """A wide picture of four plain quarters that survives JPEG and looks different in every orientation."""
    quarters = np.array([[(255, 0, 0), (0, 255, 0)], [(0, 0, 255), (255, 255, 0)]], np.uint8)
    return Image.fromarray(quarters.repeat(32, axis=0).repeat(48, axis=1))


def png(width, height, depth=8, colour=2, rows=b""):
    """Return a PNG with the given header and pixel data."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def pixel(source):
    return load_picture(source).getpixel((0, 0))


def test_transparency_becomes_white():
    picture = Image.new("RGBA", (2, 1), (0, 0, 0, 0))
    picture.putpixel((1, 0), (255, 0, 0, 128))
    loaded = load_picture(encode(picture))
    assert loaded.mode == "RGB"
    assert [loaded.getpixel((x, 0)) for x in (0, 1)] == [WHITE, (255, 127, 127)]


def test_transparent_palette_entry_becomes_white():
    picture = Image.new("P", (2, 1))
    picture.putpalette([255, 0, 0, 0, 0, 255])
    picture.putpixel((1, 0), 1)
    loaded = load_picture(encode(picture, transparency=1))
    assert [loaded.getpixel((x, 0)) for x in (0, 1)] == [RED, WHITE]


def test_grey_becomes_three_equal_channels():
    assert pixel(encode(Image.new("L", (3, 3), 77))) == (77, 77, 77)


def test_grey_with_alpha_gets_a_white_background():
    assert pixel(encode(Image.new("LA", (3, 3), (0, 128)))) == (127, 127, 127)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bit_grey_is_scaled_to_eight_bits(kind):
    values = np.array([[0, 32768, 65535]], np.uint16)
    loaded = load_picture(encode(Image.fromarray(values), kind))
    assert [loaded.getpixel((x, 0))[0] for x in range(3)] == [0, 128, 255]


def test_sixteen_bit_colour_is_scaled_to_eight_bits():
    assert pixel(png(1, 1, depth=16, colour=2, rows=b"\0" + struct.pack(">HHH", 32768, 65535, 0))) == (128, 255, 0)


def test_nan_and_infinity_become_black():
    values = np.array([[np.nan, np.inf, 0.5, 1.0]], np.float32)
    loaded = load_picture(encode(Image.fromarray(values), "TIFF"))
    assert [loaded.getpixel((x, 0))[0] for x in range(4)] == [0, 0, 128, 255]


def test_cmyk_is_converted_to_rgb():
    red, green, blue = pixel(encode(Image.new("CMYK", (16, 16), (255, 0, 0, 0)), "JPEG"))
    assert red < 10 and green > 245 and blue > 245


@pytest.mark.parametrize("kind", ["GIF", "WEBP"])
def test_first_frame_of_an_animation_is_used(kind):
    frames = [Image.new("RGB", (16, 16), colour) for colour in ((0, 0, 255), RED)]
    data = encode(frames[0], kind, save_all=True, append_images=frames[1:], duration=100)
    red, _, blue = pixel(data)
    assert blue > 240 and red < 10


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", STORED)
def test_every_exif_orientation_gives_the_same_upright_picture(kind, orientation):
    upright, turn = blocks(), STORED[orientation]
    stored = upright if turn is None else upright.transpose(turn)
    exif = Image.Exif()
    exif[0x0112] = orientation
    loaded = load_picture(encode(stored, kind, exif=exif, quality=100))
    assert loaded.size == upright.size
    corners = [(8, 8), (80, 8), (8, 56), (80, 56)]
    difference = [np.subtract(loaded.getpixel(at), upright.getpixel(at)) for at in corners]
    assert np.abs(difference).max() < 10


def test_loaded_picture_is_not_rotated_again():
    exif = Image.Exif()
    exif[0x0112] = 6
    once = load_picture(encode(blocks().transpose(Turn.ROTATE_90), exif=exif))
    assert load_picture(once).tobytes() == once.tobytes() == blocks().tobytes()


def test_damaged_metadata_does_not_affect_the_picture():
    orientation = struct.pack("<HHII", 0x0112, 3, 1, 6)
    width_in_letters = struct.pack("<HHI4s", 0x0100, 2, 4, b"wide")
    exif = b"Exif\0\0II*\0\x08\0\0\0\x02\0" + width_in_letters + orientation + bytes(4)
    loaded = load_picture(encode(blocks().transpose(Turn.ROTATE_90), exif=exif))
    assert loaded.tobytes() == blocks().tobytes()


def test_first_view_of_a_stereo_picture_is_used():
    data = encode(blocks(), "MPO", save_all=True, append_images=[noise(96, 64)])
    assert np.abs(np.subtract(pixel(data), RED)).max() < 10


@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (3000, 1)])
def test_tiny_pictures_are_accepted(size):
    assert load_picture(encode(Image.new("RGB", size, RED))).size == size


def test_bytes_path_and_picture_give_the_same_pixels(tmp_path):
    picture = noise()
    file = tmp_path / "noise.png"
    file.write_bytes(encode(picture))
    loaded = [load_picture(source).tobytes() for source in (file.read_bytes(), file, picture)]
    assert loaded == [picture.tobytes()] * 3


def test_given_picture_is_not_modified():
    picture = Image.new("RGBA", (4, 4), (9, 9, 9, 9))
    load_picture(picture)
    assert picture.mode == "RGBA" and picture.getpixel((0, 0)) == (9, 9, 9, 9)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_error_for_truncated_files(kind):
    data = encode(noise(), kind)
    with pytest.raises(PictureError, match=f"damaged or cut off.*({REMEDY})"):
        load_picture(data[: len(data) * 9 // 10])


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "AVIF", "PPM", "TGA", "ICO", "JPEG2000"])
def test_files_with_changed_bytes_are_read_or_refused_with_a_message(kind):
    good, chance, refused = encode(noise(), kind), random.Random(0), 0
    for _ in range(300):
        data = bytearray(good)
        for _ in range(chance.choice((1, 4, 16))):
            data[chance.randrange(chance.choice((64, len(data))))] = chance.randrange(256)
        try:
            load_picture(bytes(data))
        except PictureError:
            refused += 1
    assert refused


def test_error_for_a_picture_object_of_a_truncated_file():
    data = encode(noise(), "JPEG")
    with pytest.raises(PictureError, match=f"damaged.*({REMEDY})"):
        load_picture(Image.open(io.BytesIO(data[: len(data) * 9 // 10])))


def test_error_for_empty_files(tmp_path):
    (tmp_path / "empty.png").touch()
    for source in (tmp_path / "empty.png", b""):
        with pytest.raises(PictureError, match=f"empty.*({REMEDY})"):
            load_picture(source)


@pytest.mark.parametrize("text", ["hello\n" * 40, "<html><body>404</body></html>", "%!PS-Adobe-3.0 EPSF-3.0\n", "x"])
def test_error_for_text_files_named_like_a_picture(tmp_path, text):
    file = tmp_path / "picture.png"
    file.write_text(text)
    with pytest.raises(PictureError, match=f"not an image.*({REMEDY})"):
        load_picture(file)


@pytest.mark.parametrize("size", [(50_000, 50_000), (9_000, 9_000), (1, MAX_PIXELS + 1)])
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_decompression_bombs_are_refused_from_the_header(size):
    data = png(*size)
    assert len(data) < 100
    with pytest.raises(PictureError, match=f"too many pixels.*80 megapixels.*({REMEDY})"):
        load_picture(data)


def test_error_for_a_picture_without_pixels():
    with pytest.raises(PictureError, match=f"no pixels.*({REMEDY})"):
        load_picture(Image.new("RGB", (0, 5)))


def test_huge_files_are_refused_without_reading_them(tmp_path):
    file = tmp_path / "huge.png"
    file.touch()
    os.truncate(file, MAX_BYTES + 1)  # a sparse file that takes no disk space
    with pytest.raises(PictureError, match=f"limit is 64 MB.*({REMEDY})"):
        load_picture(file)


@pytest.mark.parametrize("name", [".", "missing.png"])
def test_error_for_folders_and_missing_files(tmp_path, name):
    with pytest.raises(PictureError, match=f"cannot be read.*({REMEDY})"):
        load_picture(tmp_path / name)


def test_fit_within_shrinks_and_never_enlarges():
    picture = noise(400, 100)
    assert fit_within(picture, 200).size == (200, 50)
    assert fit_within(picture, 1000).size == picture.size == (400, 100)
