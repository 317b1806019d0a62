"""Models that are untrusted, broken, or of a kind of their own."""

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    Siglip2Config,
    Siglip2ImageProcessorPil,
    Siglip2Model,
)

from retrieval import index_builder
from retrieval.errors import ModelError
from retrieval.features.encoder import ClipEncoder
from retrieval.features.models import choose_model
from tests.support.hostile_pictures import small


@pytest.mark.parametrize("which", ["auto_map", "config", "pickle"])
def test_untrusted_model_runs_no_code(tmp_path: Path, which: str) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    config: dict[str, Any] = {"model_type": "evil" if which == "config" else "clip"}
    if which == "auto_map":
        config = {"model_type": "evil", "auto_map": {"AutoModel": "evil.Evil", "AutoConfig": "evil.Evil"}}
    (model / "config.json").write_text(json.dumps(config))
    (model / "preprocessor_config.json").write_text(json.dumps({"image_processor_type": "CLIPImageProcessor"} | config))
    command = f"__import__('pathlib').Path({str(tmp_path / 'ran')!r}).touch()"
    trap = type("Trap", (), {"__reduce__": lambda self: (exec, (command,))})()
    (model / "pytorch_model.bin").write_bytes(pickle.dumps(trap))
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "x.png").write_bytes(small())
    arguments = ["--index", str(tmp_path / "index"), "--dataset", str(tmp_path / "pictures"), "--model", str(model)]
    assert index_builder.main(arguments) == 2
    assert not (tmp_path / "ran").exists()


TOWER = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}


def random_clip(folder: Path, **vision: int) -> CLIPModel:
    torch.manual_seed(0)
    model = CLIPModel(
        CLIPConfig(vision_config=TOWER | {"image_size": 32, "patch_size": 16} | vision, text_config=TOWER)
    )
    CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)
    return model


def test_model_whose_numbers_are_not_finite_is_named_as_the_cause(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = random_clip(tmp_path / "nan")
    with torch.no_grad():
        model.visual_projection.weight.fill_(float("nan"))
    model.save_pretrained(tmp_path / "nan")
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "x.png").write_bytes(small())
    arguments = ["--index", str(tmp_path / "index"), "--dataset", str(tmp_path / "pictures")]
    assert index_builder.main([*arguments, "--model", str(tmp_path / "nan"), "--dtype", "float32"]) == 2
    assert "gives numbers that are not finite (float32)" in capsys.readouterr().err


def test_model_that_fails_at_its_first_forward_pass_is_named_as_the_cause(tmp_path: Path) -> None:
    random_clip(tmp_path / "odd", image_size=64).save_pretrained(tmp_path / "odd")  # but images are cut to 32
    with pytest.raises(ModelError, match=r"was loaded but fails to embed an image: .*Choose another"):
        ClipEncoder(choose_model(str(tmp_path / "odd")), "float32", "cpu")


def test_model_for_images_of_any_shape_embeds_each_as_if_it_were_alone(tmp_path: Path) -> None:
    """SigLIP 2 NaFlex takes masks and sizes besides pixels."""
    torch.manual_seed(0)
    text = TOWER | {"vocab_size": 64, "max_position_embeddings": 8}
    config = Siglip2Config(vision_config=TOWER | {"num_patches": 64, "patch_size": 16}, text_config=text)
    Siglip2Model(config).save_pretrained(tmp_path)
    Siglip2ImageProcessorPil(max_num_patches=64).save_pretrained(tmp_path)
    encoder = ClipEncoder(choose_model(str(tmp_path)), "float32", "cpu")
    noise = np.random.default_rng(0).integers(256, size=(300, 300, 3), dtype=np.uint8)
    pictures = [Image.fromarray(noise[:height, :width]) for height, width in ((300, 100), (100, 300), (90, 90))]
    together = encoder.embed(pictures)
    alone = np.concatenate([encoder.embed_query([each]) for each in pictures])
    assert (np.vecdot(together, alone) > 0.99999).all()
    assert np.vecdot(together[0], together[1]) < 0.999
