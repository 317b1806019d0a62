"""The vector of a query, made from its images and texts; the vector of each is computed once and cached."""

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial

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
from retrieval.search.rocchio import length, rocchio, unit
from retrieval.search.terms import cleaned, signed_terms
from retrieval.search.vector_cache import VectorCache
from retrieval.settings import TEMPLATES
from retrieval.storage.reader import GalleryIndex


@dataclass(frozen=True)
class Embedded:
    """A query's plain vector, shape (d,), the milliseconds spent on decoding and embedding, and notes on the query."""

    vector: Vectors
    decode: float = 0.0
    features: float = 0.0
    notes: tuple[str, ...] = ()


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

    def embed(self, index: GalleryIndex, query: Query, pictures: "QueryPictures | None" = None) -> Embedded:
        """Return the vector of a query; `pictures` are its images, for callers that embed by several feature types.

        A feature type that does not support text uses the images alone, and says so in a note. Raise PictureError
        without a usable image or text, QueryError for an unknown item or for text without an image if the feature type
        does not support text, and ModelError if the index's model is not available.
        """
        index.check_features(query.features)
        pictures = pictures or QueryPictures(self, index, query, [query.features])
        notes: tuple[str, ...] = ()
        if query.has_text and not index.supports_text(query.features):
            if not can_search(index, query, query.features):
                raise QueryError(f"{index.text_needs} Choose other features, or clear the text.")
            notes = (f"{FEATURES[query.features].title} do not support text, so only the images are searched.",)
            query = replace(query, text="", without="")
        if query.is_mixed:
            found = self.mix(index, query, pictures)
        else:
            found = self._picture(index, query.features, pictures.main)
        return replace(found, notes=(*notes, *found.notes)) if notes else found

    def mix(
        self, index: GalleryIndex, query: Query, pictures: "QueryPictures", image: Embedded | None = None
    ) -> Embedded:
        """Return the vector of a query of several parts; see `embed`. `image` is its query image's, if it is known.

        The start is the weighted sum (`balance`) of the unit vectors of the query image and of the text to find. To it,
        `rocchio` adds the images to resemble, and subtracts the images and the terms to avoid. The result is as long as
        the vectors of the images to resemble are on average, because vectors of some feature types differ in length.
        """
        wanted, unwanted = signed_terms(query.text)
        unwanted += [each for each in [cleaned(query.without)] if each]
        if not (wanted or query.shows):
            raise QueryError("The query only says what to exclude. Describe what to find, or choose an image.")
        share = query.balance if wanted and query.has_picture else float(bool(wanted))
        if query.has_picture and share < 1:
            image = image or self._picture(index, query.features, pictures.main)
        added = [self._picture(index, query.features, each) for each in pictures.added]
        texts = [self._text(index, query.features, each) for each in (*wanted, *unwanted)]
        parts = [*([image] if image else []), *added, *texts]

        more = [each.vector for each, of in zip(added, query.added, strict=True) if of.more]
        less = [each.vector for each, of in zip(added, query.added, strict=True) if not of.more]
        less += [each.vector for each in texts[len(wanted) :]]
        start = np.zeros(index.manifest.dimensions(query.features), np.float32)
        if image:
            start += np.float32(1 - share) * unit(image.vector)
        if wanted:
            start += np.float32(share) * unit(sum((each.vector for each in texts[: len(wanted)]), np.zeros_like(start)))
        lengths = [length(each) for each in ([image.vector, *more] if image else more)]
        return Embedded(
            rocchio(start, more, less) * np.float32(sum(lengths) / len(lengths) if lengths else 1),
            sum(each.decode for each in parts),
            sum(each.features for each in parts),
            tuple(dict.fromkeys(note for each in texts for note in each.notes)),
        )

    def _picture(self, index: GalleryIndex, features: str, given: "QueryPicture") -> Embedded:
        query = given.query
        if query.position is not None and query.is_whole_picture:
            [vector] = index.vectors_at(features, np.array([_known_position(index, query.position)]))
            return Embedded(vector)
        started = time.perf_counter()
        names = list(dict.fromkeys([features, *given.together]))
        keys = [_key(index, given.digest, query.region, query.distortion, name) for name in names]
        known = keys[0] in self.cache
        decoded = time.perf_counter()

        def embed(places: Sequence[int]) -> list[Vectors]:
            nonlocal decoded
            distorted = query.distortion.apply(given.undistorted())
            decoded = time.perf_counter()
            return [self.embed_pictures(index, names[place], [distorted])[0] for place in places]

        vector, *_ = self.cache.vectors(keys, embed)
        if given.together:
            given.forget()
        spent = 0.0 if known else (time.perf_counter() - decoded) * 1e3  # includes waiting for another search
        return Embedded(vector, (decoded - started) * 1e3, spent)

    def feature_set(self, index: GalleryIndex, features: str) -> FeatureSet:
        """Return the feature set that an index was built with, loaded on first use.

        Raise QueryError if the gallery does not have this feature type, ModelError if its model is not available.
        """
        index.check_features(features)
        return self.loaded.get(features, index.manifest.features[features])

    def embed_pictures(self, index: GalleryIndex, features: str, pictures: Sequence[Image.Image]) -> Vectors:
        """Return upright RGB images as vectors comparable to those of an index, shape (n, d); see `feature_set`."""
        return self.feature_set(index, features).embed_query(pictures)

    def text_vectors(self, index: GalleryIndex, features: str, texts: Sequence[str]) -> Vectors:
        """Return for each text the mean of its unit vectors in all templates, scaled to unit length again: (n, d)."""
        sentences = [template.replace("{}", text) for text in texts for template in self._templates]
        vectors = self.feature_set(index, features).embed_texts(sentences)
        means = vectors.reshape(len(texts), len(self._templates), -1).mean(axis=1)
        found: Vectors = means / np.linalg.norm(means, axis=1, keepdims=True)
        return found

    def reads(self, index: GalleryIndex, features: str, text: str) -> bool:
        """Return whether the model knows all words and characters of the terms to find."""
        feature_set = self.feature_set(index, features)
        return all(feature_set.reads(feature_set.read(each, self._templates).text) for each in signed_terms(text)[0])

    def _text(self, index: GalleryIndex, features: str, text: str) -> Embedded:
        """Return the mean of a text's unit vectors in all templates, scaled to unit length again."""
        started = time.perf_counter()
        feature_set = self.loaded.get(features, index.manifest.features[features])
        reading = feature_set.read(text, self._templates)
        key = (reading.text, self._templates, features, index.manifest.features[features])

        def embed(_: object) -> Vectors:
            return self.text_vectors(index, features, [reading.text])

        [vector] = self.cache.vectors([key], embed)
        return Embedded(vector, features=(time.perf_counter() - started) * 1e3, notes=reading.notes)


def can_search(index: GalleryIndex, query: Query, features: str) -> bool:
    """Return whether a feature type can search for a query: it supports text, or there are images to search with."""
    return index.supports_text(features) or query.shows or not query.has_text


class QueryPictures:
    """The images of a query; each is read and decoded when it is needed, and at most once.

    `names` are the feature types that will be asked for. An added image is embedded by all of them at once and then
    forgotten, so that a query with many large images does not have them all in memory.
    """

    def __init__(self, embedder: QueryEmbedder, index: GalleryIndex, query: Query, names: Sequence[str]) -> None:
        self.index = index
        self.main = QueryPicture(embedder, index, query)
        parts = (Query(picture=each.picture, position=each.position) for each in query.added)
        self.added = tuple(QueryPicture(embedder, index, each, names) for each in parts)


class QueryPicture:
    """An image of a query under several distortions: decoded at most once, its vectors cached.

    A gallery item is represented by its thumbnail even if undistorted, so that only the distortion makes a difference.
    All raise PictureError without a readable image, QueryError for an unknown item.
    """

    def __init__(
        self, embedder: QueryEmbedder, index: GalleryIndex, query: Query, together: Sequence[str] = ()
    ) -> None:
        self._embedder = embedder
        self._index = index
        self.query = query
        self.together = tuple(together)  # feature types to embed it by at once
        self._source: PictureSource | None = None
        self._undistorted: Image.Image | None = None

    @cached_property
    def digest(self) -> bytes:
        """A digest of the image, without region and distortion."""
        digest, self._source = _digest(_given(self._index, self.query))
        return digest

    def undistorted(self) -> Image.Image:
        """Return the image, upright, in RGB; it is decoded at the first call."""
        if self._undistorted is None:
            picture = load_picture(self._source or _given(self._index, self.query), self._embedder.limits)
            self._undistorted = picture if self.query.region is None else cut_out(picture, self.query.region)
        return self._undistorted

    def forget(self) -> None:
        """Free the memory of the image; it is read again if it is needed again."""
        self._source = self._undistorted = None

    def vectors(self, distortions: Sequence[Distortion]) -> dict[str, Vectors]:
        """Return the vectors of n distorted images by feature type, shape (n, d); errors are those of `embed`."""
        distorted = cache(lambda distortion: distortion.apply(self.undistorted()))  # once for all feature types

        def embed(features: str, places: Sequence[int]) -> Vectors:
            return self._embedder.embed_pictures(self._index, features, [distorted(distortions[i]) for i in places])

        found = {}
        for features in self._index.features:
            keys = [_key(self._index, self.digest, self.query.region, each, features) for each in distortions]
            found[features] = np.stack(self._embedder.cache.vectors(keys, partial(embed, features)))
        return found


def _given(index: GalleryIndex, query: Query) -> PictureSource:
    """Return the image of a query; for an item its thumbnail, because the gallery's own files may be gone."""
    if query.position is not None:
        return index.thumbnail(_known_position(index, query.position))
    if query.picture is None:
        raise PictureError("There is no query image. Choose one first.")
    return query.picture


def _known_position(index: GalleryIndex, position: int) -> int:
    if not 0 <= position < len(index):
        raise QueryError(f"The gallery has no item {position}; it has {len(index):,}.")
    return position


def _key(
    index: GalleryIndex, digest: bytes, region: Region | None, distortion: Distortion, features: str
) -> tuple[object, ...]:
    return (digest, region, distortion, features, index.manifest.features[features])


def _digest(picture: PictureSource) -> tuple[bytes, PictureSource]:
    """Return a digest of an image, and the image with its file read."""
    if isinstance(picture, Image.Image):
        # Of the pixels that are compared, because a palette or an orientation changes what the bytes mean.
        upright = load_picture(picture)
        return hashlib.blake2b(f"{upright.size}".encode() + upright.tobytes()).digest(), upright
    data = read_bytes(picture)
    return hashlib.blake2b(data).digest(), data
