"""Vision models of every family: tiny ones with random weights, against transformers' own output."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional
from transformers import (
    AutoImageProcessor,
    AutoModel,
    BitImageProcessorPil,
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    ConvNextConfig,
    ConvNextImageProcessorPil,
    ConvNextModel,
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    DINOv3ConvNextConfig,
    DINOv3ConvNextModel,
    DINOv3ViTConfig,
    DINOv3ViTModel,
    PreTrainedModel,
    ResNetConfig,
    ResNetModel,
    Siglip2Config,
    Siglip2ImageProcessorPil,
    Siglip2Model,
    SiglipConfig,
    SiglipImageProcessorPil,
    SiglipModel,
    SiglipVisionConfig,
    SiglipVisionModel,
    ViTConfig,
    ViTImageProcessorPil,
    ViTModel,
)

from retrieval.errors import ModelError, QueryError
from retrieval.features import FEATURES
from retrieval.features.base import FeatureOptions, Output
from retrieval.features.encoder import ClipEncoder, ModelEncoder, TowerEncoder
from retrieval.features.models import BUNDLED_FOLDER, choose_model
from retrieval.features.vision import output_of

TOWER = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
IMAGE = TOWER | {"image_size": 32, "patch_size": 8}
TEXT = TOWER | {"vocab_size": 49408, "max_position_embeddings": 77}
STAGES = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}
SQUARE = {"size": {"height": 32, "width": 32}}
CROP = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}

# What makes a model, its image processor, and which of its outputs is the vector.
FAMILIES: dict[str, tuple[Any, Any, Output]] = {
    "clip": (
        lambda: CLIPModel(CLIPConfig(vision_config=IMAGE, text_config=TEXT)),
        CLIPImageProcessorPil(**CROP),
        Output.PROJECTED,
    ),
    "siglip": (
        lambda: SiglipModel(SiglipConfig(vision_config=IMAGE, text_config=TEXT)),
        SiglipImageProcessorPil(**SQUARE),
        Output.PROJECTED,
    ),
    "siglip2-naflex": (
        lambda: Siglip2Model(
            Siglip2Config(vision_config=TOWER | {"num_patches": 16, "patch_size": 8}, text_config=TEXT)
        ),
        Siglip2ImageProcessorPil(max_num_patches=16, patch_size=8),
        Output.PROJECTED,
    ),
    "siglip-vision": (
        lambda: SiglipVisionModel(SiglipVisionConfig(**IMAGE)),
        SiglipImageProcessorPil(**SQUARE),
        Output.POOLED,
    ),
    "dinov2": (lambda: Dinov2Model(Dinov2Config(**IMAGE)), BitImageProcessorPil(**CROP), Output.CLS),
    "dinov2-registers": (
        lambda: Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**IMAGE, num_register_tokens=4)),
        BitImageProcessorPil(**CROP),
        Output.CLS,
    ),
    # Its own processor needs torchvision; see test_timm.py.
    "dinov3": (
        lambda: DINOv3ViTModel(DINOv3ViTConfig(**IMAGE, num_register_tokens=4)),
        ViTImageProcessorPil(**SQUARE),
        Output.CLS,
    ),
    "dinov3-convnext": (
        lambda: DINOv3ConvNextModel(DINOv3ConvNextConfig(**STAGES)),
        ViTImageProcessorPil(**SQUARE),
        Output.POOLED,
    ),
    "vit": (lambda: ViTModel(ViTConfig(**IMAGE)), ViTImageProcessorPil(**SQUARE), Output.CLS),
    "convnext": (
        lambda: ConvNextModel(ConvNextConfig(**STAGES)),
        ConvNextImageProcessorPil(size={"shortest_edge": 32}),
        Output.POOLED,
    ),
    "resnet": (
        lambda: ResNetModel(ResNetConfig(**STAGES, embedding_size=8, layer_type="basic")),
        ConvNextImageProcessorPil(size={"shortest_edge": 32}),
        Output.POOLED,
    ),
}


def make(family: str, folder: Path) -> Path:
    """Write a tiny random model of a family to a folder."""
    torch.manual_seed(0)
    model, processor, _ = FAMILIES[family]
    made: PreTrainedModel = model().eval()
    with torch.no_grad():
        for name, values in made.named_parameters():
            if name.endswith(("cls_token", "bias", "gamma")):
                values.normal_(std=0.3)  # they begin as zeros, which would hide mistakes
    made.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    noise = np.random.default_rng(0).integers(256, size=(60, 60, 3), dtype=np.uint8)
    return [Image.fromarray(noise[:height, :width]) for height, width in ((60, 40), (33, 60), (50, 50))]


@pytest.mark.parametrize("family", FAMILIES)
def test_vectors_are_transformers_own_output(tmp_path: Path, pictures: list[Image.Image], family: str) -> None:
    folder, output = make(family, tmp_path), FAMILIES[family][2]
    encoder = ModelEncoder(choose_model(str(folder)), "float32", "cpu")
    model = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    inputs = AutoImageProcessor.from_pretrained(folder, backend="pil")(images=pictures, return_tensors="pt")
    with torch.inference_mode():
        if output is Output.PROJECTED:
            expected = model.get_image_features(**inputs).pooler_output
        else:
            found = model(**inputs)
            expected = found.last_hidden_state[:, 0] if output is Output.CLS else found.pooler_output.flatten(1)
    np.testing.assert_allclose(encoder.embed(pictures), functional.normalize(expected, dim=-1), atol=1e-5)
    assert output_of(encoder.identity) is output
    assert FEATURES["dino"].supports_text(encoder.identity) == (output is Output.PROJECTED)
    assert encoder.identity.dimensions == expected.shape[1]
    assert len({tuple(vector.round(3)) for vector in encoder.embed(pictures)}) == 3


@pytest.mark.parametrize("family", ["dinov2", "convnext", "vit"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_close_to_float32(
    tmp_path: Path, pictures: list[Image.Image], family: str, dtype: str
) -> None:
    choice = choose_model(str(make(family, tmp_path)))
    whole, half = (ModelEncoder(choice, each, "cpu") for each in ("float32", dtype))
    assert (np.vecdot(whole.embed(pictures), half.embed(pictures)) > 0.99).all()
    assert half.identity.dtype == dtype


@pytest.mark.parametrize("family", ["convnext", "dinov2"])
def test_a_ribbon_is_cut_before_a_processor_that_crops_enlarges_it(tmp_path: Path, family: str) -> None:
    encoder = ModelEncoder(choose_model(str(make(family, tmp_path))), "float32", "cpu")
    assert encoder._trim(Image.new("RGB", (5000, 1))).size == (8, 1)


def test_model_without_projected_features_refuses_texts_and_is_no_clip_model(tmp_path: Path) -> None:
    choice = choose_model(str(make("dinov2", tmp_path)))
    with pytest.raises(QueryError, match="does not support text"):
        ModelEncoder(choice, "float32", "cpu").embed_texts(["a cat"])
    with pytest.raises(ModelError, match=r"is a Dinov2Model.*`--features dino=.*`"):
        ClipEncoder(choice, "float32", "cpu")


def test_model_without_any_vector_of_an_image_is_refused(tmp_path: Path) -> None:
    choice = choose_model(str(make("siglip-vision", tmp_path)))
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"vision_use_head": False}))
    with pytest.raises(ModelError, match="has no projected features, CLS token or pooled output"):
        ModelEncoder(choice, "float32", "cpu")


def test_cnn_features_are_the_output_of_the_bundled_image_tower(pictures: list[Image.Image]) -> None:
    encoder = FEATURES["cnn"].load(FeatureOptions(dtype="float32"), None)
    assert isinstance(encoder, TowerEncoder)
    model = AutoModel.from_pretrained(BUNDLED_FOLDER, dtype=torch.float32).eval()
    inputs = AutoImageProcessor.from_pretrained(BUNDLED_FOLDER, backend="pil")(images=pictures, return_tensors="pt")
    with torch.inference_mode():
        output = model.vision_model(**inputs).pooler_output
        projected = functional.normalize(model.visual_projection(output), dim=-1).numpy()
    vectors = encoder.embed(pictures)
    assert (np.vecdot(vectors, functional.normalize(output, dim=-1).numpy()) > 0.9999).all()
    clip = FEATURES["clip"].load(FeatureOptions("mini", dtype="float32"), None)
    assert (np.vecdot(clip.embed(pictures), projected) > 0.9999).all()
    assert not FEATURES["cnn"].supports_text(encoder.identity)
    assert FEATURES["cnn"].is_portable(encoder.identity)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"architecture": "hf-hub:org/name"}, "has settings that are not allowed"),
        (
            {"architecture": "resnet18", "model_args": {"checkpoint_path": "/etc/passwd"}},
            "settings that are not allowed",
        ),
        # Without timm, what to install; with it, that the folder has no weights.
        ({"architecture": "resnet18"}, r"pip install -r requirements-timm\.txt|cannot be loaded"),
    ],
)
def test_timm_reads_no_other_files_and_is_asked_for_where_it_is_missing(
    tmp_path: Path, settings: dict[str, Any], said: str
) -> None:
    config = {"model_type": "timm_wrapper", "pretrained_cfg": {}} | settings
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=said):
        ModelEncoder(choose_model(str(tmp_path)), "float32", "cpu")
