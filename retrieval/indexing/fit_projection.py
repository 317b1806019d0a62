"""Project the vectors of a gallery to a plane by PCA or t-SNE, and write the maps to the index."""

import logging
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from retrieval.features import Vectors
from retrieval.storage.projection import NEIGHBOURS, Method, Projection, projection_path

log = logging.getLogger(__name__)

FIT_NUMBERS = 2**24  # values that PCA is fitted to (64 MB, plus twice that while fitting); larger galleries are sampled
ROWS_AT_ONCE = 4096
TSNE_PICTURES = 20_000  # takes minutes; larger galleries are sampled, and other images placed near their neighbours
TSNE_DIMENSIONS = 50  # t-SNE's input, by PCA, as in van der Maaten and Hinton (2008), section 4.2
PERPLEXITY = 30


def project(vectors: Vectors, method: Method) -> Projection:
    """Project vectors of shape (n, d), n >= 1, to a plane; the result is deterministic.

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


def write_projections(build: Path, names: Collection[str], methods: Collection[Method]) -> Iterator[tuple[str, Method]]:
    """Compute and write maps from a build's exported matrices, yielding each one; raise OSError if a write fails."""
    for method in methods:
        for features in names:
            if method is Method.TSNE:
                log.info("computing the t-SNE map of %s (seconds for 2,000 images, minutes for 20,000) ...", features)
            # Memory-mapped, because the matrices may not fit into memory.
            found = project(np.load(build / f"{features}.npy", mmap_mode="r"), method)
            arrays: dict[str, Any] = {name: value for name, value in vars(found).items() if value is not None}
            path = projection_path(build, features, method)
            temporary = path.with_suffix(".tmp")  # the name is safe, because the gallery's lock admits one builder
            with temporary.open("wb") as file:
                np.savez(file, **arrays)
            temporary.replace(path)
            yield features, method


def _principal(vectors: Vectors, count: int) -> tuple[Vectors, Vectors, float, int]:
    """Return mean, shape (d,), principal axes, shape (count, d), their share of the variance, and the sample size.

    Axes that do not exist, because there are too few vectors or all are equal, are zero.
    """
    from sklearn.decomposition import PCA  # takes a second to import

    rows = _sample(len(vectors), max(1, FIT_NUMBERS // vectors.shape[1]))
    sample = np.ascontiguousarray(vectors[rows], np.float32)
    axes = np.zeros((count, vectors.shape[1]), np.float32)
    if len(sample) < 2 or not np.ptp(sample, axis=0).any():
        return sample[0].copy(), axes, 1.0, len(rows)
    possible = min(count, *sample.shape)
    # ARPACK is exact and the fastest for a few axes, but cannot compute all axes.
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
    """Return at most `limit` of the positions 0 .. count - 1, drawn with a fixed seed, ascending."""
    if count <= limit:
        return np.arange(count)
    return np.sort(np.random.default_rng(0).choice(count, limit, replace=False))
