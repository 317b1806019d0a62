"""Colours: how much of each colour the whole image has, and each of its quarters."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageCms
from typing_extensions import override

from retrieval.features.base import FeatureIdentity, FeatureOptions, FeatureSet, FeatureType, ModelChoice, Vectors

SIDE = 32  # pixels; P@5 on the photos is the same from 32 to 128
LIGHTNESS, TINTS, SPREAD = 4, 3, 40  # bins of L*, of a* and of b*, and where the outer ones of a* and b* are centred
TO_LAB = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")


class ColorFeatures(FeatureType):
    """Histograms in CIELAB, where equal distances look about equally different."""

    name = "color"
    title = "Colours"
    phrase = "colours"
    about = "compare the colours of each part"
    unit_length = True

    @override
    def load(self, options: FeatureOptions, choice: ModelChoice | None) -> FeatureSet:
        return Colors()


class Colors(FeatureSet):
    """A histogram of the image and one of each quarter, after a square root, at unit length together.

    The dot product of square roots is Bhattacharyya's measure of how far two histograms overlap.
    """

    identity = FeatureIdentity("color", "1", "CIELAB 4 x 3 x 3, whole and 4 quarters", "float32", 180)

    @override
    def embed(self, pictures: Sequence[Image.Image]) -> Vectors:
        return np.array([_histograms(picture) for picture in pictures], np.float32)


def _histograms(picture: Image.Image) -> Vectors:
    """Return the vector of an image, shape (180,)."""
    small = picture.resize((SIDE, SIDE), Image.Resampling.BOX)
    lab = np.asarray(ImageCms.applyTransform(small, TO_LAB))  # L* from 0 to 255, and a* and b* as signed bytes
    lightness = _shares(lab[..., 0], 0, 255, LIGHTNESS)
    a, b = (_shares(lab[..., i].view(np.int8), -SPREAD, SPREAD, TINTS) for i in (1, 2))
    tints = (a[..., :, None] * b[..., None, :]).reshape(SIDE, SIDE, -1)
    quarters = (_quarters(lightness).swapaxes(1, 2) @ _quarters(tints)).reshape(4, -1) / SIDE**2
    vector: Vectors = np.sqrt(np.concatenate([quarters.sum(axis=0), quarters.ravel()]) / 2)
    return vector


def _shares(values: npt.NDArray[np.integer], low: int, high: int, bins: int) -> Vectors:
    """Return how values belong to the two nearest bins, so that a small change of a value has a small effect."""
    at = (values.clip(low, high).astype(np.float32) - low) * ((bins - 1) / (high - low))
    shares: Vectors = np.maximum(0, 1 - np.abs(at[..., None] - np.arange(bins, dtype=np.float32)))
    return shares


def _quarters(values: Vectors) -> Vectors:
    """Return values by place, shape (SIDE, SIDE, n), as (4, SIDE * SIDE / 4, n)."""
    half = SIDE // 2
    return values.reshape(2, half, 2, half, -1).swapaxes(1, 2).reshape(4, half * half, -1)
