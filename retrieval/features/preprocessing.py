"""A model's own preprocessing, bit by bit the same but cheaper: 8-bit numbers until a whole batch is normalised.

The processors of transformers turn every picture into float64 and back. What they do to it is nearly always resize,
cut out the middle, rescale and normalise; then Pillow and one pass over the batch do the same. Whether they do is
not guessed: pictures of several shapes go through both once, and a processor that does anything else is asked itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

PROBES = ((64, 48), (50, 133), (301, 300), (640, 97), (1, 1))  # width, height; small and large, upright and not
ROUNDING = 1e-5  # of float32, in numbers of about 1
# Where a processor is not of the usual form.
UNUSUAL = (AttributeError, KeyError, TypeError, ValueError, RuntimeError)


@dataclass(frozen=True)
class _Plan:
    """Resize to a size or to a shorter side, cut out the middle, (value - mean) / deviation."""

    shortest: int | None
    width: int
    height: int
    resample: Image.Resampling
    cut: tuple[int, int] | None
    mean: torch.Tensor
    deviation: torch.Tensor

    def resize(self, picture: Image.Image) -> Image.Image:
        width, height = self.width, self.height
        if self.shortest is not None:
            # Along the longer side rounded down, as transformers does.
            short, long = sorted(picture.size)
            longest = int(self.shortest * long / short)
            width, height = (self.shortest, longest) if picture.width == short else (longest, self.shortest)
        resized = picture if picture.size == (width, height) else picture.resize((width, height), self.resample)
        if self.cut is None:
            return resized
        left, top = (width - self.cut[0]) // 2, (height - self.cut[1]) // 2
        return resized.crop((left, top, left + self.cut[0], top + self.cut[1]))

    def normalise(self, pixels: torch.Tensor) -> torch.Tensor:
        return pixels.float().sub_(self.mean.to(pixels.device)).div_(self.deviation.to(pixels.device))


class Preprocessing:
    """Pictures -> 8-bit numbers (in any thread) -> the model's input, for a whole batch."""

    def __init__(self, processor: Any) -> None:
        """Take an image processor of transformers, and find out whether it can be done without."""
        self._processor = processor
        self._plan = _plan_of(processor)
        if self._plan and not self._agrees():
            self._plan = None

    @property
    def planned(self) -> bool:
        """Whether the processor can be done without."""
        return self._plan is not None

    def prepare(self, pictures: Sequence[Image.Image]) -> torch.Tensor:
        """Return RGB pictures as `normalise` takes them, shape (n, 3, height, width), channels last in memory."""
        if self._plan is None:
            return self._asked(pictures).contiguous(memory_format=torch.channels_last)
        resized = np.stack([np.asarray(self._plan.resize(picture)) for picture in pictures])
        return torch.from_numpy(resized).permute(0, 3, 1, 2)

    def normalise(self, prepared: torch.Tensor) -> torch.Tensor:
        """Return the model's input, float32, on the device of what `prepare` returned."""
        return prepared.float() if self._plan is None else self._plan.normalise(prepared)

    def _asked(self, pictures: Sequence[Image.Image]) -> torch.Tensor:
        pixels: torch.Tensor = self._processor(images=list(pictures), return_tensors="pt")["pixel_values"]
        return pixels

    def _agrees(self) -> bool:
        random = np.random.default_rng(0)
        for width, height in PROBES:
            picture = Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8))
            try:
                own, asked = self.normalise(self.prepare([picture])), self._asked([picture])
            except UNUSUAL:
                return False
            if own.shape != asked.shape or not torch.allclose(own, asked, rtol=ROUNDING, atol=ROUNDING):
                return False
        return True


def _plan_of(processor: Any) -> _Plan | None:
    """Read the settings that nearly all processors have; None where they say something else."""
    try:
        if not (processor.do_resize and processor.do_rescale and processor.do_normalize):
            return None
        size = dict(processor.size)
        shortest = size.get("shortest_edge")
        cut = dict(processor.crop_size) if getattr(processor, "do_center_crop", False) else None
        scale = 1 / processor.rescale_factor
        mean, deviation = (
            torch.tensor([each * scale for each in values], dtype=torch.float32).reshape(3, 1, 1)
            for values in (processor.image_mean, processor.image_std)
        )
        return _Plan(
            shortest=shortest,
            width=0 if shortest else size["width"],
            height=0 if shortest else size["height"],
            resample=Image.Resampling(processor.resample),
            cut=(cut["width"], cut["height"]) if cut else None,
            mean=mean,
            deviation=deviation,
        )
    except UNUSUAL:
        return None
