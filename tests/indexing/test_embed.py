"""Embedding and writing during a build: number of threads, the writer process, and the size of thumbnails."""

import multiprocessing
import os
import threading
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image

from retrieval.engines.lock import IndexInUse, acquire_lock
from retrieval.errors import IndexingError
from retrieval.features import FEATURES
from retrieval.features.encoder import ClipEncoder
from retrieval.features.models import choose_model
from retrieval.features.pixels import Pixels
from retrieval.gallery.source import Item
from retrieval.indexing.embed import THUMBNAIL_BYTES, embed_all, thumbnail_of
from retrieval.indexing.writer import open_writer
from retrieval.metrics import View
from retrieval.storage.batches import Batch
from retrieval.storage.manifest import thumbnail_path
from retrieval.storage.server.connection import RECORD_BYTES
from retrieval.storage.store import FolderStore


def items(queries, count):
    files = sorted(queries.glob("*.png"))[:count]
    return [Item(row, file.stem, "", file.stem, file.read_bytes, None) for row, file in enumerate(files)]


def test_embedding_in_workers_does_not_change_threads_elsewhere(queries, monkeypatch):
    encoder = ClipEncoder(choose_model("mini"), "float32", "cpu")
    share, before = max(1, os.cpu_count() // 2), torch.get_num_threads()
    torch.set_num_threads(share + 2)
    forward, threads = encoder.forward, []

    def record_threads(pixels):
        vectors = forward(pixels)
        threads.append(torch.get_num_threads())
        return vectors

    monkeypatch.setattr(encoder, "forward", record_threads)
    try:
        runs = [items(queries, 6)[:4], items(queries, 6)[4:]]
        found = list(embed_all(iter(runs), {"pixels": Pixels(4), "clip": encoder}, batch_size=3, workers=2))
        seen = []
        later = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
        later.start()
        later.join()
        assert [torch.get_num_threads(), *seen] == [share + 2] * 2
        assert threads == [share] * 3
    finally:
        torch.set_num_threads(before)
    assert [run.rows for run in found] == [4, 2]
    assert [item.row for run in found for item in run.items] == list(range(6))
    assert [run.vectors["pixels"].shape for run in found] == [(4, 48), (2, 48)]


def batch(some, vectors):
    thumbnails = tuple(b"thumbnail" for _ in some)
    return Batch(some[0].row, len(some), tuple(some), thumbnails, vectors, ())


@pytest.mark.parametrize("apart", [False, True])
def test_writer_writes_all_batches_and_releases_the_store(queries, tmp_path, apart):
    some = items(queries, 3)
    random = np.random.default_rng(0)
    vectors = {features: random.random((3, 5), np.float32) for features in FEATURES}
    with open_writer(partial(FolderStore, tmp_path, FEATURES), apart) as writer:
        writer.write(batch(some[:2], {features: each[:2] for features, each in vectors.items()}))
        writer.write(batch(some[2:], {features: each[2:] for features, each in vectors.items()}))
        with pytest.raises(IndexInUse):
            acquire_lock(tmp_path)
        writer.finish()
    store = FolderStore(tmp_path, FEATURES)
    assert list(store.rows()) == [0, 1, 2]
    found, metadata = zip(*store.read(store.rows(), "clip"), strict=True)
    assert [store._collections().nearest(("clip", View.PLAIN), each, 1, None, ())[0] for each in vectors["clip"]] == [
        0,
        1,
        2,
    ]
    store.close()
    np.testing.assert_array_equal(np.concatenate(found), vectors["clip"])
    assert [each["id"] for part in metadata for each in part] == [item.id for item in some]
    assert [thumbnail_path(tmp_path, row).read_bytes() for row in range(3)] == [b"thumbnail"] * 3


def test_writer_failures_are_reported(queries, tmp_path):
    some = items(queries, 2)
    good, bad = ({each: np.ones((1, width), np.float32) for each in FEATURES} for width in (5, 6))
    open_store = partial(FolderStore, tmp_path, FEATURES)
    with open_writer(open_store, separate=True) as writer:
        writer.write(batch(some[:1], good))
        multiprocessing.active_children()[0].kill()
        with pytest.raises(IndexingError, match=r"ended unexpectedly.*to resume the build"):
            for _ in range(2):
                writer.write(batch(some[:1], good))
    with open_writer(open_store, separate=True) as writer:
        writer.write(batch(some[:1], good))
        writer.write(batch(some[1:], bad))
        with pytest.raises(IndexingError, match="ChromaDB cannot use"):
            writer.finish()


def test_thumbnails_fit_into_a_server_record():
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 2, (256, 256, 3), dtype=np.uint8) * 255)
    assert 20_000 < len(thumbnail_of(noise)) <= min(THUMBNAIL_BYTES, RECORD_BYTES)
