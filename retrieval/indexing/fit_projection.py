"""Project the vectors of a gallery to a plane by PCA or t-SNE, and write the maps to the index."""

import logging
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from retrieval.engines.base import Earlier, GalleryVectors
from retrieval.engines.item_ids import KEY_BYTES
from retrieval.engines.lock import IndexInUse, acquire_lock
from retrieval.engines.separate import run_in_process
from retrieval.errors import IndexingError, disk_errors
from retrieval.features import Vectors, default_first
from retrieval.files import whole_file
from retrieval.storage.manifest import read_manifest
from retrieval.storage.projection import NEIGHBOURS, Method, Projection, projection_path, read_projection

log = logging.getLogger(__name__)

FIT_NUMBERS = 2**24  # values that PCA is fitted to (64 MB, plus twice that while fitting); larger galleries are sampled
ROWS_AT_ONCE = 4096
TSNE_PICTURES = 20_000  # takes minutes; larger galleries are sampled, and other images placed near their neighbours
TSNE_DIMENSIONS = 50  # t-SNE's input, by PCA, as in van der Maaten and Hinton (2008), section 4.2
PERPLEXITY = 30
LEAST_KEPT = 0.8  # share of a t-SNE map's images that it was computed from; with fewer, it is computed again


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
    _place_near(scores, coordinates, rows, np.setdiff1d(np.arange(len(scores)), rows))
    return Projection(coordinates, len(rows))


def write_projections(build: Path, maps: Iterable[tuple[str, Method]]) -> Iterator[tuple[str, Method]]:
    """Compute and write maps from a build's exported matrices, yielding each one; raise OSError if a write fails."""
    for features, method in maps:
        if method is Method.TSNE:
            log.info("computing the t-SNE map of %s (seconds for 2,000 images, minutes for 20,000) ...", features)
        # Memory-mapped, because the matrices may not fit into memory.
        _write(build, features, method, project(np.load(build / f"{features}.npy", mmap_mode="r"), method))
        yield features, method


def keep_tsne(build: Path, gallery: GalleryVectors, earlier: Earlier) -> None:
    """Write the t-SNE maps of an earlier state again, with new images near their neighbours; OSError if that fails.

    A map is left out if fewer than `LEAST_KEPT` of its images were there when t-SNE computed it.
    """
    keys, known = (each.ids.astype(f"S{KEY_BYTES}") for each in (gallery, earlier.gallery))
    order = np.argsort(known, kind="stable")
    at = order[np.minimum(np.searchsorted(known, keys, sorter=order), len(known) - 1)]
    same, gone = known[at] == keys, len(known) - int(np.isin(known, keys).sum())
    for features in earlier.gallery.features:
        try:
            dimensions = earlier.gallery.vectors(features).shape[1]
            found = read_projection(earlier.folder, features, Method.TSNE, len(known), dimensions)
        except (OSError, ValueError):
            continue  # there is none
        computed_from = min(found.computed_from - gone, int(same.sum()))
        if computed_from >= LEAST_KEPT * min(len(keys), TSNE_PICTURES):
            coordinates, old = found.coordinates[at], np.flatnonzero(same)
            rows = old[_sample(len(old), TSNE_PICTURES)]
            _place_near(gallery.vectors(features), coordinates, rows, np.flatnonzero(~same))
            _write(build, features, Method.TSNE, Projection(coordinates, computed_from))


def _place_near(vectors: Vectors, coordinates: Vectors, rows: npt.NDArray[np.intp], rest: npt.NDArray[np.intp]) -> None:
    """Set the coordinates of the `rest` to the mean of their nearest neighbours among `rows`."""
    if not len(rest):
        return
    from sklearn.neighbors import NearestNeighbors

    search = NearestNeighbors(n_neighbors=min(NEIGHBOURS, len(rows))).fit(vectors[rows])
    for start in range(0, len(rest), ROWS_AT_ONCE):
        some = rest[start : start + ROWS_AT_ONCE]
        coordinates[some] = coordinates[rows][search.kneighbors(vectors[some], return_distance=False)].mean(axis=1)


def _write(build: Path, features: str, method: Method, found: Projection) -> None:
    arrays: dict[str, Any] = {name: value for name, value in vars(found).items() if value is not None}
    with whole_file(projection_path(build, features, method)) as file:
        np.savez(file, **arrays)


def add_maps(gallery: Path, method: Method, check: Callable[[], None] = lambda: None, wait: float = 0) -> list[str]:
    """Compute the maps that a published gallery lacks; return their feature types.

    They are computed in a process of its own with a low priority, which ends when `check` raises an exception. Maps
    that another process still computes after `wait` seconds, or whose gallery is changed meanwhile, are left to the
    next call.

    Raises:
        IndexingError: the maps cannot be written.
    """
    manifest = read_manifest(gallery)
    if manifest is None or manifest.collections:
        return []
    snapshot = gallery / manifest.snapshot

    def missing() -> list[str]:
        return [each for each in default_first(manifest.known) if not projection_path(snapshot, each, method).exists()]

    if not missing() or not os.access(snapshot, os.W_OK):
        return []
    try:
        lock = acquire_lock(snapshot, wait, name="maps.lock", create=False)
    except IndexInUse:
        return []
    try:
        lacking = missing()
        with disk_errors(gallery):
            run_in_process(_write_maps, (snapshot, [(each, method) for each in lacking]), check)
    except IndexingError:
        if read_manifest(gallery) == manifest:
            raise
        return []  # it was built again or renamed
    finally:
        lock.release()
    return lacking


def _write_maps(snapshot: Path, maps: Iterable[tuple[str, Method]]) -> None:
    os.nice(10)  # searches come first
    for _ in write_projections(snapshot, maps):
        pass


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
