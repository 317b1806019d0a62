"""Maps of a gallery on disk: the coordinates of every image on a plane."""

from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from retrieval.features import Vectors

NEIGHBOURS = 3  # an image that t-SNE did not see is placed at the mean of this many nearest images


class Method(StrEnum):
    """How the plane is computed: by the two directions of largest variance, or by neighbourhoods."""

    PCA = "pca"
    TSNE = "tsne"


@dataclass(frozen=True)
class Projection:
    """The coordinates of all images of a gallery on a plane.

    PCA projects a vector v to axes @ (v - mean). `kept`, `mean` and `axes` are None for t-SNE.
    """

    coordinates: Vectors  # shape (n, 2), float32, in gallery order
    computed_from: int  # number of images that the plane was computed from: n, or fewer in a large gallery
    kept: float | None = None  # share of the variance that the plane preserves, from 0 to 1
    mean: Vectors | None = None  # shape (d,)
    axes: Vectors | None = None  # shape (2, d)

    def place(self, vector: Vectors) -> Vectors | None:
        """Project a vector of shape (d,) to shape (2,); return None for t-SNE, which cannot project new vectors."""
        if self.mean is None or self.axes is None:
            return None
        placed: Vectors = self.axes @ (vector - self.mean)
        return placed


def read_projection(build: Path, features: str, method: Method, count: int, dimensions: int) -> Projection:
    """Return a map of `count` images with vectors of length `dimensions`.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file is damaged, or was computed from other vectors.
    """
    path = projection_path(build, features, method)
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        found = Projection(arrays["coordinates"], int(arrays["computed_from"]))
        if method is Method.PCA:
            found = replace(found, kept=float(arrays["kept"]), mean=arrays["mean"], axes=arrays["axes"])
    except (BadZipFile, KeyError, EOFError, TypeError, AttributeError) as error:
        raise ValueError(f"{path.name} cannot be read: {error}") from error
    shapes = {"coordinates": (count, 2), "mean": (dimensions,), "axes": (2, dimensions)}
    for name, shape in shapes.items():
        array: npt.NDArray[np.generic] | None = getattr(found, name)
        if array is not None and (array.shape != shape or array.dtype != np.float32 or not np.isfinite(array).all()):
            raise ValueError(f"{name} of {path.name} has shape {array.shape}, not {shape}, or contains NaN or infinity")
    return found


def projection_path(build: Path, features: str, method: Method) -> Path:
    """Return the path of a map; the map exists if the file does."""
    return build / f"map-{features}-{method}.npz"
