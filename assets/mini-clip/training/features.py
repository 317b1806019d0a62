"""Every icon in every style, composed several times, once through the frozen part of the vision tower.

Kept of each picture: the pooled published features and the 8 x 8 map before the last convolution, from which the
additional channels are learned. Written in parts; parts that exist are not computed again.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import icons
import numpy as np
import torch
from backbone import DEVIATION, MEAN, PUBLISHED
from PIL import Image
from torch import nn

COMPOSITIONS = 4  # the first is as in the gallery, on white
BATCH = 16


@dataclass(frozen=True)
class Features:
    """Pooled features (n, 1280) and maps (n, 352, 8, 8), float16, of n pictures, and what they show."""

    pooled: torch.Tensor
    maps: torch.Tensor
    icon: torch.Tensor
    style: np.ndarray
    composition: torch.Tensor


class Frozen:
    """The vision tower up to its last block, folded, in bfloat16."""

    def __init__(self, model: nn.Module) -> None:
        """Take the model of `backbone.load`; it is changed."""
        from retrieval.features.folding import fold_batch_norms, remove_open_gates

        fold_batch_norms(model)
        remove_open_gates(model)
        self._model = model.to(torch.bfloat16, memory_format=torch.channels_last)
        self._maps: list[torch.Tensor] = []
        model.encoder.blocks[-1].register_forward_hook(lambda _module, _given, output: self._maps.append(output))
        self._mean, self._deviation = (torch.tensor(v).view(1, 3, 1, 1) * 255 for v in (MEAN, DEVIATION))

    def __call__(self, pictures: Sequence[Image.Image]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return pooled features and maps of RGB pictures of the right size."""
        pooled = []
        self._maps.clear()
        with torch.inference_mode():
            for start in range(0, len(pictures), BATCH):
                stack = np.stack([np.asarray(picture) for picture in pictures[start : start + BATCH]])
                pixels = torch.from_numpy(stack).permute(0, 3, 1, 2).float().sub_(self._mean).div_(self._deviation)
                given = pixels.to(torch.bfloat16).contiguous(memory_format=torch.channels_last)
                pooled.append(self._model(pixel_values=given).pooler_output[:, :PUBLISHED])
        return torch.cat(pooled).half(), torch.cat(self._maps).half().contiguous()


def compute(frozen: Frozen, inputs: Path, out: Path, shard: int = 0, shards: int = 1) -> None:
    """Write the parts that are missing; several processes may each take a shard."""
    out.mkdir(parents=True, exist_ok=True)
    wanted = icons.icons(inputs)
    for composition in range(COMPOSITIONS):
        for number, style in enumerate(icons.STYLES):
            part = out / f"{composition}-{style}.pt"
            if (composition * len(icons.STYLES) + number) % shards != shard or part.exists():
                continue
            draw = random.Random(f"{composition} {style}")
            places, pictures = [], []
            for place, drawing in icons.drawings(inputs, style, wanted).items():
                drawn = drawing()
                pictures.append(icons.composed(drawn, draw) if composition else icons.on_white(drawn))
                places.append(place)
            pooled, maps = frozen(pictures)
            unfinished = part.with_suffix(".part")
            torch.save({"icon": torch.tensor(places), "pooled": pooled, "maps": maps}, unfinished)
            unfinished.rename(part)
            print(f"features: {part.stem}, {len(places)} pictures", flush=True)


def read(folder: Path) -> Features:
    """Return all parts that are there; the maps stay on disk until they are used."""
    parts = sorted(folder.glob("*-*.pt"))
    loaded = [torch.load(part, mmap=True, weights_only=True) for part in parts]
    counts = [len(one["icon"]) for one in loaded]
    return Features(
        pooled=torch.cat([one["pooled"] for one in loaded]),
        maps=torch.cat([one["maps"] for one in loaded]),
        icon=torch.cat([one["icon"] for one in loaded]),
        style=np.repeat([part.stem.split("-", 1)[1] for part in parts], counts),
        composition=torch.repeat_interleave(
            torch.tensor([int(part.stem.split("-", 1)[0]) for part in parts]), torch.tensor(counts)
        ),
    )
