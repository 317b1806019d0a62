"""Pictures of a gallery become features: a few at a time in every worker thread, in gallery order, not far ahead.

A worker decodes, resizes and runs the model itself, on its own share of the cores. So nothing waits at a barrier for
a core that is decoding, as it would where one model on all cores is fed by other threads.
"""

import io
import os
import threading
from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import torch
from PIL import Image

from retrieval.errors import PictureError
from retrieval.features import Features, Vectors
from retrieval.features.clip import ClipEncoder
from retrieval.features.pixels import embed_pixels
from retrieval.gallery.source import Item
from retrieval.pictures.loading import fit_within, load_picture
from retrieval.storage.batches import Batch
from retrieval.storage.manifest import Skipped

LOOK_AHEAD = 2  # runs of rows that are worked on while another is written
THUMBNAIL_SIZE = 256  # pixels of the longer side
THUMBNAIL_QUALITIES = (85, 50, 20)  # the first that gives no more than `THUMBNAIL_BYTES`; only noise takes another
THUMBNAIL_BYTES = 80_000  # fits into one record of a server


def embed_all(
    runs: Iterable[list[Item]], encoder: ClipEncoder, *, pixel_size: int, batch_size: int, workers: int
) -> Generator[Batch, None, None]:
    """Yield the features of every run of rows, in order.

    The model always sees the same rows together, `batch_size` of a run, less those that cannot be decoded.

    Args:
        runs: rows that are to be yielded together.
        encoder: the CLIP model.
        pixel_size: side of the square of raw pixels.
        batch_size: pictures in one forward pass.
        workers: threads, which share the cores.
    """
    waiting: deque[list[Future[Batch]]] = deque()
    pool = _pool(workers)
    try:
        for items in runs:
            parts = [items[start : start + batch_size] for start in range(0, len(items), batch_size)]
            waiting.append([pool.submit(_embed, part, encoder, pixel_size) for part in parts])
            if len(waiting) > LOOK_AHEAD:
                yield _joined([future.result() for future in waiting.popleft()])
        while waiting:
            yield _joined([future.result() for future in waiting.popleft()])
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _pool(workers: int) -> ThreadPoolExecutor:
    """Return a pool whose threads each have their share of the cores for torch; others keep what they have."""
    before = torch.get_num_threads()
    share = max(1, (os.cpu_count() or 1) // workers)
    pool = ThreadPoolExecutor(workers, "embed", initializer=take_share, initargs=(share,))
    # The number is a thread's own, but also the default of threads to come, until all workers have taken theirs.
    all_there = threading.Barrier(workers + 1)
    try:
        for _ in range(workers):
            pool.submit(all_there.wait)
        all_there.wait()
    except BaseException:  # an interrupt, or no more threads: nobody stays at the barrier
        all_there.abort()
        raise
    torch.set_num_threads(before)
    return pool


def take_share(threads: int) -> None:
    """Have torch use so many threads for what this one computes."""
    torch.get_num_threads()  # a thread takes the default when it first asks or computes, even after the next line
    torch.set_num_threads(threads)


def _embed(items: list[Item], encoder: ClipEncoder, pixel_size: int) -> Batch:
    """Do all of some pictures' work but the writing."""
    good, pictures, skipped = list[Item](), list[Image.Image](), list[Skipped]()
    for item in items:
        try:
            if isinstance(item.picture, PictureError):
                raise item.picture
            pictures.append(load_picture(item.picture))
            good.append(replace(item, picture=b""))
        except PictureError as error:
            skipped.append(Skipped(item.row, item.id, str(error)))
    vectors = dict[Features, Vectors]()
    if pictures:
        vectors[Features.PIXELS] = embed_pixels(pictures, pixel_size)
        vectors[Features.CLIP] = encoder.embed_here(pictures)
    return Batch(
        items[0].row, len(items), tuple(good), tuple(thumbnail_of(each) for each in pictures), vectors, tuple(skipped)
    )


def thumbnail_of(picture: Image.Image) -> bytes:
    """Return a picture in small, as JPEG, which takes a tenth of WebP's time or less.

    All colour is kept (4:4:4), since red edges of a drawing would bleed at half the resolution. So it takes more room
    than WebP: 32 against 23 KB for photo-like noise of this size.
    """
    small = fit_within(picture, THUMBNAIL_SIZE)
    for quality in THUMBNAIL_QUALITIES:
        file = io.BytesIO()
        small.save(file, "JPEG", quality=quality, subsampling="4:4:4")
        if file.tell() <= THUMBNAIL_BYTES:
            break
    return file.getvalue()


def _joined(parts: list[Batch]) -> Batch:
    good = [part for part in parts if part.items]
    return Batch(
        start=parts[0].start,
        rows=sum(part.rows for part in parts),
        items=tuple(item for part in parts for item in part.items),
        thumbnails=tuple(each for part in parts for each in part.thumbnails),
        vectors={each: np.concatenate([part.vectors[each] for part in good]) for each in Features} if good else {},
        skipped=tuple(each for part in parts for each in part.skipped),
    )
