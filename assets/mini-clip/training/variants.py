"""Render drawings as images: as in the gallery, at the small size of emoji fonts, and with random variations."""

import io
import random

import icons
import numpy as np
from PIL import Image, ImageEnhance, ImageFilter

SIZE = icons.PIXELS
SMALL = 64
GROUND_WHITE = 0.6  # the share of varied images that keep the gallery's white background
OUTLINED = 0.25
BLACK = (0, 0, 0)


def on_white(drawing: Image.Image) -> Image.Image:
    """Return a drawing like in the gallery: on white, filling the square."""
    drawing = drawing.resize((SIZE, SIZE), Image.Resampling.BICUBIC)
    picture = Image.new("RGB", drawing.size, "white")
    picture.paste(drawing, mask=drawing.getchannel("A"))
    return picture


def small_on_white(drawing: Image.Image) -> Image.Image:
    """Return a drawing on white, enlarged from the size of emoji fonts."""
    return on_white(drawing.resize((SMALL, SMALL), Image.Resampling.LANCZOS))


def varied(drawing: Image.Image, draw: random.Random) -> Image.Image:
    """Return a drawing with random colours, outline, proportions, background and sharpness."""
    drawing = drawing.resize((SIZE, SIZE), Image.Resampling.BICUBIC)
    colours, shape = _coloured(drawing.convert("RGB"), draw), drawing.getchannel("A")
    if draw.random() < OUTLINED:
        outlined = Image.new("RGB", drawing.size, BLACK if draw.random() < 0.6 else _colour(draw))
        outlined.paste(colours, mask=shape)
        colours, shape = outlined, shape.filter(ImageFilter.MaxFilter(draw.choice((3, 5, 7, 9))))
    place = _placement(draw)
    colours, shape = (
        part.transform(drawing.size, Image.Transform.AFFINE, place, Image.Resampling.BILINEAR)
        for part in (colours, shape)
    )
    picture = _ground(draw)
    picture.paste(colours, mask=shape)
    return _worn(picture, draw)


def _coloured(picture: Image.Image, draw: random.Random) -> Image.Image:
    if draw.random() < 0.7:
        picture = ImageEnhance.Brightness(picture).enhance(draw.uniform(0.7, 1.25))
        picture = ImageEnhance.Contrast(picture).enhance(draw.uniform(0.7, 1.35))
        picture = ImageEnhance.Color(picture).enhance(draw.uniform(0.3, 1.7))
    if draw.random() < 0.25:
        hue_shift = round(draw.uniform(-14, 14))  # of 256, up to 20 degrees
        hue, *others = picture.convert("HSV").split()
        hue = hue.point(lambda value: (value + hue_shift) % 256)
        return Image.merge("HSV", (hue, *others)).convert("RGB")
    return picture.convert("L").convert("RGB") if draw.random() < 0.05 else picture


def _placement(draw: random.Random) -> list[float]:
    """Return a random affine map for PIL that slightly rotates, scales, shears and shifts around the centre."""
    angle = np.deg2rad(draw.gauss(0, 8))
    wide = draw.uniform(0.72, 1.12) * np.exp(draw.gauss(0, 0.06))
    high = wide * np.exp(draw.gauss(0, 0.08))
    there = np.array(
        [[wide * np.cos(angle), draw.gauss(0, 0.06) - high * np.sin(angle)],
         [wide * np.sin(angle), high * np.cos(angle)]]
    )  # fmt: skip
    back = np.linalg.inv(there)
    middle = np.full(2, SIZE / 2)
    shift = middle - back @ (middle + np.array([draw.gauss(0, 10), draw.gauss(0, 10)]))
    return [back[0, 0], back[0, 1], shift[0], back[1, 0], back[1, 1], shift[1]]


def _ground(draw: random.Random) -> Image.Image:
    if draw.random() < GROUND_WHITE:
        return Image.new("RGB", (SIZE, SIZE), "white")
    if draw.random() < 0.4:
        return Image.new("RGB", (SIZE, SIZE), _colour(draw))
    cells = draw.choice((2, 3, 4, 8, 32))
    noise = np.random.default_rng(draw.randrange(1 << 30)).integers(0, 256, (cells, cells, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((SIZE, SIZE), Image.Resampling.BICUBIC)


def _worn(picture: Image.Image, draw: random.Random) -> Image.Image:
    if draw.random() < 0.6:
        pixels = round(draw.uniform(36, 160))
        by = draw.choice((Image.Resampling.LANCZOS, Image.Resampling.BILINEAR, Image.Resampling.BOX))
        picture = picture.resize((pixels, pixels), by).resize((SIZE, SIZE), Image.Resampling.BICUBIC)
    elif draw.random() < 0.3:
        picture = picture.filter(ImageFilter.GaussianBlur(draw.uniform(0.5, 2.5)))
    if draw.random() < 0.15:
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=draw.randrange(15, 80))
        picture = Image.open(file).convert("RGB")
    return picture


def _colour(draw: random.Random) -> tuple[int, int, int]:
    return draw.randrange(256), draw.randrange(256), draw.randrange(256)
