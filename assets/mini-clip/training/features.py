"""Every icon in every style, large and small, once through the vision tower.

Written in parts; parts that exist are not computed again.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import icons
import numpy as np
import torch
from backbone import DEVIATION, MEAN, PUBLISHED
from PIL import Image
from torch import nn

LARGE = "large"
KINDS = {LARGE: icons.on_white, "small": icons.small_on_white}
BATCH = 16


@dataclass(frozen=True)
class Drawn:
    """Pooled features (n, 1280), float16, of pictures of icons, and which icon each shows."""

    pooled: torch.Tensor
    icon: torch.Tensor


class Frozen:
    """The published features of pictures, by the vision tower in bfloat16 as the app runs it."""

    def __init__(self, model: nn.Module) -> None:
        """Take the model of `backbone.load`; it is changed."""
        from retrieval.features.folding import fold_batch_norms, remove_open_gates

        fold_batch_norms(model)
        remove_open_gates(model)
        self._model = model.to(torch.bfloat16, memory_format=torch.channels_last)
        self._mean, self._deviation = (torch.tensor(v).view(1, 3, 1, 1) * 255 for v in (MEAN, DEVIATION))

    def __call__(self, pictures: Sequence[Image.Image]) -> torch.Tensor:
        """Return pooled features (n, 1280), float16, of RGB pictures of the right size."""
        pooled = []
        with torch.inference_mode():
            for start in range(0, len(pictures), BATCH):
                stack = np.stack([np.asarray(picture) for picture in pictures[start : start + BATCH]])
                pixels = torch.from_numpy(stack).permute(0, 3, 1, 2).float().sub_(self._mean).div_(self._deviation)
                given = pixels.to(torch.bfloat16).contiguous(memory_format=torch.channels_last)
                pooled.append(self._model(pixel_values=given).pooler_output[:, :PUBLISHED])
        return torch.cat(pooled).half()


def compute(frozen: Frozen, inputs: Path, out: Path) -> None:
    """Write the parts that are missing, one for each kind and style."""
    out.mkdir(parents=True, exist_ok=True)
    wanted = icons.icons(inputs)
    for style in icons.STYLES:
        missing = [kind for kind in KINDS if not _part(out, kind, style).exists()]
        if not missing:
            continue
        drawn = {place: drawing() for place, drawing in icons.drawings(inputs, style, wanted).items()}
        for kind in missing:
            pooled = frozen([KINDS[kind](drawing) for drawing in drawn.values()])
            unfinished = out / "unfinished"
            torch.save({"icon": torch.tensor(list(drawn)), "pooled": pooled}, unfinished)
            unfinished.rename(_part(out, kind, style))
            print(f"features: {kind} {style}, {len(drawn)} pictures", flush=True)


def read(folder: Path, kinds: Sequence[str] = tuple(KINDS), styles: Sequence[str] = icons.STYLES) -> Drawn:
    """Return what was computed of some kinds and styles."""
    loaded = [torch.load(_part(folder, kind, style), weights_only=True) for style in styles for kind in kinds]
    return Drawn(torch.cat([one["pooled"] for one in loaded]), torch.cat([one["icon"] for one in loaded]))


def _part(folder: Path, kind: str, style: str) -> Path:
    return folder / f"{kind}-{style}.pt"
