"""Maps of a gallery on disk: every picture's place on a plane."""

import logging
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from retrieval.features import Vectors

log = logging.getLogger(__name__)


NEIGHBOURS = 3  # among which a picture is placed that was not there when t-SNE was computed


class Method(StrEnum):
    """How the plane is found: the two directions of largest variance, or neighbourhoods."""

    PCA = "pca"
    TSNE = "tsne"


@dataclass(frozen=True)
class Projection:
    """The places of all pictures of a gallery on a plane.

    Attributes:
        coordinates: shape (n, 2), float32, in gallery order.
        computed_from: number of pictures that the plane was found from; n, or fewer in a large gallery.
        kept: share of the variance that is left on the plane, from 0 to 1; None for t-SNE, which has no such figure.
        mean: shape (d,), and
        axes: shape (2, d), the PCA that takes a vector v to axes @ (v - mean); both None for t-SNE.
    """

    coordinates: Vectors
    computed_from: int
    kept: float | None = None
    mean: Vectors | None = None
    axes: Vectors | None = None

    def place(self, vector: Vectors) -> Vectors | None:
        """Return where a vector of shape (d,) lies, shape (2,); None for t-SNE, which maps no new vectors."""
        if self.mean is None or self.axes is None:
            return None
        placed: Vectors = self.axes @ (vector - self.mean)
        return placed


def read_projection(build: Path, features: str, method: Method, count: int, dimensions: int) -> Projection:
    """Return a map of `count` pictures of `dimensions` numbers.

    Raises:
        OSError: it cannot be read.
        ValueError: it is damaged, or made from other vectors.
    """
    path = projection_path(build, features, method)
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        found = Projection(
            arrays["coordinates"],
            int(arrays["computed_from"]),
            float(arrays["kept"]) if method is Method.PCA else None,
            arrays["mean"] if method is Method.PCA else None,
            arrays["axes"] if method is Method.PCA else None,
        )
    except (BadZipFile, KeyError, EOFError, TypeError, AttributeError) as error:
        raise ValueError(f"{path.name} cannot be read: {error}") from error
    shapes = {"coordinates": (count, 2), "mean": (dimensions,), "axes": (2, dimensions)}
    for name, shape in shapes.items():
        array: npt.NDArray[np.generic] | None = getattr(found, name)
        if array is not None and (array.shape != shape or array.dtype != np.float32 or not np.isfinite(array).all()):
            raise ValueError(f"{name} of {path.name} has shape {array.shape}, not {shape}, or holds no numbers")
    return found


def projection_path(build: Path, features: str, method: Method) -> Path:
    """Return where a map of a build lies; readers see by the file whether it is there."""
    return build / f"map-{features}-{method}.npz"
