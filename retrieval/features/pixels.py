"""Raw pixels as features: the picture resized to a square, every channel value one number."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from retrieval.features import Vectors


def embed_pixels(pictures: Sequence[Image.Image], size: int) -> Vectors:
    """Return upright RGB pictures as vectors of shape (n, size * size * 3), values in [0, 1].

    Resized bicubically to size x size, aspect ignored, as a plain comparison of pixels does; rows, then
    columns, then red, green, blue.
    """
    vectors = np.empty((len(pictures), size * size * 3), np.float32)
    for row, picture in zip(vectors, pictures, strict=True):
        small = picture.resize((size, size), Image.Resampling.BICUBIC)
        row[:] = np.asarray(small, np.float32).reshape(-1)
    vectors /= 255
    return vectors
