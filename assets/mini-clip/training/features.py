"""Features of all icons in all styles and variants, from the part of the vision tower that is not trained.

There is one file per style; existing files are not computed again.
"""

import multiprocessing
import random
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import backbone
import checkpoints
import icons
import numpy as np
import sources
import torch
import variants
from PIL import Image
from torch.nn import functional
from transformers import EfficientNetModel

from retrieval.memory import keep_freed

LARGE, SMALL, VARIED = range(3)  # variants of each drawing
PLAIN = (LARGE, SMALL)
BATCH = 9
WORKERS = 2  # each needs up to 3.5 GB


@dataclass(frozen=True)
class Drawn:
    """Features of n images of icons.

    Attributes:
        pooled: pooled features (n, 1280); NaN for varied images.
        icon: the icon of each image (n,).
        style: the style of each image (n,).
        variant: the variant of each image (n,).
        rows: the row of each image in the maps of its style (n,).
        maps: for each style, the input of the tower's trained part (m, 16, 16, 120), memory-mapped from its file.
    """

    pooled: torch.Tensor
    icon: torch.Tensor
    style: torch.Tensor
    variant: torch.Tensor
    rows: torch.Tensor
    maps: Sequence[torch.Tensor]

    def chosen(self, mask: torch.Tensor) -> "Drawn":
        """Return the images selected by a mask (n,)."""
        parts = (self.pooled, self.icon, self.style, self.variant, self.rows)
        return Drawn(*(part[mask] for part in parts), self.maps)

    def plain(self) -> "Drawn":
        """Return the images on white that are not varied."""
        return self.chosen(torch.isin(self.variant, torch.tensor(PLAIN)))

    def of_style(self, name: str) -> torch.Tensor:
        """Return a mask (n,) of the images in a style."""
        return self.style == icons.STYLES.index(name)

    def given(self, places: Sequence[int] | torch.Tensor) -> torch.Tensor:
        """Return the input of the trained part for k images, (k, 120, 16, 16), float32."""
        found = [self.maps[self.style[place]][self.rows[place]] for place in places]
        return torch.stack(found).permute(0, 3, 1, 2).float()


class Frozen:
    """The vision tower, as the app runs it."""

    def __init__(self, model: EfficientNetModel) -> None:
        """Prepare the model of `backbone.load`, which is modified."""
        from retrieval.features.folding import fold_batch_norms, remove_open_gates

        fold_batch_norms(model)
        remove_open_gates(model)
        self._model = model.to(backbone.dtype(), memory_format=torch.channels_last)
        self._mean, self._deviation = (
            torch.tensor(values).view(1, 3, 1, 1) * 255 for values in (backbone.MEAN, backbone.DEVIATION)
        )

    def maps(self, batch: Sequence[Image.Image]) -> torch.Tensor:
        """Return the input of the trained part, (n, 120, 16, 16), for RGB images of the model's input size."""
        stack = np.stack([np.asarray(picture) for picture in batch])
        pixels = torch.from_numpy(stack).permute(0, 3, 1, 2).float().sub_(self._mean).div_(self._deviation)
        with torch.inference_mode():
            states = self._model.embeddings(pixels.to(backbone.dtype()).contiguous(memory_format=torch.channels_last))
            for block in self._model.encoder.blocks[: backbone.CUT]:
                states = block(states)
        return states

    def pooled(self, maps: torch.Tensor) -> torch.Tensor:
        """Return the pooled features (n, 1280) of maps."""
        states = maps
        with torch.inference_mode():
            for block in self._model.encoder.blocks[backbone.CUT :]:
                states = block(states)
            top = functional.relu6(self._model.encoder.top_bn(self._model.encoder.top_conv(states)))
        return top.mean((2, 3))[:, : backbone.PUBLISHED]


def compute(inputs: Path, out: Path) -> None:
    """Write the missing files, each in a process with one thread.

    Raises:
        RuntimeError: an existing file was made from other inputs.
    """
    out.mkdir(parents=True, exist_ok=True)
    missing = [style for style in icons.STYLES if not _load(out, style)]
    with ProcessPoolExecutor(WORKERS, multiprocessing.get_context("spawn")) as pool:
        for style, count in pool.map(_write, [inputs] * len(missing), [out] * len(missing), missing):
            print(f"features: {style}, {count} pictures", flush=True)


def read(folder: Path) -> Drawn:
    """Return the features of all styles; the maps are memory-mapped.

    Raises:
        FileNotFoundError: a style is missing.
    """
    loaded = []
    for style in icons.STYLES:
        if not (one := _load(folder, style)):
            raise FileNotFoundError(f"{_file(folder, style)} is missing; run `train.py` to compute it.")
        loaded.append(one)
    icon, variant, pooled = (torch.cat([one[name] for one in loaded]) for name in ("icon", "variant", "pooled"))
    counts = torch.tensor([len(one["icon"]) for one in loaded])
    return Drawn(
        pooled=pooled,
        icon=icon,
        style=torch.arange(len(loaded)).repeat_interleave(counts),
        variant=variant,
        rows=torch.cat([torch.arange(count) for count in counts.tolist()]),
        maps=[one["maps"] for one in loaded],
    )


def _write(inputs: Path, out: Path, style: str) -> tuple[str, int]:
    torch.set_num_threads(1)
    keep_freed(all_sizes=True)
    frozen = Frozen(backbone.load(sources.vision_weights(inputs))[0])
    found: dict[str, list[torch.Tensor]] = {"icon": [], "variant": [], "maps": [], "pooled": []}
    waiting: list[tuple[int, int, Image.Image]] = []

    def pass_on() -> None:
        numbers, variant = (torch.tensor([one[part] for one in waiting]) for part in (0, 1))
        maps = frozen.maps([picture for _, _, picture in waiting])
        plain = torch.isin(variant, torch.tensor(PLAIN))
        pooled = torch.full((len(waiting), backbone.PUBLISHED), torch.nan, dtype=torch.bfloat16)
        pooled[plain] = frozen.pooled(maps[plain]).bfloat16()
        found["icon"].append(numbers)
        found["variant"].append(variant)
        found["maps"].append(maps.permute(0, 2, 3, 1).bfloat16().contiguous())
        found["pooled"].append(pooled)
        waiting.clear()

    for place, drawing in icons.drawings(inputs, style, icons.icons(inputs)).items():
        drawn = drawing()
        waiting.append((place, LARGE, variants.on_white(drawn)))
        waiting.append((place, SMALL, variants.small_on_white(drawn)))
        waiting.append((place, VARIED, variants.varied(drawn, random.Random(f"{style} {place}"))))
        if len(waiting) >= BATCH:
            pass_on()
    if waiting:
        pass_on()
    checkpoints.save({name: torch.cat(parts) for name, parts in found.items()}, _file(out, style), _made_from(style))
    return style, sum(len(part) for part in found["icon"])


def files(folder: Path) -> list[Path]:
    """Return the files of all styles."""
    return [_file(folder, style) for style in icons.STYLES]


def _load(folder: Path, style: str) -> dict[str, torch.Tensor] | None:
    return checkpoints.load(_file(folder, style), _made_from(style), mmap=True)


def _file(folder: Path, style: str) -> Path:
    return folder / f"{style}.pt"


def _made_from(style: str) -> str:
    return checkpoints.fingerprint(style, sources.WHEELS, sources.NPM, backbone.PIXELS, backbone.CUT)
