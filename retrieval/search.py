"""One query, one ranking: the flow that the page, the HTTP API and the command line share."""

import hashlib
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from retrieval.errors import IndexingError, PictureError, QueryError
from retrieval.features import Features, Vectors
from retrieval.features.choice import ModelIdentity, choose_model
from retrieval.features.clip import ClipEncoder
from retrieval.features.pixels import embed_pixels
from retrieval.images import PictureSource, load_picture, read_bytes
from retrieval.indexes import GalleryIndex, Indexes
from retrieval.metrics import DEFINITIONS, Metric, closeness, closest, score_pairs

MAX_TOP_K = 10_000
VECTORS_KEPT = 256  # query vectors remembered, so that another metric or engine embeds nothing again
SURPLUS = 16  # neighbours asked of Chroma beyond k, so that ties at the end are seen
L1_SHORTLIST = 200  # neighbours by L2 among which the closest by L1 are looked for, at least
L1_FACTOR = 20  # ... and at least so many times k

Choice = TypeVar("Choice", bound=StrEnum)


class Engine(StrEnum):
    """Who proposes candidates: a scan of every vector, or ChromaDB's graph of neighbours."""

    EXACT = "exact"
    CHROMA = "chroma"


@dataclass(frozen=True)
class Query:
    """What is searched, and how: a picture, or an item of the gallery by its position."""

    picture: PictureSource | None = None
    position: int | None = None
    features: Features = Features.CLIP
    metric: Metric = Metric.COSINE
    engine: Engine = Engine.EXACT
    top_k: int = 10
    gallery: str = ""


@dataclass(frozen=True)
class Hit:
    """A picture found; `score` is the metric's own value, and `position` its place in the gallery."""

    rank: int
    position: int
    id: str
    label: str
    caption: str
    score: float


@dataclass(frozen=True)
class Timings:
    """Milliseconds of each part of a search."""

    decode: float
    features: float
    search: float
    total: float


@dataclass(frozen=True)
class Ranking:
    """The answer to a query: the closest pictures, closest first."""

    gallery: str
    features: Features
    metric: Metric
    engine: Engine
    model: ModelIdentity
    hits: tuple[Hit, ...]
    timings: Timings
    size: int

    def to_json(self) -> dict[str, Any]:
        """Return the public form, the same for the HTTP API and `search --json`."""
        return {
            "gallery": self.gallery,
            "features": str(self.features),
            "metric": str(self.metric),
            "engine": str(self.engine),
            "model": self.model.name,
            "hits": [
                {"rank": h.rank, "id": h.id, "label": h.label, "caption": h.caption, "score": h.score}
                for h in self.hits
            ],
            "timings_ms": {
                "decode": round(self.timings.decode, 3),
                "features": round(self.timings.features, 3),
                "search": round(self.timings.search, 3),
                "total": round(self.timings.total, 3),
            },
        }


def one_of(kind: type[Choice], value: object) -> Choice:
    """Return the member of a set of choices that a word means, or say which words there are.

    Raises:
        QueryError: no such choice.
    """
    try:
        return kind(str(value).strip().lower())
    except ValueError:
        words = ", ".join(kind)
        raise QueryError(f"{kind.__name__} {str(value)[:40]!r} does not exist. Choose one of: {words}.") from None


def checked_top_k(value: object) -> int:
    """Return how many pictures are asked for, as a number from 1 to `MAX_TOP_K`.

    Raises:
        QueryError: not a whole number, or out of range.
    """
    whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    if isinstance(value, bool) or not whole or not 1 <= int(value) <= MAX_TOP_K:  # type: ignore[call-overload]  # whole
        raise QueryError(f"top_k must be a whole number from 1 to {MAX_TOP_K:,}, not {repr(value)[:40]}.")
    return int(value)  # type: ignore[call-overload,no-any-return]  # checked above


class Encoders:
    """CLIP models by identity, each loaded once, when it is first needed."""

    def __init__(self) -> None:
        """Hold no model yet."""
        self._loaded: dict[ModelIdentity, ClipEncoder] = {}
        self._lock = threading.Lock()

    def add(self, encoder: ClipEncoder) -> None:
        """Take a model that is loaded already."""
        with self._lock:
            self._loaded[encoder.identity] = encoder

    def get(self, identity: ModelIdentity) -> ClipEncoder:
        """Return the very model that an index was made with.

        Raises:
            ModelError: it cannot be had.
            IndexingError: what goes by its name now is another model.
        """
        with self._lock:
            if identity not in self._loaded:
                commit = identity.revision if "/" in identity.name and not identity.name.startswith("/") else None
                encoder = ClipEncoder(choose_model(identity.name, commit), identity.dtype)
                if encoder.identity != identity:
                    raise IndexingError(
                        f"The index was made with model {identity.name} at {identity.revision}, but what is there now "
                        f"is {encoder.identity.revision}. Build the index again: python index_builder.py --rebuild"
                    )
                self._loaded[identity] = encoder
            return self._loaded[identity]


class VectorCache:
    """The query vectors used last, by picture, features and model; holds no picture."""

    def __init__(self, size: int = VECTORS_KEPT) -> None:
        """Remember up to `size` vectors."""
        self._size = size
        self._vectors: OrderedDict[tuple[object, ...], Vectors] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: tuple[object, ...]) -> Vectors | None:
        """Return the vector of a key, or None."""
        with self._lock:
            if key in self._vectors:
                self._vectors.move_to_end(key)
            return self._vectors.get(key)

    def put(self, key: tuple[object, ...], vector: Vectors) -> None:
        """Remember a vector, forgetting the one unused for longest."""
        with self._lock:
            self._vectors[key] = vector
            while len(self._vectors) > self._size:
                self._vectors.popitem(last=False)


class Searcher:
    """Answers queries over all galleries of an index folder; safe for many threads."""

    def __init__(self, indexes: Indexes, encoders: Encoders | None = None) -> None:
        """Take the galleries; models are loaded when a query needs them."""
        self.indexes = indexes
        self.encoders = encoders or Encoders()
        self._cache = VectorCache()

    def search(self, query: Query) -> Ranking:
        """Return the gallery's pictures closest to the query.

        Raises:
            RetrievalError: any of its children, worded for the person who asked.
        """
        started = time.perf_counter()
        index = self.indexes.get(query.gallery)
        vector, decode, features = self._vector(index, query)
        searching = time.perf_counter()
        positions, scores = rank(index, query.features, query.metric, query.engine, vector, query.top_k)
        hits = []
        for place, (position, score) in enumerate(zip(positions, scores, strict=True), start=1):
            entry = index.entry(int(position))
            hits.append(Hit(place, entry.position, entry.id, entry.label, entry.caption, float(score)))
        ended = time.perf_counter()
        return Ranking(
            gallery=index.manifest.gallery,
            features=query.features,
            metric=query.metric,
            engine=query.engine,
            model=index.manifest.model,
            hits=tuple(hits),
            timings=Timings(decode, features, (ended - searching) * 1e3, (ended - started) * 1e3),
            size=len(index),
        )

    def warm(self) -> None:
        """Load what the first search by each engine would wait for: model, matrices, ChromaDB's graphs.

        Raises:
            RetrievalError: something is missing or in use; searches that do not need it still work.
        """
        index = self.indexes.get()
        self.encoders.get(index.manifest.model)
        for features in Features:
            for metric in Metric:
                for engine in Engine:
                    rank(index, features, metric, engine, index.vectors(features)[0], 1)

    def _vector(self, index: GalleryIndex, query: Query) -> tuple[Vectors, float, float]:
        """Return the query's feature vector, and the milliseconds of decoding and of embedding."""
        if query.position is not None:
            if not 0 <= query.position < len(index):
                raise QueryError(f"The gallery has no item {query.position}; it has {len(index):,}.")
            return index.vectors(query.features)[query.position], 0.0, 0.0
        if query.picture is None:
            raise PictureError("There is no query picture. Choose one first.")
        started = time.perf_counter()
        digest, source = _digest(query.picture)
        kind: object = index.manifest.pixel_size if query.features is Features.PIXELS else index.manifest.model
        key = (digest, query.features, kind)
        if (known := self._cache.get(key)) is not None:
            return known, (time.perf_counter() - started) * 1e3, 0.0
        picture = load_picture(source)
        decoded = time.perf_counter()
        if query.features is Features.PIXELS:
            vector = embed_pixels([picture], index.manifest.pixel_size)[0]
        else:
            vector = self.encoders.get(index.manifest.model).embed_pictures([picture])[0]
        self._cache.put(key, vector)
        return vector, (decoded - started) * 1e3, (time.perf_counter() - decoded) * 1e3


def rank(
    index: GalleryIndex, features: Features, metric: Metric, engine: Engine, vector: Vectors, k: int
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.float64]]:
    """Return positions and scores of the k closest items, closest first, ties in gallery order.

    An engine only proposes candidates; both end in the same exact comparison in float64, so a score is the
    metric's own value whichever engine found the picture.

    Args:
        index: the gallery.
        features: which vectors are compared.
        metric: how they are compared.
        engine: who proposes candidates.
        vector: the query's plain vector, shape (d,).
        k: how many; at most all items are returned.
    """
    vectors = index.vectors(features)
    if engine is Engine.EXACT:
        return closest(metric, vector, vectors, index.scan(features).candidates(metric, vector, k), k)
    definition = DEFINITIONS[metric]
    # Chroma knows no L1: its neighbours by L2 are the shortlist.
    native = Metric.L2 if metric is Metric.L1 else metric
    count = max(L1_SHORTLIST, L1_FACTOR * k) if metric is Metric.L1 else k + SURPLUS
    while True:
        positions = index.nearest(features, definition.view, vector, min(count, len(index)))
        found, scores = closest(metric, vector, vectors, positions, k)
        if len(positions) < count or count >= len(index):
            return found, scores
        # If the last hit is as far as the farthest candidate, the cut went through a tie: look further.
        last = closeness(native, score_pairs(native, vector, vectors[found[-1:]]))[0]
        if last < closeness(native, score_pairs(native, vector, vectors[positions])).max():
            return found, scores
        count *= 4


def _digest(picture: PictureSource) -> tuple[bytes, PictureSource]:
    """Return a digest of a picture, and the picture with its file read."""
    if isinstance(picture, Image.Image):
        # Of the pixels as they are compared, since a palette or an orientation changes what the bytes mean.
        upright = load_picture(picture)
        return hashlib.blake2b(f"{upright.size}".encode() + upright.tobytes()).digest(), upright
    data = read_bytes(picture)
    return hashlib.blake2b(data).digest(), data
