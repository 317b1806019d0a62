"""The vector of a query: of its picture, of its words, or of both; computed once and remembered."""

import hashlib
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from PIL import Image

from retrieval.errors import PictureError, QueryError
from retrieval.features import Features, Vectors
from retrieval.features.encoders import Encoders
from retrieval.features.pixels import embed_pixels
from retrieval.pictures.distortion import Distortion
from retrieval.pictures.loading import MAX_PIXELS, PictureSource, Region, cut_out, load_picture, read_bytes
from retrieval.search.query import Query
from retrieval.search.vector_cache import VectorCache
from retrieval.settings import TEMPLATES
from retrieval.storage.reader import GalleryIndex

MAX_WORDS = 500  # characters of a text; the models read 40 to 77 tokens of it

# A picture at the limit takes half a gigabyte while it is decoded, and visitors come many at a time.
_DECODING = threading.BoundedSemaphore(2)
WITHOUT_WEIGHT = 0.5  # how strongly words to stay away from push, beside 1 for the rest


@dataclass(frozen=True)
class Embedded:
    """A query's plain vector, shape (d,), and the milliseconds of decoding and of computing it."""

    vector: Vectors
    decode: float
    features: float


class QueryEmbedder:
    """Turns queries into vectors with the very model of the index they go to; safe for many threads."""

    def __init__(self, templates: Sequence[str] = TEMPLATES, most_pixels: int = MAX_PIXELS) -> None:
        """Take sentences with `{}` for the words, whose vectors are averaged; models are loaded when needed.

        Args:
            templates: the sentences.
            most_pixels: that a query's picture may have.
        """
        self.encoders = Encoders()
        self.most_pixels = most_pixels
        self._templates = tuple(templates)
        self.cache = VectorCache()

    def embed(self, index: GalleryIndex, query: Query) -> Embedded:
        """Return the vector of a query.

        With words, it is the weighted sum of the unit vectors of picture and words, minus a part of the words to
        stay away from, at unit length again.

        Raises:
            PictureError: no picture and no words, or a bad picture.
            QueryError: words for raw pixels or for a model without a text side; an unknown item.
            ModelError: the index's model cannot be had.
        """
        text, without = _words(query.text), _words(query.without)
        if not (text or without):
            return self._picture(index, query)
        if query.features is Features.PIXELS:
            raise QueryError(
                "Words need CLIP features: raw pixels know none. Switch features to clip, or clear the words."
            )
        if not text and not query.has_picture:
            raise QueryError("Say also what to look for, in words or with a picture, not only what to leave out.")
        share = query.balance if text and query.has_picture else float(bool(text))
        picture = self._picture(index, query) if share < 1 else None
        started = time.perf_counter()
        mixed = np.zeros(index.manifest.model.dimensions, np.float32)
        if picture is not None:
            mixed += (1 - share) * picture.vector
        if text:
            mixed += share * self._text(index, text)
        if without:
            mixed -= WITHOUT_WEIGHT * self._text(index, without)
        length = float(np.linalg.norm(mixed))
        vector = mixed / length if length > 0 else mixed
        spent = (time.perf_counter() - started) * 1e3
        return Embedded(vector, picture.decode if picture else 0.0, spent + (picture.features if picture else 0.0))

    def _picture(self, index: GalleryIndex, query: Query) -> Embedded:
        given = _given(index, query)
        if query.position is not None and query.as_it_is:
            return Embedded(index.vectors(query.features)[query.position], 0.0, 0.0)
        started = time.perf_counter()
        digest, source = _digest(given)
        key = _key(index, digest, query.region, query.distortion, query.features)
        known = key in self.cache
        decoded = time.perf_counter()

        def embed(_: object) -> Vectors:
            nonlocal decoded
            picture = query.distortion.apply(_load(source, query.region, self.most_pixels))
            decoded = time.perf_counter()
            return self.embed_pictures(index, query.features, [picture])

        [vector] = self.cache.vectors([key], embed)
        features = 0.0 if known else (time.perf_counter() - decoded) * 1e3  # also of who waited for another search
        return Embedded(vector, (decoded - started) * 1e3, features)

    def embed_pictures(self, index: GalleryIndex, features: Features, pictures: Sequence[Image.Image]) -> Vectors:
        """Return upright RGB pictures as vectors like those of an index, shape (n, d).

        Raises:
            ModelError: the index's model cannot be had.
        """
        if features is Features.PIXELS:
            return embed_pixels(pictures, index.manifest.pixel_size)
        return self.encoders.get(index.manifest.model).embed_pictures(pictures)

    def _text(self, index: GalleryIndex, text: str) -> Vectors:
        """Return the unit mean of the unit vectors of a text in every template."""
        key = (text, self._templates, index.manifest.model)

        def embed(_: object) -> list[Vectors]:
            sentences = [template.replace("{}", text) for template in self._templates]
            mean = self.encoders.get(index.manifest.model).embed_texts(sentences).mean(axis=0)
            return [mean / np.linalg.norm(mean)]

        return self.cache.vectors([key], embed)[0]


class QueryPicture:
    """The picture of a query, under one distortion after another: decoded once at most, its vectors remembered.

    A picture of the gallery is its thumbnail, with any distortion and without, so that nothing but the distortion
    makes a difference.
    """

    def __init__(self, embedder: QueryEmbedder, index: GalleryIndex, query: Query) -> None:
        """Take the query's picture and its region; nothing else of the query counts.

        Raises:
            PictureError: there is no picture, or its file cannot be read.
            QueryError: an unknown item.
        """
        self._embedder = embedder
        self.index = index
        self._region = query.region
        self._digest, self._source = _digest(_given(index, query))

    @cached_property
    def undistorted(self) -> Image.Image:
        """The picture, upright, in RGB.

        Raises:
            PictureError: it cannot be decoded.
        """
        return _load(self._source, self._region, self._embedder.most_pixels)

    def decode(self) -> None:
        """Decode the picture now, for who wants to know first whether it can be.

        Raises:
            PictureError: it cannot.
        """
        assert self.undistorted

    def vectors(self, distortions: Sequence[Distortion]) -> dict[Features, Vectors]:
        """Return the vectors of the distorted pictures by each features, shape (n, d) in the order given.

        Raises:
            PictureError: the picture cannot be decoded.
            ModelError: the index's model cannot be had.
        """
        pictures: dict[Distortion, Image.Image] = {}
        return {features: self._vectors(features, distortions, pictures) for features in Features}

    def _vectors(
        self, features: Features, distortions: Sequence[Distortion], pictures: dict[Distortion, Image.Image]
    ) -> Vectors:
        def embed(places: Sequence[int]) -> Vectors:
            wanted = [distortions[i] for i in places]
            for each in wanted:
                if each not in pictures:
                    pictures[each] = each.apply(self.undistorted)
            return self._embedder.embed_pictures(self.index, features, [pictures[each] for each in wanted])

        keys = [_key(self.index, self._digest, self._region, each, features) for each in distortions]
        return np.stack(self._embedder.cache.vectors(keys, embed))


def _given(index: GalleryIndex, query: Query) -> PictureSource:
    """Return the picture of a query; of an item its thumbnail, since the gallery's own files need not be there."""
    if query.position is not None:
        if not 0 <= query.position < len(index):
            raise QueryError(f"The gallery has no item {query.position}; it has {len(index):,}.")
        return index.thumbnail(query.position)
    if query.picture is None:
        raise PictureError("There is no query picture. Choose one first.")
    return query.picture


def _load(source: PictureSource, region: Region | None, most_pixels: int) -> Image.Image:
    with _DECODING:
        picture = load_picture(source, most_pixels)
        return picture if region is None else cut_out(picture, region)


def _key(
    index: GalleryIndex, digest: bytes, region: Region | None, distortion: Distortion, features: Features
) -> tuple[object, ...]:
    """Return all that the vector of a picture depends on."""
    kind: object = index.manifest.pixel_size if features is Features.PIXELS else index.manifest.model
    return (digest, region, distortion, features, kind)


def _words(text: str) -> str:
    """Return a text with its blanks in order, checked for length."""
    words = " ".join(text.encode("utf-8", "replace").decode("utf-8").split())  # without halves of characters
    if len(words) > MAX_WORDS:
        raise QueryError(f"The text has {len(words):,} characters; say it in {MAX_WORDS} or fewer.")
    return words


def _digest(picture: PictureSource) -> tuple[bytes, PictureSource]:
    """Return a digest of a picture, and the picture with its file read."""
    if isinstance(picture, Image.Image):
        # Of the pixels as they are compared, since a palette or an orientation changes what the bytes mean.
        upright = load_picture(picture)
        return hashlib.blake2b(f"{upright.size}".encode() + upright.tobytes()).digest(), upright
    data = read_bytes(picture)
    return hashlib.blake2b(data).digest(), data
