"""The collections of galleries on a ChromaDB server or in Chroma Cloud: vectors and labels under stable ids.

A collection holds one view of one feature type, by one identity, so two models never mix. All else is in the files of
the index, which builders and readers share.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import sha256
from typing import Any
from urllib.parse import urlsplit

import chromadb
import httpx
import numpy as np
from chromadb.config import Settings as ChromaSettings
from chromadb.errors import InternalError, NotFoundError
from typing_extensions import override

from retrieval.engines.base import Candidates, OpenEngine, Positions
from retrieval.engines.chroma_folder import GRAPH, Key, chroma_errors, key_of, keys_of
from retrieval.engines.chroma_search import first_neighbours, is_enough
from retrieval.engines.item_ids import Ids, ItemIds, as_hex, from_hex, id_array
from retrieval.errors import IndexingError, QueryError
from retrieval.features import Vectors
from retrieval.features.base import FeatureIdentity
from retrieval.installation import BUILDER
from retrieval.metrics import DEFINITIONS, Metric, View, closest, view_of

CLOUD = "api.trychroma.com"  # its key is in CHROMA_API_KEY, which ChromaDB reads
MOST = 2000  # candidates, since their vectors come with the answer
PAGE = 1000  # entries in another request
CLOUD_MOST = 300  # its quota for either
REQUEST_BYTES = 8 * 2**20  # of vectors; servers refuse requests of 40 MB
TIMEOUT = httpx.Timeout(120, connect=10)  # seconds
CONFIGURATION = {name: GRAPH[name] for name in ("ef_construction", "max_neighbors", "ef_search")}


class ChromaServer:
    """The collections of one gallery. Thread-safe.

    Each method raises IndexingError if the server cannot be used or its answer is not what was asked for.
    """

    def __init__(self, url: str, prefix: str, features: Mapping[str, FeatureIdentity]) -> None:
        """Connect to a server; `prefix` begins the names of the gallery's collections."""
        self._url = url
        in_cloud = urlsplit(url).hostname == CLOUD
        self.most, self._page = (CLOUD_MOST, CLOUD_MOST) if in_cloud else (MOST, PAGE)
        self._features = features
        self.names = names_of(prefix, features)
        self._collections: dict[Key, chromadb.Collection] = {}
        with self._errors():
            self._client: Any = _client(url)

    def create(self) -> None:
        """Create the collections that do not exist, and again those whose graph the server cannot load."""
        self.drop([name for key, name in self.names.items() if self._is_damaged(key)])
        self._collections.clear()
        for (_, view), name in self.names.items():
            space = {"hnsw": {"space": "l2" if view is View.PLAIN else "ip", **CONFIGURATION}}
            with self._errors():
                self._client.get_or_create_collection(name, configuration=space, embedding_function=None)

    def _is_damaged(self, key: Key) -> bool:
        """Return whether the server cannot load a collection's graph, as after a restart in chroma issue 7090.

        It still has the ids then, so their number says nothing.
        """
        nothing = np.zeros((1, self._features[key[0]].dimensions), np.float32)
        with self._errors():
            try:
                self._collection(key).query(query_embeddings=nothing, n_results=1, include=[])
            except NotFoundError:
                return False
            except InternalError as error:
                if "hnsw" not in str(error):
                    raise
                return True
        return False

    def count(self, key: Key) -> int:
        """Return the number of entries of a collection."""
        with self._errors():
            return int(self._collection(key).count())

    def ids(self, key: Key) -> Iterator[list[str]]:
        """Yield all ids of a collection, in pages."""
        start = 0
        while True:
            with self._errors():
                page: list[str] = self._collection(key).get(include=[], limit=self._page, offset=start)["ids"]
            if not page:
                return
            yield page
            start += len(page)

    def upsert(self, key: Key, ids: Ids, labels: Sequence[str], vectors: Vectors) -> None:
        """Insert or replace n entries, given their plain vectors, shape (n, d)."""
        size = max(1, min(self._page, REQUEST_BYTES // (4 * vectors.shape[1])))
        for start in range(0, len(ids), size):
            some = slice(start, start + size)
            viewed = view_of(key[1], vectors[some].astype(np.float64)).astype(np.float32)
            about: Any = [{"label": label} for label in labels[some]]
            with self._errors():
                self._collection(key).upsert(ids=as_hex(ids[some]), embeddings=viewed, metadatas=about)

    def delete(self, key: Key, ids: Sequence[str]) -> None:
        """Delete entries."""
        for start in range(0, len(ids), self._page):
            with self._errors():
                self._collection(key).delete(ids=list(ids[start : start + self._page]))

    def drop(self, names: Sequence[str]) -> None:
        """Delete collections, by name, that are not this gallery's any more."""
        for name in names:
            with self._errors():
                try:
                    self._client.delete_collection(name)
                except NotFoundError:
                    continue

    def nearest(self, key: Key, vector: Vectors, count: int, labels: Sequence[str] | None) -> tuple[Ids, Vectors, bool]:
        """Return the ids and vectors, in the view, of about `count` neighbours, closest first, and if these are all.

        `labels` are the only ones allowed; None allows all.
        """
        viewed = view_of(key[1], vector.astype(np.float64)[None]).astype(np.float32)
        where: Any = {} if labels is None else {"where": {"label": {"$in": list(labels)}}}
        with self._errors():
            found: Any = self._collection(key_of(*key)).query(
                query_embeddings=viewed, n_results=count, include=["embeddings"], **where
            )
            ids, vectors = self._checked(key[0], found["ids"][0], found["embeddings"][0])
        return ids, vectors, len(found["ids"][0]) < count

    def vectors(self, features: str, ids: Ids) -> Vectors:
        """Return the plain vectors of entries, shape (n, d)."""
        distinct, places = np.unique(ids, return_inverse=True)
        if len(distinct) > self.most:
            raise self.too_many(len(distinct))
        with self._errors():
            found: Any = self._collection((features, View.PLAIN)).get(ids=as_hex(distinct), include=["embeddings"])
            known, vectors = self._checked(features, found["ids"], found["embeddings"])
        order = np.argsort(known)
        if not np.array_equal(known[order], distinct):
            raise IndexingError(
                f"The ChromaDB server at `{self._url}` lacks images of this gallery. If it is not being built now, run "
                f"`{BUILDER}` with the flags of its first build."
            )
        return vectors[order][places]

    def too_many(self, count: int) -> QueryError:
        """Return the error for a search that needs more vectors than come with an answer."""
        return QueryError(
            f"This needs the vectors of {count:,} images, but a ChromaDB server is asked for at most {self.most:,} at "
            "once. Lower the number of results, or filter less."
        )

    def _checked(self, features: str, ids: Sequence[str], vectors: Any) -> tuple[Ids, Vectors]:
        """Return the ids that can be ours and their vectors; raise ValueError for anything else than vectors."""
        found = np.asarray(vectors, np.float32).reshape(len(ids), self._features[features].dimensions)
        if not np.isfinite(found).all():
            raise ValueError("it sent a vector that is not finite")
        parsed = [from_hex(each) for each in ids]
        ours = [place for place, each in enumerate(parsed) if each is not None]
        return id_array(each for each in parsed if each is not None), found[ours]

    def _collection(self, key: Key) -> chromadb.Collection:
        if key not in self._collections:
            self._collections[key] = self._client.get_collection(self.names[key], embedding_function=None)
        return self._collections[key]

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Turn whatever goes wrong with the server into an IndexingError."""
        try:
            with chroma_errors(self._explain):
                try:
                    yield
                except (httpx.HTTPError, TypeError) as error:
                    raise self._explain(error) from error
        except IndexingError:
            self._collections.clear()  # perhaps one was created again
            raise

    def _explain(self, reason: object) -> IndexingError:
        text = (str(reason).strip().splitlines() or [type(reason).__name__])[0][:300]
        return IndexingError(
            f"The ChromaDB server at `{self._url}` cannot be used: {text}. Check that it runs and has this gallery; if "
            f"not, run `{BUILDER}` with the flags of its first build."
        )


def _client(url: str) -> Any:
    parts = urlsplit(url)
    secure = parts.scheme == "https"
    host, port = parts.hostname or "", parts.port or (443 if secure else 8000)
    # ChromaDB's client waits without end, also for the answers that its constructor asks for.
    httpx.get(f"{parts.scheme}://{host}:{port}/api/v2/heartbeat", timeout=TIMEOUT)
    settings = ChromaSettings(anonymized_telemetry=False)
    if host == CLOUD:
        client = chromadb.CloudClient(settings=settings, cloud_host=host, cloud_port=port, enable_ssl=secure)
    else:
        client = chromadb.HttpClient(host, port, secure, settings=settings)
    client._server._session.timeout = TIMEOUT  # type: ignore[attr-defined]  # there is no setting
    return client


def names_of(prefix: str, features: Mapping[str, FeatureIdentity]) -> dict[Key, str]:
    """Return the names of a gallery's collections."""
    digests = {name: sha256(repr(identity).encode()).hexdigest()[:12] for name, identity in features.items()}
    return {(name, view): f"{prefix}-{name}-{digests[name]}-{view}" for name, view in keys_of(features)}


class OpenServer(OpenEngine):
    """The collections of a gallery, opened for searching. Ids that the snapshot does not know are ignored."""

    def __init__(
        self,
        server: ChromaServer,
        ids: ItemIds,
        labels_of: Callable[[Positions], list[str]],
        ids_of: Callable[[Positions], list[bytes]],
    ) -> None:
        """`labels_of` returns the distinct labels of items, and `ids_of` the id of each."""
        self._server = server
        self._ids_of = ids_of
        self._ids = ids
        self._labels_of = labels_of

    @override
    def candidates(
        self, features: str, metric: Metric, vectors: Vectors, k: int, among: Positions | None = None
    ) -> list[Candidates]:
        everything = among if among is not None else np.arange(self._ids.count)
        if k >= len(everything):  # a graph may not lead to every item
            found = self.vectors(features, self._ids_of(everything)) if len(everything) else None
            return [Candidates(everything, found) for _ in vectors]
        if k > self._server.most:
            raise self._server.too_many(k)
        labels = None if among is None else self._labels_of(among)
        return [self._candidates((features, metric), vector, k, (among, labels)) for vector in vectors]

    def _candidates(
        self, by: tuple[str, Metric], vector: Vectors, k: int, allowed: tuple[Positions | None, list[str] | None]
    ) -> Candidates:
        features, metric = by
        among, labels = allowed
        native, count = first_neighbours(metric, k)
        while True:
            asked = min(count, self._server.most)
            ids, vectors, complete = self._server.nearest((features, DEFINITIONS[native].view), vector, asked, labels)
            positions, which = self._ids.positions(ids, k)
            if among is not None:
                kept = np.isin(positions, among)
                positions, which = positions[kept], which[kept]
            found = Candidates(positions, vectors[which])
            if complete:
                return found
            places, _ = closest(metric, vector, vectors[which], np.arange(len(which)), k)
            if len(places) == k:
                last = vectors[which[places[-1]]]
                if asked < count or is_enough(native, vector, np.stack([last, vectors[-1]])):
                    return found
            elif asked < count:
                raise self._server.too_many(count)
            count *= 4

    def vectors(self, features: str, ids: Sequence[bytes]) -> Vectors:
        """Return the plain vectors of items with these ids, shape (n, d); raise QueryError if they are too many."""
        return self._server.vectors(features, id_array(ids))
