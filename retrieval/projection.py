"""Two dimensions of many: the pictures of a gallery laid out on a plane by PCA or t-SNE, kept beside the index."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from retrieval.features import Features, Vectors

log = logging.getLogger(__name__)

FIT_NUMBERS = 2**24  # numbers that PCA looks at, 64 MB and twice that to work; of a larger gallery a random sample
ROWS_AT_ONCE = 4096
TSNE_PICTURES = 20_000  # minutes; beyond that a random sample, and the others between their neighbours
TSNE_DIMENSIONS = 50  # t-SNE's input, by PCA, as in van der Maaten and Hinton (2008), section 4.2
PERPLEXITY = 30
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


def project(vectors: Vectors, method: Method) -> Projection:
    """Lay vectors of shape (n, d), n >= 1, out on a plane; the same vectors always give the same plane.

    PCA: the two eigenvectors of the covariance with the largest eigenvalues (Pearson 1901). t-SNE: van der Maaten and
    Hinton, "Visualizing Data using t-SNE" (2008), by Barnes and Hut's approximation, on the first 50 directions of PCA.
    """
    if method is Method.PCA:
        mean, axes, kept, count = _principal(vectors, 2)
        return Projection(_scores(vectors, mean, axes), count, kept, mean, axes)
    mean, axes, _, _ = _principal(vectors, TSNE_DIMENSIONS)
    scores = _scores(vectors, mean, axes)
    rows = _sample(len(scores), TSNE_PICTURES)
    coordinates = np.empty((len(scores), 2), np.float32)
    coordinates[rows] = _tsne(scores[rows])
    rest = np.setdiff1d(np.arange(len(scores)), rows)
    if len(rest):
        from sklearn.neighbors import NearestNeighbors

        search = NearestNeighbors(n_neighbors=min(NEIGHBOURS, len(rows))).fit(scores[rows])
        for start in range(0, len(rest), ROWS_AT_ONCE):
            some = rest[start : start + ROWS_AT_ONCE]
            coordinates[some] = coordinates[rows][search.kneighbors(scores[some], return_distance=False)].mean(axis=1)
    return Projection(coordinates, len(rows))


def write_projections(build: Path, methods: list[Method]) -> Iterator[tuple[Features, Method]]:
    """Compute and write the maps of a build's exported matrices, yielding each when it is there.

    Raises:
        OSError: the build cannot be written.
    """
    for method in methods:
        for features in Features:
            if method is Method.TSNE:
                log.info("laying %s out by t-SNE: seconds for 2,000 pictures, minutes for 20,000 or more ...", features)
            # Mapped read-only: the matrices may be larger than the memory.
            found = project(np.load(build / f"{features}.npy", mmap_mode="r"), method)
            arrays: dict[str, Any] = {name: value for name, value in vars(found).items() if value is not None}
            path = projection_path(build, features, method)
            temporary = path.with_suffix(".tmp")  # of one name, since the gallery's lock lets one builder write
            with temporary.open("wb") as file:
                np.savez(file, **arrays)
            temporary.replace(path)
            yield features, method


def read_projection(build: Path, features: Features, method: Method, count: int, dimensions: int) -> Projection:
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


def projection_path(build: Path, features: Features, method: Method) -> Path:
    """Return where a map of a build lies; readers see by the file whether it is there."""
    return build / f"map-{features}-{method}.npz"


def _principal(vectors: Vectors, count: int) -> tuple[Vectors, Vectors, float, int]:
    """Return mean, shape (d,), the first principal axes, shape (count, d), their share of variance, and of how many.

    Axes that the vectors do not have (fewer vectors than axes, or all the same) are zero.
    """
    from sklearn.decomposition import PCA  # a second to import, which only who computes a map has to spend

    rows = _sample(len(vectors), max(1, FIT_NUMBERS // vectors.shape[1]))
    sample = np.ascontiguousarray(vectors[rows], np.float32)
    axes = np.zeros((count, vectors.shape[1]), np.float32)
    if len(sample) < 2 or not np.ptp(sample, axis=0).any():
        return sample[0].copy(), axes, 1.0, len(rows)
    possible = min(count, *sample.shape)
    # ARPACK is exact and the fastest for a few axes, but cannot find all there are.
    solver = "arpack" if possible < min(sample.shape) else "full"
    pca = PCA(possible, svd_solver=solver, random_state=0).fit(sample)
    axes[:possible] = pca.components_
    return np.asarray(pca.mean_, np.float32), axes, float(pca.explained_variance_ratio_.sum()), len(rows)


def _scores(vectors: Vectors, mean: Vectors, axes: Vectors) -> Vectors:
    parts = range(0, len(vectors), ROWS_AT_ONCE)
    return np.concatenate([(vectors[start : start + ROWS_AT_ONCE] - mean) @ axes.T for start in parts])


def _tsne(scores: Vectors) -> Vectors:
    from sklearn.manifold import TSNE

    if len(scores) < 3 or not np.ptp(scores, axis=0).any():
        return scores[:, :2]
    perplexity = min(PERPLEXITY, (len(scores) - 1) / 3)
    tsne = TSNE(perplexity=perplexity, init="pca", random_state=0)
    return np.asarray(tsne.fit_transform(scores), np.float32)


def _sample(count: int, limit: int) -> npt.NDArray[np.intp]:
    """Return up to `limit` of the positions 0 .. count - 1, drawn at random, always the same, ascending."""
    if count <= limit:
        return np.arange(count)
    return np.sort(np.random.default_rng(0).choice(count, limit, replace=False))
