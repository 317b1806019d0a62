"""Raw pixels: the image resized to a small square, every channel of every pixel one number."""

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image
from typing_extensions import override

from retrieval.features.base import (
    DEFAULT_PIXEL_SIZE,
    MAX_PIXEL_SIZE,
    FeatureIdentity,
    FeatureOptions,
    FeatureSet,
    FeatureType,
    ModelChoice,
    Vectors,
)


class PixelFeatures(FeatureType):
    """Raw pixels; the side of the square is an option."""

    name = "pixels"
    title = "Raw pixels"
    phrase = "raw pixels"
    about = "compare colour and layout"

    @override
    def load(self, options: FeatureOptions, choice: ModelChoice | None) -> FeatureSet:
        return Pixels(options.pixel_size)

    @override
    def restore(self, identity: FeatureIdentity) -> FeatureSet:
        return Pixels(self.image_side(identity.dimensions))

    @override
    def is_portable(self, identity: FeatureIdentity) -> bool:
        side = self.image_side(identity.dimensions)
        return 1 <= side <= MAX_PIXEL_SIZE and identity == Pixels(side).identity

    @override
    def image_side(self, dimensions: int) -> int:
        return math.isqrt(dimensions // 3)

    @override
    def differences(self, options: FeatureOptions, identity: FeatureIdentity) -> list[str]:
        side = self.image_side(identity.dimensions)
        if options.pixel_size in (DEFAULT_PIXEL_SIZE, side):
            return []
        return [f"with pixel size {side}, not {options.pixel_size}"]


class Pixels(FeatureSet):
    """Images resized to a square of one size."""

    def __init__(self, size: int) -> None:
        """Set the side of the square, in pixels."""
        self._size = size
        self.identity = FeatureIdentity("pixels", "1", f"bicubic {size} x {size}", "float32", size * size * 3)

    @override
    def embed(self, pictures: Sequence[Image.Image]) -> Vectors:
        return embed_pixels(pictures, self._size)


def embed_pixels(pictures: Sequence[Image.Image], size: int) -> Vectors:
    """Return upright RGB images as vectors of shape (n, size * size * 3), values in [0, 1].

    Each image is resized (bicubic, ignoring its aspect ratio) to size x size; the order is rows, columns, channels.
    """
    vectors = np.empty((len(pictures), size * size * 3), np.float32)
    for row, picture in zip(vectors, pictures, strict=True):
        small = picture.resize((size, size), Image.Resampling.BICUBIC)
        row[:] = np.asarray(small, np.float32).reshape(-1)
    vectors /= 255
    return vectors
