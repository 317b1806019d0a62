"""Models that need timm or torchvision, of which neither is a requirement of the project.

pip install -r requirements-timm.txt && python -m pytest -m timm tests/features/test_timm.py
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

from retrieval.features.base import Output
from retrieval.features.encoder import ModelEncoder
from retrieval.features.models import _complete, choose_model
from retrieval.features.vision import output_of
from tests.features.test_vision import FAMILIES, IMAGE

pytestmark = pytest.mark.timm

PICTURES = [Image.effect_noise((60, 40), 80).convert("RGB"), Image.linear_gradient("L").convert("RGB")]


def make(folder: Path, architecture: str) -> Path:
    """Write a timm model with random weights to a folder, as timm's repositories on the Hub have it."""
    from transformers import TimmWrapperConfig, TimmWrapperModel

    torch.manual_seed(0)
    prepared = {"input_size": [3, 64, 64], "mean": [0.5] * 3, "std": [0.5] * 3, "crop_pct": 0.9}
    arguments = {"img_size": 64} if architecture.startswith("vit") else {}
    config = TimmWrapperConfig(
        architecture=architecture, pretrained_cfg=prepared, model_args=arguments, num_labels=2, do_pooling=True
    )
    TimmWrapperModel(config).eval().save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("architecture", "output"),
    [
        ("vit_tiny_patch16_224", Output.CLS),
        ("vit_small_patch14_reg4_dinov2", Output.CLS),
        ("test_convnext", Output.POOLED),
        ("test_resnet", Output.POOLED),
    ],
)
def test_timm_vectors_are_transformers_own_output(tmp_path: Path, architecture: str, output: Output) -> None:
    from transformers import AutoImageProcessor, AutoModel

    folder = make(tmp_path, architecture)
    assert _complete(folder), "the Hub has no separate settings for images"
    encoder = ModelEncoder(choose_model(str(folder)), "float32", "cpu")
    model = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    inputs = AutoImageProcessor.from_pretrained(folder)(images=PICTURES, return_tensors="pt")
    with torch.inference_mode():
        found = model(**inputs)
    expected = found.last_hidden_state[:, 0] if output is Output.CLS else found.pooler_output
    np.testing.assert_allclose(encoder.embed(PICTURES), functional.normalize(expected, dim=-1), atol=1e-5)
    assert output_of(encoder.identity) is output
    assert encoder._trim(Image.new("RGB", (5000, 1))).size == (8, 1)


def test_dinov3_with_its_own_processor(tmp_path: Path) -> None:
    from transformers import AutoModel, DINOv3ViTConfig, DINOv3ViTImageProcessor, DINOv3ViTModel

    DINOv3ViTModel(DINOv3ViTConfig(**IMAGE, num_register_tokens=4)).save_pretrained(tmp_path)
    processor = DINOv3ViTImageProcessor(size={"height": 32, "width": 32})
    processor.save_pretrained(tmp_path)
    encoder = ModelEncoder(choose_model(str(tmp_path)), "float32", "cpu")
    with torch.inference_mode():
        inputs = processor(images=PICTURES, return_tensors="pt")
        expected = AutoModel.from_pretrained(tmp_path)(**inputs).last_hidden_state[:, 0]
    np.testing.assert_allclose(encoder.embed(PICTURES), functional.normalize(expected, dim=-1), atol=1e-5)
    assert FAMILIES["dinov3"][2] is Output.CLS
