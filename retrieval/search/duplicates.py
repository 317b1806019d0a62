"""Hide near-duplicates in a ranking."""

import numpy as np
import numpy.typing as npt

from retrieval.features.base import Vectors

BLOCK = 256  # images compared with each other at once
DISTINCT_MAX = 1000  # the maximum number of results without near-duplicates, since each is compared with all candidates


def without_duplicates(vectors: Vectors, alike: float, enough: int) -> tuple[list[int], list[int], bool]:
    """Return the images to keep (at most `enough`), how many near-duplicates each has, and whether this is complete.

    `vectors` have unit length, shape (n, d), the closest image first. An image is a near-duplicate of the first kept
    image whose cosine with it is at least `alike`. The result is complete if there are more images to keep than
    `enough`; otherwise a longer ranking could add images and near-duplicates.
    """
    kept: list[int] = []
    duplicates: list[int] = []
    seen = np.empty((min(enough, len(vectors)), vectors.shape[1]), np.float32)  # vectors of the kept images
    for start in range(0, len(vectors), BLOCK):
        block = vectors[start : start + BLOCK]
        before = len(kept)
        near_kept: npt.NDArray[np.bool_] = np.greater_equal(block @ seen[:before].T, alike)
        stands_for = near_kept.argmax(axis=1) if before else np.zeros(len(block), np.intp)
        left_out: npt.NDArray[np.bool_] = np.any(near_kept, axis=1)
        near: npt.NDArray[np.bool_] = np.greater_equal(block @ block.T, alike)
        new: list[int] = []  # indices within the block of the images kept from it
        for place in range(len(block)):
            if left_out[place]:
                duplicates[stands_for[place]] += 1
            elif new and near[place, new].any():
                duplicates[before + int(near[place, new].argmax())] += 1
            elif len(kept) == enough:
                return kept, duplicates, True
            else:
                seen[len(kept)] = block[place]
                kept.append(start + place)
                duplicates.append(0)
                new.append(place)
    return kept, duplicates, False
