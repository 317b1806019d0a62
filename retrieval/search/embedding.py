"""The vector of a query: of its image, of its text, or of both; computed once and cached."""

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial

import numpy as np
from PIL import Image

from retrieval.errors import PictureError, QueryError
from retrieval.features import FEATURES, Vectors
from retrieval.features.base import FeatureSet
from retrieval.features.loaded import LoadedFeatures
from retrieval.pictures.distortion import Distortion
from retrieval.pictures.loading import (
    OWNER,
    PictureLimits,
    PictureSource,
    Region,
    cut_out,
    load_picture,
    read_bytes,
)
from retrieval.search.query import Query
from retrieval.search.vector_cache import VectorCache
from retrieval.settings import TEMPLATES
from retrieval.storage.reader import GalleryIndex

MAX_TEXT = 500  # characters of a text; the models read 40 to 77 tokens of it
EXCLUDE_WEIGHT = 0.5  # how strongly excluded text pushes away, next to 1 for the rest


@dataclass(frozen=True)
class Embedded:
    """A query's plain vector, shape (d,), and the milliseconds spent on decoding and embedding."""

    vector: Vectors
    decode: float = 0.0
    features: float = 0.0


class QueryEmbedder:
    """Turns queries into vectors, with the same feature sets the index was built with. Thread-safe.

    `templates` are sentences with `{}` for the query text; the mean of their vectors is the text's vector.
    `limits` apply to query images.
    """

    def __init__(self, templates: Sequence[str] = TEMPLATES, limits: PictureLimits = OWNER) -> None:
        self.loaded = LoadedFeatures()
        self.limits = limits
        self._templates = tuple(templates)
        self.cache = VectorCache()

    def embed(self, index: GalleryIndex, query: Query) -> Embedded:
        """Return the vector of a query.

        With text, it is the weighted sum of the unit vectors of image and text, minus a part of the excluded text's,
        scaled to unit length again. Raise PictureError without a usable image or text, QueryError for an unknown item
        or features that do not support text, and ModelError if the index's model is not available.
        """
        text, without = _cleaned(query.text), _cleaned(query.without)
        if not (text or without):
            return self._picture(index, query)
        if not FEATURES[query.features].takes_text:
            known = " or ".join(kind.phrase for kind in FEATURES.values() if kind.takes_text)
            raise QueryError(f"Text search needs {known}. Choose other features, or clear the text.")
        if not text and not query.has_picture:
            raise QueryError("There is only something to exclude. Also describe what to find, or choose an image.")
        share = query.balance if text and query.has_picture else float(bool(text))
        picture = self._picture(index, query) if share < 1 else None
        started = time.perf_counter()
        mixed = np.zeros(index.manifest.dimensions(query.features), np.float32)
        if picture is not None:
            mixed += (1 - share) * picture.vector
        if text:
            mixed += share * self._text(index, query.features, text)
        if without:
            mixed -= EXCLUDE_WEIGHT * self._text(index, query.features, without)
        length = float(np.linalg.norm(mixed))
        vector = mixed / length if length > 0 else mixed
        spent = (time.perf_counter() - started) * 1e3
        return Embedded(vector, picture.decode if picture else 0.0, spent + (picture.features if picture else 0.0))

    def _picture(self, index: GalleryIndex, query: Query) -> Embedded:
        given = _given(index, query)
        vectors = index.vectors(query.features)
        if query.position is not None and query.is_whole_picture:
            return Embedded(vectors[query.position])
        started = time.perf_counter()
        digest, source = _digest(given)
        key = _key(index, digest, query.region, query.distortion, query.features)
        known = key in self.cache
        decoded = time.perf_counter()

        def embed(_: object) -> Vectors:
            nonlocal decoded
            picture = query.distortion.apply(_load(source, query.region, self.limits))
            decoded = time.perf_counter()
            return self.embed_pictures(index, query.features, [picture])

        [vector] = self.cache.vectors([key], embed)
        features = 0.0 if known else (time.perf_counter() - decoded) * 1e3  # includes waiting for another search
        return Embedded(vector, (decoded - started) * 1e3, features)

    def feature_set(self, index: GalleryIndex, features: str) -> FeatureSet:
        """Return the feature set that an index was built with, loaded on first use.

        Raise QueryError if the gallery does not have this feature type, ModelError if its model is not available.
        """
        index.vectors(features)  # raises the QueryError
        return self.loaded.get(features, index.manifest.features[features])

    def embed_pictures(self, index: GalleryIndex, features: str, pictures: Sequence[Image.Image]) -> Vectors:
        """Return upright RGB images as vectors comparable to those of an index, shape (n, d); see `feature_set`."""
        return self.feature_set(index, features).embed_query(pictures)

    def _text(self, index: GalleryIndex, features: str, text: str) -> Vectors:
        """Return the mean of a text's unit vectors in all templates, scaled to unit length again."""
        key = (text, self._templates, features, index.manifest.features[features])

        def embed(_: object) -> list[Vectors]:
            sentences = [template.replace("{}", text) for template in self._templates]
            mean = self.feature_set(index, features).embed_texts(sentences).mean(axis=0)
            return [mean / np.linalg.norm(mean)]

        return self.cache.vectors([key], embed)[0]


class QueryPicture:
    """The image of a query under several distortions: decoded at most once, its vectors cached.

    A gallery item is represented by its thumbnail even if undistorted, so that only the distortion makes a difference.
    Raise PictureError without a readable image, QueryError for an unknown item.
    """

    def __init__(self, embedder: QueryEmbedder, index: GalleryIndex, query: Query) -> None:
        self._embedder = embedder
        self.index = index
        self._region = query.region
        self._digest, self._source = _digest(_given(index, query))
        self._undistorted: Image.Image | None = None

    def undistorted(self) -> Image.Image:
        """Return the image, upright, in RGB; it is decoded at the first call. Raise PictureError if it is damaged."""
        if self._undistorted is None:
            self._undistorted = _load(self._source, self._region, self._embedder.limits)
        return self._undistorted

    def vectors(self, distortions: Sequence[Distortion]) -> dict[str, Vectors]:
        """Return the vectors of n distorted images by feature type, shape (n, d); errors are those of `embed`."""
        distorted = cache(lambda distortion: distortion.apply(self.undistorted()))  # once for all feature types

        def embed(features: str, places: Sequence[int]) -> Vectors:
            return self._embedder.embed_pictures(self.index, features, [distorted(distortions[i]) for i in places])

        found = {}
        for features in self.index.features:
            keys = [_key(self.index, self._digest, self._region, each, features) for each in distortions]
            found[features] = np.stack(self._embedder.cache.vectors(keys, partial(embed, features)))
        return found


def _given(index: GalleryIndex, query: Query) -> PictureSource:
    """Return the image of a query; for an item its thumbnail, because the gallery's own files may be gone."""
    if query.position is not None:
        if not 0 <= query.position < len(index):
            raise QueryError(f"The gallery has no item {query.position}; it has {len(index):,}.")
        return index.thumbnail(query.position)
    if query.picture is None:
        raise PictureError("There is no query image. Choose one first.")
    return query.picture


def _load(source: PictureSource, region: Region | None, limits: PictureLimits) -> Image.Image:
    picture = load_picture(source, limits)
    return picture if region is None else cut_out(picture, region)


def _key(
    index: GalleryIndex, digest: bytes, region: Region | None, distortion: Distortion, features: str
) -> tuple[object, ...]:
    return (digest, region, distortion, features, index.manifest.features[features])


def _cleaned(text: str) -> str:
    """Return a text with single spaces, checked for its length; halves of surrogate pairs are replaced."""
    cleaned = " ".join(text.encode("utf-8", "replace").decode("utf-8").split())
    if len(cleaned) > MAX_TEXT:
        raise QueryError(f"The text has {len(cleaned):,} characters. Shorten it to {MAX_TEXT} or fewer.")
    return cleaned


def _digest(picture: PictureSource) -> tuple[bytes, PictureSource]:
    """Return a digest of an image, and the image with its file read."""
    if isinstance(picture, Image.Image):
        # Of the pixels that are compared, because a palette or an orientation changes what the bytes mean.
        upright = load_picture(picture)
        return hashlib.blake2b(f"{upright.size}".encode() + upright.tobytes()).digest(), upright
    data = read_bytes(picture)
    return hashlib.blake2b(data).digest(), data
