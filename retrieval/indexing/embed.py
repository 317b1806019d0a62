"""Embed the images of a gallery, in gallery order, in worker threads that stay a few batches ahead.

Each worker decodes, resizes and runs the models on its own share of the cores. If one model used all cores, every
forward pass would wait for a core that is still decoding.
"""

import io
import os
import threading
from collections import deque
from collections.abc import Generator, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import torch
from PIL import Image

from retrieval.errors import PictureError
from retrieval.features.base import FeatureSet
from retrieval.gallery.source import Item
from retrieval.pictures.loading import fit_within, load_picture
from retrieval.storage.batches import Batch
from retrieval.storage.manifest import Skipped

LOOK_AHEAD = 2  # batches embedded while another one is written
THUMBNAIL_SIZE = 256  # pixels of the longer side
THUMBNAIL_QUALITIES = (85, 50, 20)  # tried in order until `THUMBNAIL_BYTES` suffice; only noise needs the lower ones
THUMBNAIL_BYTES = 80_000  # fits into one record on a server


def embed_all(
    runs: Iterable[list[Item]], features: Mapping[str, FeatureSet], *, batch_size: int, workers: int
) -> Generator[Batch, None, None]:
    """Embed runs of rows with feature sets, given by the name of their type; yield one batch per run, in order.

    A forward pass takes `batch_size` rows of one run, without those that cannot be decoded, so it is reproducible.
    The cores are divided among the worker threads.
    """
    waiting: deque[list[Future[Batch]]] = deque()
    pool = _pool(workers)
    try:
        for items in runs:
            parts = [items[start : start + batch_size] for start in range(0, len(items), batch_size)]
            waiting.append([pool.submit(_embed, part, features) for part in parts])
            if len(waiting) > LOOK_AHEAD:
                yield _concatenate([future.result() for future in waiting.popleft()])
        while waiting:
            yield _concatenate([future.result() for future in waiting.popleft()])
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _pool(workers: int) -> ThreadPoolExecutor:
    """Return a pool whose threads each use an equal share of the cores for torch, leaving other threads unchanged."""
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
    torch.get_num_threads()  # a thread takes the default when it first asks, even after the next line
    torch.set_num_threads(threads)


def _embed(items: list[Item], features: Mapping[str, FeatureSet]) -> Batch:
    good, pictures, skipped = list[Item](), list[Image.Image](), list[Skipped]()
    for item in items:
        try:
            pictures.append(load_picture(item.read()))
            good.append(replace(item, read=bytes))  # without the image, which is not written
        except PictureError as error:
            skipped.append(Skipped(item.row, item.id, str(error)))
    vectors = {name: each.embed(pictures) for name, each in features.items()} if pictures else {}
    thumbnails = tuple(thumbnail_of(each) for each in pictures)
    return Batch(items[0].row, len(items), tuple(good), thumbnails, vectors, tuple(skipped))


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


def _concatenate(parts: list[Batch]) -> Batch:
    good = [part for part in parts if part.items]
    names = good[0].vectors if good else ()
    return Batch(
        start=parts[0].start,
        rows=sum(part.rows for part in parts),
        items=tuple(item for part in parts for item in part.items),
        thumbnails=tuple(each for part in parts for each in part.thumbnails),
        vectors={name: np.concatenate([part.vectors[name] for part in good]) for name in names},
        skipped=tuple(each for part in parts for each in part.skipped),
    )
