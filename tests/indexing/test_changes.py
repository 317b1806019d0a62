"""A gallery that changes: only new images are embedded, and readers see the change."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from retrieval import index_builder
from retrieval.engines.lock import IndexInUse, acquire_lock
from retrieval.features import FEATURES, Vectors
from retrieval.features.base import FeatureSet
from retrieval.features.encoder import ClipEncoder, Inputs
from retrieval.features.models import BUNDLED_FOLDER
from retrieval.features.pixels import Pixels
from retrieval.indexing.embeddings import PRUNE_LOCK, EmbeddingStore
from retrieval.indexing.jobs import build_gallery
from retrieval.indexing.progress import BuildCallbacks
from retrieval.metrics import Metric
from retrieval.settings import Settings, with_flags
from retrieval.storage.catalog import Indexes
from retrieval.storage.manifest import STORE, read_manifest, thumbnail_path
from retrieval.storage.projection import Method, Projection, read_projection
from tests.features.average import AverageFeatures
from tests.support.builds import NAME, arguments, draw_classes, nearest
from tests.support.paths import ROOT
from tests.support.waiting import PATIENCE, wait_until

COUNT = 8


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Two classes of pictures that are old enough for the builder to trust the times of their files."""
    folder = draw_classes(tmp_path / NAME, COUNT)
    for path in folder.rglob("*.png"):
        age(path)
    return folder


@pytest.fixture
def index(tmp_path: Path, dataset: Path) -> Path:
    assert index_builder.main(arguments(tmp_path / "index", dataset)) == 0
    return tmp_path / "index"


def age(path: Path) -> None:
    os.utime(path, ns=(0, path.stat().st_mtime_ns - 100 * 10**9))


def build(index: Path, dataset: Path, capsys: pytest.CaptureFixture[str], *more: str) -> tuple[int, int, int, int]:
    """Build, and return the numbers of pictures, of embedded ones, of reused ones, and of removed ones."""
    capsys.readouterr()
    assert index_builder.main(arguments(index, dataset, "--json", *more)) == 0
    result: dict[str, Any] = json.loads(capsys.readouterr().out)
    return result["pictures"], result["embedded"], result["reused"], result["removed"]


def test_chromadb_is_updated(index: Path, dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.effect_noise((40, 30), 90).save(dataset / "even" / "new.png")
    build(index, dataset, capsys)
    gallery = Indexes(index).get(NAME)
    assert [each.changed for each in (gallery.recall("chroma"),) if each] == [1]
    found = gallery.engine("chroma").candidates("pixels", Metric.L2, gallery.vectors("pixels"), 1)
    assert [each.positions[0] for each in found] == list(range(COUNT + 1))
    gallery.close()
    build(index, dataset, capsys, "--rebuild")
    assert [each.changed for each in (Indexes(index).get(NAME).recall("chroma"),) if each] == [0]


def test_only_new_pictures_are_embedded(
    index: Path, dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    indexes = Indexes(index)
    before = indexes.get(NAME)
    assert build(index, dataset, capsys) == (COUNT, 0, COUNT, 0)
    assert indexes.get(NAME) is before
    (dataset / "even" / "000.png").touch()
    assert build(index, dataset, capsys) == (COUNT, 0, COUNT, 0)
    (dataset / "even" / "000.png").rename(dataset / "even" / "renamed.png")
    assert build(index, dataset, capsys) == (COUNT, 0, COUNT, 0)
    (dataset / "even" / "002.png").rename(dataset / "odd" / "002.png")
    (dataset / "notes.txt").write_text("a note")
    assert build(index, dataset, capsys) == (COUNT, 0, COUNT, 0)
    labels = indexes.get(NAME).labels
    assert (labels.count("even"), labels.count("odd")) == (COUNT // 2 - 1, COUNT // 2 + 1)
    draw_classes(tmp_path / "more", COUNT + 1)
    shutil.copy(tmp_path / "more" / "even" / "008.png", dataset / "even" / "008.png")
    assert build(index, dataset, capsys) == (COUNT + 1, 1, COUNT, 0)
    (dataset / "even" / "008.png").unlink()
    assert build(index, dataset, capsys) == (COUNT, 0, COUNT, 1)
    now = indexes.get(NAME)
    assert list(nearest(now, "clip", Metric.COSINE, now.vectors("clip")[3], 1)) == [3]
    assert len(list(now.thumbnails.rglob("*.jpg"))) == COUNT
    indexes.close()


def test_second_gallery_with_the_same_pictures_embeds_nothing(
    index: Path, dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(dataset, tmp_path / "copy")
    assert build(index, tmp_path / "copy", capsys, "--gallery", "copy") == (COUNT, 0, COUNT, 0)


def test_new_feature_type_alone_is_computed(
    index: Path, dataset: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(FEATURES, "average", AverageFeatures())
    counts: list[int] = []
    forward = ClipEncoder.forward

    def count(encoder: ClipEncoder, inputs: Inputs) -> Vectors:
        counts.append(len(inputs["pixel_values"]))
        return forward(encoder, inputs)

    monkeypatch.setattr(ClipEncoder, "forward", count)
    added = ("--features", "pixels,clip,average")
    assert build(index, dataset, capsys, *added) == (COUNT, COUNT, 0, 0)
    assert counts in ([], [1])  # loading the model embeds one picture
    assert Indexes(index).get(NAME).vectors("average").shape == (COUNT, 3)


def test_time_of_a_file_that_has_just_changed_is_not_trusted(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, other = dataset / "even" / "000.png", dataset / "odd" / "001.png"
    path.write_bytes(path.read_bytes() + bytes(100_000 - path.stat().st_size))  # PNG ignores what follows its end
    just_now = time.time_ns() + 10**10  # later than the builder's start, however long that takes
    os.utime(path, ns=(just_now, just_now))
    assert build(tmp_path / "index", dataset, capsys)[1] == COUNT
    path.write_bytes(other.read_bytes() + bytes(100_000 - other.stat().st_size))
    os.utime(path, ns=(just_now, just_now))
    assert build(tmp_path / "index", dataset, capsys) == (COUNT, 1, COUNT - 1, 1)


def ones(features: FeatureSet, pictures: Sequence[Image.Image]) -> Vectors:
    return np.ones((len(pictures), features.identity.dimensions), np.float32)


def test_clock_that_goes_back_hides_no_change(
    index: Path, dataset: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = Indexes(index).get(NAME).vectors("pixels")
    monkeypatch.setattr(time, "time_ns", lambda: 10**18)  # in the year 2001
    shutil.copy(dataset / "odd" / "001.png", dataset / "even" / "000.png")
    assert build(index, dataset, capsys) == (COUNT, 0, COUNT, 1)
    vectors = Indexes(index).get(NAME).vectors("pixels")
    assert (vectors[0] == before[COUNT // 2]).all()
    monkeypatch.setattr(Pixels, "embed", ones)
    assert build(index, dataset, capsys, "--rebuild") == (COUNT, COUNT, 0, 0)
    assert (Indexes(index).get(NAME).vectors("pixels") == 1).all()  # although the other vectors have a later time


def test_image_that_was_missing_for_a_moment_is_tried_again(dataset: Path, tmp_path: Path) -> None:
    index, away = tmp_path / "index", tmp_path / "away.png"
    chosen = settings_for(index, dataset)

    class MovedAway(BuildCallbacks):
        def finding(self) -> None:  # after the folder was walked
            (dataset / "even" / "000.png").rename(away)

    first, _ = build_gallery(chosen, False, MovedAway())
    assert (first.manifest.pictures, first.manifest.skipped) == (COUNT - 1, 1)
    assert "No such file" in first.manifest.skipped_pictures[0].reason
    away.rename(dataset / "even" / "000.png")
    second, _ = build_gallery(chosen, False, BuildCallbacks())
    assert (second.manifest.pictures, second.manifest.skipped, second.manifest.changes.embedded) == (COUNT, 0, 1)
    assert build_gallery(chosen, False, BuildCallbacks())[0].already_done


def test_next_build_deletes_what_a_killed_one_left_even_if_it_has_nothing_to_do(index: Path, dataset: Path) -> None:
    (index / NAME / "snapshot-000002-abcdef01").mkdir()
    assert index_builder.main(arguments(index, dataset)) == 0
    assert len(list((index / NAME).glob("snapshot-*"))) == 1


@pytest.mark.endurance
def test_repeated_rebuilds_keep_one_vector_of_each_picture(
    index: Path, dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("retrieval.indexing.embeddings.SMALL_PARTS", 2)
    for _ in range(2):  # the second one merges three parts
        assert index_builder.main(arguments(index, dataset, "--rebuild")) == 0
    for parts in EmbeddingStore(index).all_parts():
        assert sum(part.num_rows for part in parts.whole()) == COUNT
    indexes = Indexes(index)
    vectors = indexes.get(NAME).vectors("clip")
    assert index_builder.main(arguments(index, dataset, "--gallery", "again")) == 0
    assert (indexes.get("again").vectors("clip") == vectors).all()


def test_model_of_the_last_build_is_kept_unless_another_is_named(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    index, given = tmp_path / "index", ["--dataset", str(dataset), "--gallery", NAME, "--json"]
    assert build(index, dataset, capsys, "--model", str(BUNDLED_FOLDER), "--dtype", "float32")[1] == COUNT
    (dataset / "notes.txt").write_text("a change")
    assert index_builder.main(["--index", str(index), *given]) == 0
    assert json.loads(capsys.readouterr().out)["embedded"] == 0
    manifest = read_manifest(index / NAME)
    assert manifest
    assert (manifest.model.name, manifest.model.dtype) == (str(BUNDLED_FOLDER), "float32")
    assert build(index, dataset, capsys, "--dtype", "float32")[1] == COUNT  # named: mini


def test_shares_of_workers_are_published_by_a_last_call(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("retrieval.indexing.jobs.SHARE_ROWS", 3)
    index = tmp_path / "index"
    for share, rows in (("1/2", 5), ("2/2", 3), ("2/2", 3)):
        assert index_builder.main(arguments(index, dataset, "--shard", share)) == 0
        assert f"{rows} rows of this share are in the store" in capsys.readouterr().out
        assert not Indexes(index).names()
    assert build(index, dataset, capsys) == (COUNT, 0, COUNT, 0)


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    # In the middle, or in a text, since pages of a database may be unused.
    content[content.find(b"even/") if path.suffix == ".sqlite3" else len(content) // 2] ^= 1
    path.write_bytes(content)


def test_verify_finds_a_flipped_bit_in_any_file(index: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = read_manifest(index / NAME)
    assert manifest
    snapshot = index / NAME / manifest.snapshot
    whole = index.with_name("whole")
    shutil.copytree(index, whole)
    assert index_builder.main(["--index", str(index), "--verify"]) == 0
    files = [
        *(snapshot / name for name in ("items.parquet", "clip.npy", "map-clip-pca.npz", "chroma/chroma.sqlite3")),
        thumbnail_path(snapshot, 3),
        index / NAME / "manifest.json",
        *(index / STORE).glob("*/*.parquet"),
    ]
    assert len(files) == 9
    for file in files:
        flip_a_bit(file)
        capsys.readouterr()
        assert index_builder.main(["--index", str(index), "--verify"]) == 2, file
        assert "1 problems found" in capsys.readouterr().out, file
        shutil.rmtree(index)
        shutil.copytree(whole, index)


def test_prune_deletes_what_no_gallery_uses(index: Path, dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (dataset / "even" / "000.png").unlink()
    assert build(index, dataset, capsys)[0] == COUNT - 1
    leftover = index / STORE / "pictures" / "0-killed.tmp"
    leftover.touch()
    assert index_builder.main(["--index", str(index), "--prune"]) == 0
    assert not leftover.exists()
    assert "0.0 MB freed" in capsys.readouterr().out
    assert len(list((index / STORE).rglob("*.jpg"))) == COUNT - 1
    (dataset / "notes.txt").write_text("a change")
    assert build(index, dataset, capsys) == (COUNT - 1, 0, COUNT - 1, 0)


def test_build_waits_while_another_process_prunes(index: Path, dataset: Path) -> None:
    (dataset / "even" / "000.png").touch()
    pruning = acquire_lock(index / STORE, name=PRUNE_LOCK)
    builder = threading.Thread(target=index_builder.build, args=(settings_for(index, dataset),))
    builder.start()
    wait_until(lambda: is_locked(index / NAME))
    assert index_builder.main(["--index", str(index), "--prune"]) == 2
    builder.join(0.5)
    assert builder.is_alive()
    pruning.release()
    builder.join(PATIENCE)
    assert not builder.is_alive()
    assert index_builder.main(["--index", str(index), "--prune"]) == 0


def is_locked(folder: Path) -> bool:
    try:
        acquire_lock(folder).release()
    except IndexInUse:
        return True
    return False


def settings_for(index: Path, dataset: Path) -> Settings:
    return with_flags(Settings(index), {"dataset": str(dataset), "gallery": NAME, "model": "mini"})


def test_watch_adds_new_pictures_until_it_is_interrupted(dataset: Path, tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "index_builder.py"), *arguments(tmp_path / "index", dataset, "--watch")]
    log = tmp_path / "log"
    with log.open("w") as file:
        process = subprocess.Popen(command, cwd=ROOT, stdout=file, stderr=file)
    indexes = Indexes(tmp_path / "index")
    try:
        wait_until(lambda: f"{COUNT} images indexed" in log.read_text(), log.read_text)
        draw_classes(tmp_path / "more", COUNT + 1)
        shutil.copy(tmp_path / "more" / "even" / "008.png", dataset / "even" / "008.png")
        wait_until(lambda: "(1 embedded now, 8 reused, 0 removed)" in log.read_text(), log.read_text)
        assert len(indexes.get(NAME)) == COUNT + 1
    finally:
        process.send_signal(signal.SIGTERM)  # Ctrl-C is ignored where this runs in the background
        assert process.wait(PATIENCE) == 130
        indexes.close()


def test_tsne_map_is_kept_after_a_small_change(
    tmp_path: Path, dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    index = tmp_path / "index"
    build(index, dataset, capsys, "--map", "tsne")
    before = tsne_of(index)
    new = Image.open(dataset / "even" / "004.png")
    new.putpixel((0, 0), (0, 0, 0))
    new.save(dataset / "even" / "!.png")  # nearly the same as 004, and before all others
    (dataset / "odd" / "003.png").unlink()
    build(index, dataset, capsys)
    after, gallery = tsne_of(index), Indexes(index).get(NAME)
    assert gallery.entry(0).id == "even/!.png"
    np.testing.assert_array_equal(after.coordinates[1:], np.delete(before.coordinates, 5, axis=0))
    vectors = gallery.vectors("pixels")
    near = 1 + np.argsort(np.linalg.norm(vectors[1:] - vectors[0], axis=1))[:3]
    np.testing.assert_allclose(after.coordinates[0], after.coordinates[near].mean(axis=0), rtol=1e-5)
    assert (before.computed_from, after.computed_from) == (COUNT, COUNT - 1)
    draw_classes(dataset, 30, seed=9)
    build(index, dataset, capsys)
    assert Method.TSNE not in {method for _, method in Indexes(index).get(NAME).maps}, "too much has changed"


def tsne_of(index: Path) -> Projection:
    gallery = Indexes(index).get(NAME)
    dimensions = gallery.manifest.dimensions("pixels")
    return read_projection(gallery.snapshot, "pixels", Method.TSNE, len(gallery), dimensions)
