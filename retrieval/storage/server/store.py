"""A build on a ChromaDB server, which any number of workers read and write at once and which is all they share.

Besides the vectors, a build has the collections `thumbnails`, one record per image; `ledger`, one record per complete
batch, with its skipped rows; and `files`, the maps and the publication. Their content is text in the metadata of
records; their vectors are placeholders.
"""

import json
import logging
import time
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import chromadb
import numpy as np
import numpy.typing as npt
from chromadb.errors import ChromaError
from typing_extensions import override

from retrieval.engines.chroma_folder import Collections, configuration_of, keys_of, row_key
from retrieval.errors import IndexingError
from retrieval.features import FEATURES, Vectors
from retrieval.metrics import View
from retrieval.storage.batches import Batch
from retrieval.storage.manifest import Skipped
from retrieval.storage.server.address import Server
from retrieval.storage.server.connection import (
    FETCHING,
    NO_GRAPH,
    READ_ROWS,
    RECORD_BYTES,
    pack,
    records,
    server_error,
    server_errors,
    unpack,
)
from retrieval.storage.store import Store

log = logging.getLogger(FETCHING)

CLOUD_RESULTS = 300  # the most that Chroma Cloud returns for a query
LOG_EVERY = 5.0  # seconds between two log lines about a download
LIFE = "life"  # the record of the ledger with the time of the last write
FILES = "files"  # created last and deleted last
LEDGER = "ledger"


class ServerStore(Store):
    """A build on a server. Workers that write the same record write the same content, so order does not matter."""

    def __init__(self, server: Server, client: Any, prefix: str, folder: Path = Path(), *, make: bool = False) -> None:
        """Open the collections whose names have a prefix; `make` creates missing ones, `folder` is for exports."""
        self.folder = folder
        self.features = tuple(FEATURES)
        self._server, self._client, self._prefix, self._make = server, client, prefix, make
        with self._server_errors():
            by_key = {key: self._collection("-".join(key), configuration_of(key[1])) for key in keys_of(self.features)}
            limit = CLOUD_RESULTS if server.cloud else None
            # Filters never list ids, because a query would have to send thousands of them.
            self.collections = Collections(by_key, self._server_errors, named_max=0, results_max=limit)
            self._thumbnails = self._collection("thumbnails", NO_GRAPH)
            self._ledger = self._collection(LEDGER, NO_GRAPH)
            self._files = self._collection(FILES, NO_GRAPH)

    def _collection(self, name: str, configuration: Any) -> chromadb.Collection:
        name = f"{self._prefix}-{name}"
        if self._make:
            try:
                self._client.create_collection(name, configuration=configuration, embedding_function=None)
            except ChromaError as error:
                log.debug("%s: %s", name, error)  # it exists already, or the next line fails
        collection: chromadb.Collection = self._client.get_collection(name, embedding_function=None)
        return collection

    @override
    def close(self) -> None:
        pass  # the connection belongs to the location

    @override
    def rows(self) -> npt.NDArray[np.int64]:
        found: list[npt.NDArray[np.int64]] = [np.empty(0, np.int64)]
        for start, count, skipped in self._batches():
            rows = np.arange(start, start + count)
            found.append(np.setdiff1d(rows, [each.row for each in skipped], assume_unique=True))
        return np.sort(np.concatenate(found))

    @override
    def skipped(self) -> list[Skipped]:
        return sorted((each for _, _, skipped in self._batches() for each in skipped), key=lambda each: each.row)

    @override
    def complete(self) -> set[int]:
        return {start for start, _, _ in self._batches()}

    @override
    def write(self, batch: Batch) -> None:
        self.write_thumbnails(batch)
        if batch.items:
            rows = [item.row for item in batch.items]
            metadata = [{"id": item.id, "label": item.label, "caption": item.caption} for item in batch.items]
            self.collections.insert(rows, metadata, batch.vectors)
        self.commit(batch)

    def write_thumbnails(self, batch: Batch) -> None:
        """Write the thumbnails of a batch; its skipped rows are written by `commit`."""
        if thumbnails := batch.thumbnails_by_row:
            with self._server_errors():
                self._thumbnails.upsert(
                    ids=[row_key(row) for row in thumbnails],
                    embeddings=_numbers(thumbnails),
                    metadatas=[pack(content) for content in thumbnails.values()],
                )

    def commit(self, batch: Batch) -> None:
        """Mark a batch as complete, after all its other records are written."""
        about = json.dumps([[each.row, each.id, each.reason] for each in batch.skipped])
        with self._server_errors():
            self._ledger.upsert(
                ids=[row_key(batch.start), LIFE],
                embeddings=_numbers([batch.start, -1]),
                metadatas=[{"rows": batch.rows, **pack(zlib.compress(about.encode()))}, {"at": int(time.time())}],
            )

    @override
    def reconcile(self) -> None:
        gone = [row_key(each.row) for each in self.skipped()]
        with self._server_errors():
            for start in range(0, len(gone), READ_ROWS):
                for collection in (*self.collections.by_key.values(), self._thumbnails):
                    collection.delete(ids=gone[start : start + READ_ROWS])

    def _batches(self) -> Iterator[tuple[int, int, list[Skipped]]]:
        """Yield first row, number of rows and skipped rows of every complete batch."""
        for key, metadata in records(self._server, self._ledger):
            if key != LIFE:
                skipped = json.loads(zlib.decompress(unpack(metadata)))
                yield int(key), metadata["rows"], [Skipped(*each) for each in skipped]

    @override
    def read(self, rows: npt.NDArray[np.int64], features: str) -> Iterator[tuple[Vectors, list[dict[str, str]]]]:
        progress = _ProgressLog(f"{features} vectors", len(rows))
        collection = self.collections.by_key[features, View.PLAIN]
        for start in range(0, len(rows), READ_ROWS):
            keys = [row_key(int(row)) for row in rows[start : start + READ_ROWS]]
            with self._server_errors():
                found = collection.get(ids=keys, include=["embeddings", "metadatas"])
            place = {key: i for i, key in enumerate(found["ids"])}
            if missing := [key for key in keys if key not in place]:
                raise self._server_error(f"{len(missing)} of its vectors are missing")
            order = [place[key] for key in keys]
            metadata: Any = found["metadatas"]
            yield np.asarray(found["embeddings"], np.float32)[order], [dict(metadata[i]) for i in order]
            progress.add(len(keys))

    def thumbnails(self, rows: npt.NDArray[np.int64]) -> Iterator[dict[int, bytes]]:
        """Yield the thumbnails of rows in parts, by row."""
        progress = _ProgressLog("thumbnails", len(rows))
        for start in range(0, len(rows), READ_ROWS):
            keys = [row_key(int(row)) for row in rows[start : start + READ_ROWS]]
            with self._server_errors():
                found: Any = self._thumbnails.get(ids=keys, include=["metadatas"])
                yield {int(key): unpack(each) for key, each in zip(found["ids"], found["metadatas"], strict=True)}
            progress.add(len(keys))

    def put_file(self, name: str, content: bytes) -> None:
        """Store bytes of any length under a name."""
        parts = [content[start : start + RECORD_BYTES] for start in range(0, max(1, len(content)), RECORD_BYTES)]
        with self._server_errors():
            for place in range(0, len(parts), 16):
                some = list(enumerate(parts))[place : place + 16]
                self._files.upsert(
                    ids=[f"{name}/{i:06d}" for i, _ in some],
                    embeddings=_numbers(i for i, _ in some),
                    metadatas=[{"parts": len(parts), **pack(part)} for i, part in some],
                )

    def get_file(self, name: str) -> bytes | None:
        """Return the bytes stored under a name, or None."""
        parts: dict[str, bytes] = {}
        count = 1
        with self._server_errors():
            while len(parts) < count:
                keys = [f"{name}/{i:06d}" for i in range(len(parts), min(count, len(parts) + 16))]
                found: Any = self._files.get(ids=keys, include=["metadatas"])
                if len(found["ids"]) < len(keys):
                    return None
                parts |= {key: unpack(each) for key, each in zip(found["ids"], found["metadatas"], strict=True)}
                count = found["metadatas"][0]["parts"]
        return b"".join(parts[key] for key in sorted(parts))

    @contextmanager
    def _server_errors(self) -> Iterator[None]:
        with server_errors(self._server):
            yield

    def _server_error(self, reason: object) -> IndexingError:
        return server_error(self._server, reason)


def _numbers(values: Iterable[int]) -> npt.NDArray[np.float32]:
    """Return placeholder vectors, shape (n, 1), all different, because equal ones would make a poor graph."""
    return np.fromiter(values, np.float32)[:, None]


class _ProgressLog:
    """Logs the progress of a download every few seconds."""

    def __init__(self, what: str, total: int) -> None:
        self._what, self._total, self._done = what, total, 0
        self._last = time.monotonic()

    def add(self, count: int) -> None:
        self._done += count
        if (now := time.monotonic()) - self._last > LOG_EVERY:
            log.info("fetched %s of %s %s", f"{self._done:,}", f"{self._total:,}", self._what)
            self._last = now
