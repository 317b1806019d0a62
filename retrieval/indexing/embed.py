"""Images of a gallery become vectors, in gallery order, by worker threads that stay a few batches ahead.

Each worker decodes, resizes and runs the models itself, on its own share of the cores. With one model on all cores, fed
by other threads, every forward pass would wait for a core that is still decoding.
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

LOOK_AHEAD = 2  # batches that are embedded while another is written
THUMBNAIL_SIZE = 256  # pixels of the longer side
THUMBNAIL_QUALITIES = (85, 50, 20)  # the first that stays within `THUMBNAIL_BYTES` is used; only noise needs the others
THUMBNAIL_BYTES = 80_000  # fits into one record of a server


def embed_all(
    runs: Iterable[list[Item]], features: Mapping[str, FeatureSet], *, batch_size: int, workers: int
) -> Generator[Batch, None, None]:
    """Yield the vectors of every run of rows, in order.

    A model always gets the same rows together: `batch_size` of a run, less those that cannot be decoded.

    Args:
        runs: rows to yield together.
        features: the feature sets, by name of their type.
        batch_size: images in one forward pass.
        workers: threads, which share the cores.
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
    """Return a pool whose threads each use their share of the cores for torch; other threads keep what they have."""
    before = torch.get_num_threads()
    share = max(1, (os.cpu_count() or 1) // workers)
    pool = ThreadPoolExecutor(workers, "embed", initializer=set_torch_threads, initargs=(share,))
    # The number belongs to a thread, but is also the default of later threads, until all workers have taken theirs.
    all_there = threading.Barrier(workers + 1)
    try:
        for _ in range(workers):
            pool.submit(all_there.wait)
        all_there.wait()
    except BaseException:  # an interrupt, or no more threads: no worker may stay at the barrier
        all_there.abort()
        raise
    torch.set_num_threads(before)
    return pool


def set_torch_threads(threads: int) -> None:
    """Let torch use this number of threads for what the calling thread computes."""
    torch.get_num_threads()  # a thread takes the default when it first asks, even after the next line
    torch.set_num_threads(threads)


def _embed(items: list[Item], features: Mapping[str, FeatureSet]) -> Batch:
    good, pictures, skipped = list[Item](), list[Image.Image](), list[Skipped]()
    for item in items:
        try:
            if isinstance(item.picture, PictureError):
                raise item.picture
            pictures.append(load_picture(item.picture))
            good.append(replace(item, picture=b""))
        except PictureError as error:
            skipped.append(Skipped(item.row, item.id, str(error)))
    vectors = {name: each.embed(pictures) for name, each in features.items()} if pictures else {}
    thumbnails = tuple(thumbnail_of(each) for each in pictures)
    return Batch(items[0].row, len(items), tuple(good), thumbnails, vectors, tuple(skipped))


def thumbnail_of(picture: Image.Image) -> bytes:
    """Return a small copy of an image as JPEG, which takes a tenth of WebP's time or less.

    Colour is kept at full resolution (4:4:4), because the red edges of a drawing would bleed at half of it.
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
