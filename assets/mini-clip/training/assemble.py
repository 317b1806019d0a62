"""Save vision tower, text tower and projections as one model in transformers' format, without custom code."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from backbone import CHANNELS, CONSTANT, DEVIATION, MEAN, PIXELS, PUBLISHED
from space import Space
from text_tower import tokenizer_of
from transformers import (
    BertModel,
    CLIPImageProcessor,
    EfficientNetModel,
    VisionTextDualEncoderConfig,
    VisionTextDualEncoderModel,
    VisionTextDualEncoderProcessor,
)

SHARD = "9MB"  # less than 10 MB, from which on a file needs large-file storage
LOGIT_SCALE = 3.4  # exp(3.4) is 30, the scale with which the text tower was trained
MADE = ("*.safetensors", "*.json", "vocab.txt")


def projection(space: Space) -> torch.Tensor:
    """Return the projection (d, 1408) of pooled features; the column of the constant channel subtracts the centre."""
    weight = torch.zeros(len(space.weight), CHANNELS)
    weight[:, :PUBLISHED] = space.weight
    weight[:, CONSTANT] = -space.weight @ space.centre
    return weight


def save(
    vision: EfficientNetModel,
    space: Space,
    text: BertModel,
    text_projection: torch.Tensor,
    pieces: Sequence[str],
    folder: Path,
) -> None:
    """Write the model to a folder in float16 and replace an existing one."""
    config = VisionTextDualEncoderConfig.from_vision_text_configs(
        vision.config, text.config, projection_dim=len(space.weight)
    )
    model = VisionTextDualEncoderModel(config=config, vision_model=vision, text_model=text)
    with torch.no_grad():
        # A random rotation keeps all cosines but spreads the variance evenly over the coordinates, so that L1 ranks
        # almost like L2.
        turn, _ = torch.linalg.qr(torch.randn(2 * [len(space.weight)], generator=torch.Generator().manual_seed(0)))
        model.visual_projection.weight.copy_(turn @ projection(space))
        model.text_projection.weight.copy_(turn @ text_projection)
        model.logit_scale.fill_(LOGIT_SCALE)
    pictures = CLIPImageProcessor(
        do_resize=True,
        size={"shortest_edge": PIXELS},
        resample=3,
        do_center_crop=True,
        crop_size={"height": PIXELS, "width": PIXELS},
        do_rescale=True,
        do_normalize=True,
        image_mean=list(MEAN),
        image_std=list(DEVIATION),
    )
    unfinished = folder / "unfinished"
    shutil.rmtree(unfinished, ignore_errors=True)
    model.half().save_pretrained(unfinished, max_shard_size=SHARD)
    VisionTextDualEncoderProcessor(pictures, tokenizer_of(pieces)).save_pretrained(unfinished)
    for pattern in MADE:
        for old in folder.glob(pattern):
            old.unlink()
    for new in unfinished.iterdir():
        new.rename(folder / new.name)
    unfinished.rmdir()
