"""Embed the images of a gallery that are not in the store yet, in worker threads that stay a little ahead.

Each worker decodes, resizes and runs the models on its own share of the cores. If one model used all cores, every
forward pass would wait for a core that is still decoding.
"""

import io
import os
import threading
import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import islice

import numpy as np
from PIL import Image

from retrieval.errors import PictureError, PictureUnavailable, disk_errors
from retrieval.features.base import FeatureSet, Vectors
from retrieval.gallery.source import Item, Stamp
from retrieval.indexing.embeddings import EmbeddingStore, StoredPicture, key_of
from retrieval.pictures.loading import fit_within, load_picture

ROWS_AT_ONCE = 16  # rows that a worker reads at once; three times as many encoded images are in memory
LOOK_AHEAD = 3  # batches that are embedded while others are read, per worker
PART_ROWS = 2048  # images in a part of the store, ...
PART_SECONDS = 20.0  # ... or fewer after this time, since a kill loses what is not in a part yet
DEFAULT_BATCH = 16  # images per forward pass if no feature set has a preference
THUMBNAIL_SIZE = 256  # pixels of the longer side
THUMBNAIL_QUALITIES = (85, 50, 20)  # tried in order until `THUMBNAIL_BYTES` suffice; only noise needs the lower ones
THUMBNAIL_BYTES = 80_000


@dataclass(frozen=True)
class Read:
    """An item, and what was read of its image: its key, its bytes if they are not in the store, or a failure."""

    item: Item
    key: bytes = b""
    content: bytes | None = None
    failure: str = ""


@dataclass
class _Batch:
    """The results for some images."""

    keys: set[bytes] = field(default_factory=set)
    pictures: list[StoredPicture] = field(default_factory=list)
    vectors: dict[str, tuple[list[bytes], Vectors]] = field(default_factory=dict)
    failures: dict[bytes, str] = field(default_factory=dict)


class Embedder:
    """Brings the store up to date with a gallery, and remembers what the gallery consists of.

    Attributes:
        read: the items in gallery order, without their bytes.
        failures: why an image cannot be used, by key.
        pictures: the entries of complete images in the store, by key.
        embedded: the keys of images for which at least one feature type was computed.
        retry: whether an image could not be used for a reason that may pass.
        reused: the number of rows whose images were in the store already.
    """

    def __init__(
        self, store: EmbeddingStore, features: Mapping[str, FeatureSet], batch_size: int | None, fresh: bool = False
    ) -> None:
        """With `fresh`, nothing that is in the store already counts."""
        self._store = store
        self._features = features
        self._given_batch_size = batch_size
        with disk_errors(store.folder):
            self.pictures = {} if fresh else store.complete_pictures()
            self._have = {
                name: set[bytes]() if fresh else store.vectors(name, each.identity).keys()
                for name, each in features.items()
            }
        self.read: list[Read] = []
        self.failures: dict[bytes, str] = {}
        self.embedded: set[bytes] = set()
        self.retry = False
        self.reused = 0
        self._computed: list[_Batch] = []  # not in a part yet
        self._since = time.monotonic()

    def has(self, key: bytes) -> bool:
        """Return whether the store has everything about an image."""
        return key in self.pictures and all(key in keys for keys in self._have.values())

    def run(self, items: Iterable[Item], known: Mapping[Stamp, bytes], workers: int) -> Generator[int, None, None]:
        """Read all items and embed those that are missing; yield the number of rows done so far.

        Args:
            items: the gallery, in order.
            known: the keys of files that are known not to have changed, which are not read.
            workers: the number of threads.
        """
        pool, readers = _pool(workers), ThreadPoolExecutor(workers, "read")
        waiting: deque[Future[_Batch]] = deque()
        missing: list[Read] = []
        pending: set[bytes] = set()
        try:
            for reads in self._read_ahead(readers, items, known):
                for each in reads:
                    self.read.append(replace(each, content=None))
                    self.reused += each.content is None and not each.failure
                    tried = each.key in pending or each.key in self.embedded or each.key in self.failures
                    if each.content is not None and not tried:
                        pending.add(each.key)
                        missing.append(each)
                    if missing and len(missing) == self._batch_size:
                        waiting.append(pool.submit(self._embed, missing))
                        missing = []
                    if len(waiting) > LOOK_AHEAD * workers:
                        pending -= self._keep(waiting.popleft().result())
                        yield len(self.read) - len(pending)
                yield len(self.read) - len(pending)
            if missing:
                waiting.append(pool.submit(self._embed, missing))
            while waiting:
                pending -= self._keep(waiting.popleft().result())
                yield len(self.read) - len(pending)
        finally:
            readers.shutdown(wait=True, cancel_futures=True)
            pool.shutdown(wait=True, cancel_futures=True)
            self._flush()

    @property
    def _batch_size(self) -> int:
        preferred = [each.batch_size for each in self._features.values() if each.batch_size]
        return self._given_batch_size or min(preferred, default=DEFAULT_BATCH)

    def _read_ahead(
        self, readers: ThreadPoolExecutor, items: Iterable[Item], known: Mapping[Stamp, bytes]
    ) -> Iterator[list[Read]]:
        rows, ahead = iter(items), deque[Future[list[Read]]]()
        while part := list(islice(rows, ROWS_AT_ONCE)):
            ahead.append(readers.submit(self._read, part, known))
            if len(ahead) > 1:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()

    def _read(self, items: list[Item], known: Mapping[Stamp, bytes]) -> list[Read]:
        found = []
        for item in items:
            key = known.get(item.stamp) if item.stamp else None
            if key and self.has(key):
                found.append(Read(item, key))
                continue
            try:
                content = item.read()
            except PictureError as error:
                self.retry |= isinstance(error, PictureUnavailable)
                found.append(Read(item, failure=str(error)))
                continue
            key = key_of(content)
            found.append(Read(item, key, None if self.has(key) else content))
        return found

    def _embed(self, reads: list[Read]) -> _Batch:
        batch, keys, pictures = _Batch(), list[bytes](), list[Image.Image]()
        for each in reads:
            try:
                pictures.append(load_picture(each.content or b""))
                keys.append(each.key)
            except PictureError as error:
                self.retry |= isinstance(error, PictureUnavailable)
                batch.failures[each.key] = str(error)
        for name, features in self._features.items():
            missing = [at for at, key in enumerate(keys) if key not in self._have[name]]
            if missing:
                vectors = _embed_alike(features, [pictures[at] for at in missing], self._batch_size)
                batch.vectors[name] = [keys[at] for at in missing], vectors
        for key, picture in zip(keys, pictures, strict=True):
            if key not in self.pictures:
                batch.pictures.append(self._store.write_thumbnail(key, picture.size, thumbnail_of(picture)))
        batch.keys = set(keys)
        return batch

    def _keep(self, batch: _Batch) -> set[bytes]:
        """Keep the results for a part of the store; return their keys."""
        self.failures |= batch.failures
        self.embedded |= batch.keys
        self._computed.append(batch)
        if sum(len(each.keys) for each in self._computed) >= PART_ROWS or time.monotonic() - self._since > PART_SECONDS:
            self._flush()
        return batch.keys | batch.failures.keys()

    def _flush(self) -> None:
        """Write what was computed to the store: vectors first, since an image without an entry is embedded again."""
        batches, self._computed, self._since = self._computed, [], time.monotonic()
        for name, features in self._features.items():
            parts = [batch.vectors[name] for batch in batches if name in batch.vectors]
            if parts:
                keys = [key for part, _ in parts for key in part]
                self._store.add_vectors(name, features.identity, keys, np.concatenate([part for _, part in parts]))
                self._have[name].update(keys)
        entries = [entry for batch in batches for entry in batch.pictures]
        if entries:
            self._store.add_pictures(entries)
            self.pictures |= {entry.key: entry for entry in entries}


def _embed_alike(features: FeatureSet, pictures: list[Image.Image], batch_size: int) -> Vectors:
    """Embed images in a batch of always the same size, because a model's last digits depend on it."""
    padding = [pictures[-1]] * (batch_size - len(pictures)) if features.batch_size else []
    vectors: Vectors = features.embed([*pictures, *padding])[: len(pictures)]
    return vectors


def _pool(workers: int) -> ThreadPoolExecutor:
    """Return a pool whose threads each use an equal share of the cores for torch, leaving other threads unchanged."""
    import torch  # takes seconds to import, and a build of an unchanged gallery does not need it

    before = torch.get_num_threads()
    share = max(1, (os.cpu_count() or 1) // workers)
    pool = ThreadPoolExecutor(workers, "embed", initializer=set_torch_threads, initargs=(share,))
    # Setting torch's thread count also changes the default for new threads, so it is restored once all workers run.
    all_started = threading.Barrier(workers + 1)
    try:
        for _ in range(workers):
            pool.submit(all_started.wait)
        all_started.wait()
    except BaseException:  # an interrupt, or no thread could be started: release the workers that wait at the barrier
        all_started.abort()
        raise
    torch.set_num_threads(before)
    return pool


def set_torch_threads(threads: int) -> None:
    """Set the number of threads that torch uses for computations of the calling thread."""
    import torch

    torch.get_num_threads()  # a thread takes the default when it first asks, even after the next line
    torch.set_num_threads(threads)


def thumbnail_of(picture: Image.Image) -> bytes:
    """Return a thumbnail as JPEG, which takes at most a tenth of the time of WebP.

    Colour is stored at full resolution (4:4:4), because at half of it the red edges of a drawing bleed.
    """
    small = fit_within(picture, THUMBNAIL_SIZE)
    for quality in THUMBNAIL_QUALITIES:
        file = io.BytesIO()
        small.save(file, "JPEG", quality=quality, subsampling="4:4:4")
        if file.tell() <= THUMBNAIL_BYTES:
            break
    return file.getvalue()
