"""Features: a batch of pictures (or texts) becomes float32 vectors, one row each."""

from enum import StrEnum

import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.float32]


class Features(StrEnum):
    """What two pictures are compared by: their raw pixels, or what a CLIP model sees in them."""

    PIXELS = "pixels"
    CLIP = "clip"
