"""Both feature types of unusual pictures against plain implementations of their published definitions."""

import io
import itertools
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms, ImageOps
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel

from retrieval.features.encoder import ClipEncoder
from retrieval.features.models import choose_model
from retrieval.features.pixels import embed_pixels
from retrieval.pictures.loading import load_picture

SIDE, PIXELS = 224, 32
# From OpenAI's CLIP (Radford et al. 2021); later CLIP models use the same.
MEAN, DEVIATION = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
LEVEL = 1 / 255
ALIKE = 0.99999  # measured: 0.999999; with bilinear instead of bicubic resizing: 0.99994


def scene(width, height):
    """A picture of smooth colours and sharp edges without repetition."""
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / 7 + y / 19), np.cos(x / 23 - y / 5), np.sin((x + y) / 11)]
    values = 128 + 90 * np.stack(waves, axis=-1)
    values[height // 3 : height // 2 + 1, width // 4 : width // 2 + 1] = (250, 20, 60)
    return Image.fromarray(np.clip(values, 0, 255).astype(np.uint8))


def encode(picture, kind="PNG", **options):
    data = io.BytesIO()
    picture.save(data, kind, **options)
    return data.getvalue()


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def interlaced(picture):
    """Return an RGB picture as an interlaced PNG: the seven passes of Adam7, which Pillow can read but not write."""
    values, rows = np.asarray(picture), b""
    passes = ((0, 8, 0, 8), (0, 8, 4, 8), (4, 8, 0, 4), (0, 4, 2, 4), (2, 4, 0, 2), (0, 2, 1, 2), (1, 2, 0, 1))
    for top, down, left, right in passes:
        part = values[top::down, left::right]
        rows += b"".join(b"\0" + row.tobytes() for row in part if part.shape[1])
    header = struct.pack(">IIBBBBB", *picture.size, 8, 2, 0, 0, 1)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def wide_gamut_profile():
    """Return an ICC profile (version 2) with the primaries of Display P3 for D50 and a gamma of 2.2."""

    def fixed(*values):
        return struct.pack(f">{len(values)}i", *(round(value * 65536) for value in values))

    def xyz(*values):
        return b"XYZ \0\0\0\0" + fixed(*values)

    tags = {
        b"desc": b"desc\0\0\0\0" + struct.pack(">I", 5) + b"wide\0" + bytes(78),
        b"cprt": b"text\0\0\0\0none\0",
        b"wtpt": xyz(0.9642, 1, 0.8249),
        b"rXYZ": xyz(0.5151, 0.2412, -0.0011),
        b"gXYZ": xyz(0.2920, 0.6922, 0.0419),
        b"bXYZ": xyz(0.1571, 0.0666, 0.7841),
        **{name: b"curv\0\0\0\0" + struct.pack(">IH", 1, 563) for name in (b"rTRC", b"gTRC", b"bTRC")},
    }
    table, body, start = struct.pack(">I", len(tags)), b"", 128 + 4 + 12 * len(tags)
    for name, data in tags.items():
        table += name + struct.pack(">II", start + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    head = struct.pack(">I4sI4s4s4s", start + len(body), bytes(4), 0x02100000, b"mntr", b"RGB ", b"XYZ ")
    head += struct.pack(">6H4s", 2026, 1, 1, 0, 0, 0, b"acsp") + bytes(28) + fixed(0.9642, 1, 0.8249)
    return head + bytes(128 - len(head)) + table + body


def files():
    """Return name -> encoded picture."""
    plain, grey = scene(301, 223), scene(230, 300).convert("L")
    alpha = Image.linear_gradient("L").resize(plain.size)
    seen_through = plain.copy()
    seen_through.putalpha(alpha)
    grey_through = grey.copy()
    grey_through.putalpha(alpha.resize(grey.size))
    palette = plain.quantize(16)
    deep = Image.fromarray((np.asarray(grey, np.uint16) * 257 + 77).clip(0, 65535).astype(np.uint16))
    frames = {"save_all": True, "append_images": [Image.new("RGB", plain.size, "blue")], "duration": 100}
    found = {
        "1 x 1": encode(scene(1, 1)),
        "1 x 5000": encode(scene(1, 5000)),
        "5000 x 1": encode(scene(5000, 1)),
        "3 x 1000": encode(scene(3, 1000)),
        "large": encode(scene(900, 700), "JPEG"),
        "grey": encode(grey),
        "grey JPEG": encode(grey, "JPEG"),
        "grey with alpha": encode(grey_through),
        "alpha": encode(seen_through),
        "alpha WebP": encode(seen_through, "WEBP", lossless=True),
        "palette": encode(palette),
        "palette with a transparent colour": encode(palette, transparency=3),
        "palette with alpha": encode(palette, transparency=bytes(range(0, 256, 16))),
        "CMYK JPEG": encode(plain.convert("CMYK"), "JPEG"),
        "16 bits": encode(deep),
        "1 bit": encode(grey.convert("1")),
        "animated GIF": encode(plain, "GIF", **frames),
        "animated WebP": encode(plain, "WEBP", lossless=True, **frames),
        "wide gamut": encode(plain, icc_profile=wide_gamut_profile()),
        "wide gamut JPEG": encode(plain, "JPEG", icc_profile=wide_gamut_profile()),
        "progressive JPEG": encode(plain, "JPEG", progressive=True),
        "interlaced PNG": interlaced(plain),
    }
    for kind, orientation in itertools.product(("JPEG", "PNG", "WEBP"), range(1, 9)):
        exif = Image.Exif()
        exif[0x0112] = orientation
        found[f"{kind} of orientation {orientation}"] = encode(plain, kind, exif=exif)
    return found


FILES = files()


def reference_picture(data):
    """Decode with Pillow: upright, on a white background, values from 0 to 255, shape (height, width, 3)."""
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    if image.mode.startswith("I"):
        image = Image.fromarray(np.rint(np.asarray(image) / 257).astype(np.uint8))
    layers = np.asarray(image.convert("RGBA"), np.float64)
    opacity = layers[..., 3:] / 255
    return layers[..., :3] * opacity + 255 * (1 - opacity)


def bicubic_weights(old, new):
    """Return the weights of a bicubic resize along one axis, shape (new, old); round the result to 8 bits.

    Keys, "Cubic convolution interpolation" (1981), with a = -0.5; the filter is widened for shrinking, as in Pillow.
    """
    scale = old / new
    widened = max(scale, 1)
    middles = (np.arange(new) + 0.5) * scale
    x = np.abs((np.arange(old) + 0.5 - middles[:, None]) / widened)
    near, far = (1.5 * x - 2.5) * x * x + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2
    weights = np.where(x < 1, near, np.where(x < 2, far, 0))
    return weights / weights.sum(axis=1, keepdims=True)


def reference_pixels(data):
    """Yield the pixel features for both orders of the axes: Pillow rounds after the first and chooses it by cost."""
    values = reference_picture(data)
    height, width = values.shape[:2]
    axes = [("yh,hwc->ywc", bicubic_weights(height, PIXELS)), ("xw,hwc->hxc", bicubic_weights(width, PIXELS))]
    for order in (axes, axes[::-1]):
        small = values
        for subscripts, weights in order:
            small = np.rint(np.einsum(subscripts, weights, small)).clip(0, 255)
        yield small.reshape(-1) / 255


def reference_input(data):
    """Return CLIP's input, shape (3, 224, 224): shorter side resized to 224, cropped at the centre, normalised."""
    picture = Image.fromarray(np.rint(reference_picture(data)).astype(np.uint8))
    width, height = picture.size
    short = min(width, height)
    wide, high = int(SIDE * width / short), int(SIDE * height / short)
    left, top = (wide - SIDE) // 2, (high - SIDE) // 2
    # Resizing only the crop gives the same result, and very long pictures do not take gigabytes.
    box = (left * width / wide, top * height / high, (left + SIDE) * width / wide, (top + SIDE) * height / high)
    cut = np.asarray(picture.resize((SIDE, SIDE), Image.Resampling.BICUBIC, box), np.float32)
    return ((cut / 255 - MEAN) / DEVIATION).transpose(2, 0, 1).astype(np.float32)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """The folder of a small random CLIP shaped like ViT-B/32, and the model; its vectors differ widely."""
    folder = tmp_path_factory.mktemp("clip")
    side = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 3, "num_attention_heads": 4}
    torch.manual_seed(0)
    config = CLIPConfig(vision_config={**side, "image_size": SIDE, "patch_size": 32}, text_config=side)
    model = CLIPModel(config).eval()
    with torch.no_grad():
        for weights in model.vision_model.parameters():
            weights.mul_(3 if weights.ndim > 1 else 1)
    model.save_pretrained(folder)
    CLIPImageProcessorPil().save_pretrained(folder)
    return folder, model


@pytest.fixture(scope="module")
def reference_vectors(clip):
    with torch.inference_mode():
        inputs = torch.from_numpy(np.stack([reference_input(data) for data in FILES.values()]))
        output = clip[1].visual_projection(clip[1].vision_model(pixel_values=inputs).pooler_output)
    return dict(zip(FILES, torch.nn.functional.normalize(output, dim=-1).numpy(), strict=True))


@pytest.fixture(scope="module")
def encoder(clip):
    return ClipEncoder(choose_model(str(clip[0])), "float32", "cpu")


@pytest.mark.parametrize("name", FILES)
def test_clip_features_match_the_published_preprocessing(encoder, reference_vectors, name):
    vector, again = (encoder.embed_query([load_picture(FILES[name])])[0] for _ in range(2))
    assert np.array_equal(vector, again)
    assert vector @ reference_vectors[name] >= ALIKE


@pytest.mark.parametrize("name", FILES)
def test_pixels_match_a_plain_bicubic_resize(name):
    vector, again = (embed_pixels([load_picture(FILES[name])], PIXELS)[0] for _ in range(2))
    assert np.array_equal(vector, again)
    assert min(np.abs(vector - reference).max() for reference in reference_pixels(FILES[name])) <= 1.01 * LEVEL


def test_bfloat16_vectors_are_close_to_float32(clip, reference_vectors):
    half = ClipEncoder(choose_model(str(clip[0])), "bfloat16", "cpu")
    vectors = half.embed_query([load_picture(data) for data in FILES.values()])
    assert min((vectors * np.stack(list(reference_vectors.values()))).sum(axis=1)) >= 0.99


def test_reference_distinguishes_pictures_and_preprocessings(encoder, reference_vectors):
    whole, turned = (reference_vectors[f"PNG of orientation {orientation}"] for orientation in (1, 2))
    assert whole @ turned < 0.99
    picture = load_picture(FILES["PNG of orientation 1"])
    aspect_lost = picture.resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    coarse = picture.resize((302, 224), Image.Resampling.BILINEAR)
    for other in (aspect_lost, coarse):
        assert encoder.embed_query([other])[0] @ whole < ALIKE


def test_colour_profiles_are_not_applied():
    data = FILES["wide gamut"]
    picture = Image.open(io.BytesIO(data))
    profile = ImageCms.ImageCmsProfile(io.BytesIO(picture.info["icc_profile"]))
    converted = ImageCms.profileToProfile(picture, profile, ImageCms.createProfile("sRGB"))
    assert np.abs(np.subtract(converted, picture, dtype=np.int16)).max() > 20  # so applying it would be noticed
    np.testing.assert_array_equal(load_picture(data), picture)
