"""Leave near-duplicates out of a ranking."""

import numpy as np
import numpy.typing as npt

from retrieval.features.base import Vectors

BLOCK = 256  # pictures compared with each other at once when near-duplicates are left out


DISTINCT_MAX = 1000  # pictures shown without near-duplicates; each is compared with every candidate


def without_duplicates(vectors: Vectors, alike: float, enough: int) -> tuple[list[int], list[int], bool]:
    """Return which of some ranked pictures are kept, and how many near-duplicates each of them stands for.

    The third value says whether there were more to keep than `enough`; otherwise a longer ranking could add to both.

    A picture is left out for the first kept one whose vector has a cosine of `alike` or more with its own.

    Args:
        vectors: CLIP vectors of unit length, shape (n, d), closest picture first.
        alike: cosine, 0 to 1.
        enough: how many pictures to keep at most; none is looked at beyond.
    """
    kept: list[int] = []
    duplicates: list[int] = []
    seen = np.empty((min(enough, len(vectors)), vectors.shape[1]), np.float32)  # vectors of those kept
    for start in range(0, len(vectors), BLOCK):
        block = vectors[start : start + BLOCK]
        before = len(kept)
        near_kept: npt.NDArray[np.bool_] = np.greater_equal(block @ seen[:before].T, alike)
        stands_for = near_kept.argmax(axis=1) if before else np.zeros(len(block), np.intp)
        left_out: npt.NDArray[np.bool_] = np.any(near_kept, axis=1)
        near: npt.NDArray[np.bool_] = np.greater_equal(block @ block.T, alike)
        new: list[int] = []  # places in the block of those kept from it
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
