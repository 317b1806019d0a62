"""Embedding during a build: threads, batches, and the size of thumbnails."""

import os
import threading
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from retrieval.errors import PictureError
from retrieval.features.encoder import ClipEncoder
from retrieval.features.models import choose_model
from retrieval.features.pixels import Pixels
from retrieval.gallery.source import Item, Stamp
from retrieval.indexing import embed
from retrieval.indexing.embed import THUMBNAIL_BYTES, Embedder, thumbnail_of
from retrieval.indexing.embeddings import EmbeddingStore, PartDamaged, Parts, fill_matrix, key_array
from retrieval.pictures.loading import load_picture


def items(queries, count):
    files = sorted(queries.glob("*.png"))[:count]
    return [Item(row, file.stem, "", file.stem, file.read_bytes) for row, file in enumerate(files)]


def test_embedding_in_workers_does_not_change_threads_elsewhere(queries, tmp_path, monkeypatch):
    encoder = ClipEncoder(choose_model("mini"), "float32", "cpu")
    share, before = max(1, os.cpu_count() // 2), torch.get_num_threads()
    torch.set_num_threads(share + 2)
    forward, threads = encoder.forward, []

    def record_threads(inputs):
        vectors = forward(inputs)
        threads.append((torch.get_num_threads(), len(inputs["pixel_values"])))
        return vectors

    monkeypatch.setattr(encoder, "forward", record_threads)
    features = {"pixels": Pixels(4), "clip": encoder}
    try:
        counts = list(Embedder(EmbeddingStore(tmp_path), features, batch_size=4).run(items(queries, 6), {}, workers=2))
        seen = []
        later = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
        later.start()
        later.join()
        assert [torch.get_num_threads(), *seen] == [share + 2] * 2
        assert threads == [(share, 4)] * 2  # the last batch is as large as the first
    finally:
        torch.set_num_threads(before)
    assert counts[-1] == 6
    stored = EmbeddingStore(tmp_path)
    assert len(stored.complete_pictures()) == 6
    assert len(stored.vectors("clip", encoder.identity).keys()) == 6


class Widths(Pixels):
    """Counts the images that it embeds."""

    count = 0

    def embed(self, pictures):
        self.count += len(pictures)
        return super().embed(pictures)


def run(store, rows, features, known=()):
    embedder = Embedder(store, {"pixels": features}, batch_size=2)
    assert list(embedder.run(rows, dict(known), 1))[-1] == len(rows)
    return embedder


def test_only_what_is_not_in_the_store_is_embedded(queries, tmp_path):
    store, features = EmbeddingStore(tmp_path), Widths(4)
    first = items(queries, 5)
    run(store, first[:3], features)
    assert features.count == 3
    twice = [*first, *first[:1]]  # the same content in two rows
    embedder = run(store, twice, features)
    assert features.count == 5
    assert [each.item.row for each in embedder.read] == [0, 1, 2, 3, 4, 0]
    assert len(embedder.embedded) == 2
    run(store, first, Widths(8))  # another identity has vectors of its own
    assert features.count == 5


def test_files_with_a_known_stamp_are_not_read(queries, tmp_path):
    store, features, [item] = EmbeddingStore(tmp_path), Widths(4), items(queries, 1)
    key = run(store, [item], features).read[0].key
    stamp = Stamp("a.png", 3, 4)

    def fail():
        raise PictureError("it was read")

    embedder = run(store, [Item(0, "a", "", "", fail, stamp)], features, {stamp: key}.items())
    assert (embedder.read[0].key, embedder.read[0].failure) == (key, "")
    embedder = run(store, [Item(0, "a", "", "", fail, Stamp("a.png", 3, 5))], features, {stamp: key}.items())
    assert embedder.read[0].failure == "it was read"


def test_damaged_thumbnails_and_parts_are_made_again(queries, tmp_path):
    store, features, rows = EmbeddingStore(tmp_path), Widths(4), items(queries, 3)
    embedder = run(store, rows, features)
    store.thumbnail(embedder.read[1].key).write_bytes(b"")
    run(store, rows, features)
    assert features.count == 3  # its vector is there
    assert store.thumbnail(embedder.read[1].key).stat().st_size > 100
    for part in store.vectors("pixels", features.identity).folder.glob("*.parquet"):
        content = bytearray(part.read_bytes())
        content[8] ^= 1  # in the first page of keys
        part.write_bytes(content)
    run(store, rows, features)
    assert features.count == 6


@pytest.fixture
def small_parts(queries, tmp_path, monkeypatch):
    """A store with 20 images, each in a part of its own, and what they were embedded with."""
    monkeypatch.setattr(embed, "PART_ROWS", 1)
    store, features, rows = EmbeddingStore(tmp_path), Widths(4), items(queries, 20)
    embedder = Embedder(store, {"pixels": features}, batch_size=1)
    list(embedder.run(rows, {}, 1))
    parts = store.vectors("pixels", features.identity)
    return SimpleNamespace(store=store, features=features, rows=rows, embedder=embedder, parts=parts)


def test_small_parts_are_merged_and_unused_ones_pruned(small_parts):
    store, parts = small_parts.store, small_parts.parts
    before = {key: vector for _, part in parts.read() for key, vector in zip(*part.to_pydict().values(), strict=True)}
    assert len(list(parts.read())) == 20
    store.merge_small_parts()
    assert len(list(parts.read())) == 1
    after = {key: vector for _, part in parts.read() for key, vector in zip(*part.to_pydict().values(), strict=True)}
    assert after == before
    kept = [each.key for each in small_parts.embedder.read[:5]]
    assert store.prune(kept, {("pixels", small_parts.features.identity)}) > 0
    assert set(store.complete_pictures()) == parts.keys() == set(kept)
    assert len(list((store.folder / "thumbnails").rglob("*.jpg"))) == 5


def test_thumbnails_have_a_bounded_size():
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 2, (256, 256, 3), dtype=np.uint8) * 255)
    assert 20_000 < len(thumbnail_of(noise)) <= THUMBNAIL_BYTES


def test_reading_while_another_builder_merges_parts_misses_nothing(small_parts, tmp_path):
    store, features, parts = small_parts.store, small_parts.features, small_parts.parts
    keys = [each.key for each in small_parts.embedder.read]
    expected = features.embed([load_picture(item.read()) for item in small_parts.rows])

    found = set()
    for number, (_, part) in enumerate(parts.read(["key"])):
        found.update(part["key"].to_pylist())
        if number == 5:
            store.merge_small_parts()
    assert found == set(keys)

    for key, vector in zip(keys, expected, strict=True):  # one part each again
        store.add_vectors("pixels", features.identity, [key], vector[None])

    class Merged(Parts):
        def read(self, columns=None):
            yield from super().read(columns)
            store.merge_small_parts()

    given = key_array(keys), 48
    with pytest.raises(PartDamaged, match="have just been merged"):
        fill_matrix(tmp_path / "matrix.npy", *given, Merged(parts.folder))
    fill_matrix(tmp_path / "matrix.npy", *given, parts)
    np.testing.assert_array_equal(np.load(tmp_path / "matrix.npy"), expected)


def test_same_content_in_two_rows_is_embedded_once(queries, tmp_path):
    features, [item] = Widths(4), items(queries, 1)
    rows = [replace(item, row=row) for row in range(200)]
    embedder = run(EmbeddingStore(tmp_path), rows, features)
    assert features.count == 1
    assert len(embedder.read) == 200
