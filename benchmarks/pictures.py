"""Test data for speed measurements: photo-like JPEGs of about 400 x 300 with bundled icons, and a CLIP ViT-B/32."""

import io
from collections.abc import Iterator
from pathlib import Path

import datasets
import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from transformers import AutoTokenizer, CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPProcessor

ROOT = Path(__file__).resolve().parents[1]
ICONS = ROOT / "assets" / "gallery" / "data"
TEXTURES = 16
QUALITY = 82  # gives about 30 KB per image, like photos of this size


def make_parquet(file: Path, count: int) -> float:
    """Write `count` images, always the same ones, to a Parquet file; return their mean size in bytes."""
    rows = [{"image": {"bytes": jpeg, "path": None}, "id": str(number)} for number, jpeg in enumerate(jpegs(count))]
    features = datasets.Features({"image": datasets.Image(), "id": datasets.Value("string")})
    datasets.Dataset.from_list(rows, features=features).to_parquet(str(file))
    return float(np.mean([len(row["image"]["bytes"]) for row in rows]))  # type: ignore[index,arg-type]


def jpegs(count: int) -> Iterator[bytes]:
    """Yield `count` encoded images, always the same ones."""
    icons = datasets.load_dataset("parquet", data_files=str(next(ICONS.glob("*.parquet"))), split="train")
    random = np.random.default_rng(0)
    textures = [_texture(random, 480, 640) for _ in range(TEXTURES)]
    for _ in range(count):
        width, height = int(random.integers(380, 421)), int(random.integers(285, 316))
        texture = textures[random.integers(TEXTURES)]
        left, top = int(random.integers(640 - width)), int(random.integers(480 - height))
        part = texture[top : top + height, left : left + width].astype(np.float32)
        picture = Image.fromarray(np.clip(part * random.uniform(0.6, 1.2, 3), 0, 255).astype(np.uint8))
        icon = icons[int(random.integers(len(icons)))]["image"].convert("RGBA")
        side = int(random.integers(120, 280))
        icon = icon.resize((side, side))
        picture.paste(icon, (int(random.integers(width - side)), int(random.integers(height - side))), icon)
        jpeg = io.BytesIO()
        picture.save(jpeg, "JPEG", quality=QUALITY)
        yield jpeg.getvalue()


def _texture(random: np.random.Generator, height: int, width: int) -> npt.NDArray[np.uint8]:
    """Return RGB noise whose amplitude falls with the frequency like that of photos (Field, 1987)."""
    frequency = np.hypot(np.fft.rfftfreq(width)[None], np.fft.fftfreq(height)[:, None])
    amplitude = 1 / np.maximum(frequency, 1 / width) ** 1.25
    shared = _noise(random, amplitude)  # the colour channels of photos are correlated
    layers = [0.8 * shared + 0.4 * _noise(random, amplitude) for _ in range(3)]
    return np.clip(128 + 50 * np.stack(layers, -1), 0, 255).astype(np.uint8)


def _noise(random: np.random.Generator, amplitude: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    spectrum = amplitude * (random.standard_normal(amplitude.shape) + 1j * random.standard_normal(amplitude.shape))
    values = np.fft.irfft2(spectrum)
    return np.asarray((values - values.mean()) / values.std())


def save_vit(folder: Path) -> Path:
    """Save a CLIP ViT-B/32 with random weights to a folder and return the folder.

    Like OpenCLIP's LAION-2B model, it uses GELU; OpenAI's model uses an approximation.
    """
    torch.manual_seed(0)
    gelu = {"hidden_act": "gelu"}
    CLIPModel(CLIPConfig(vision_config=gelu, text_config=gelu, projection_dim=512)).save_pretrained(folder)
    # Any tokenizer will do, so this is the bundled model's.
    tokenizer = AutoTokenizer.from_pretrained(ROOT / "assets" / "mini-clip")
    CLIPProcessor(CLIPImageProcessorPil(), tokenizer).save_pretrained(folder)
    return folder
