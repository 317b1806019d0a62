"""The builder: interrupted, run twice, run concurrently, with damaged indexes and with bad galleries."""

import itertools
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import datasets
import numpy as np
import pytest
from PIL import Image

from retrieval import index_builder
from retrieval.engines import ENGINES
from retrieval.errors import IndexingError
from retrieval.features import FEATURES
from retrieval.features.base import FeatureOptions
from retrieval.features.models import BUNDLED, BUNDLED_FOLDER
from retrieval.gallery.rows import Gallery
from retrieval.gallery.source import GallerySource
from retrieval.indexing import build as building
from retrieval.indexing.build import BuildPlan, build_index
from retrieval.indexing.embeddings import EmbeddingStore
from retrieval.indexing.progress import BuildCallbacks
from retrieval.indexing.publish import sweep
from retrieval.metrics import Metric
from retrieval.search.query import Combination, Query
from retrieval.search.ranking import rank
from retrieval.search.searcher import Searcher
from retrieval.storage.catalog import Indexes
from retrieval.storage.manifest import FORMAT, STORE, read_manifest
from tests.support.builds import (
    BUILT,
    NAME,
    arguments,
    assert_same_contents,
    contents,
    corrupt_pictures,
    draw,
    nearest,
)
from tests.support.paths import ROOT
from tests.support.waiting import PATIENCE, wait_until
from tests.support.warm import Builder


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def build(index, dataset, *more):
    return index_builder.main(arguments(index, dataset, *more))


def files(folder):
    """Return all files below a folder with their sizes and modification times."""
    return {path: (path.stat().st_size, path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}


def only_build(index):
    """Return the folder of the gallery's only build, or None if there is no build yet."""
    builds = list((index / NAME).glob("snapshot-*"))
    assert len(builds) <= 1
    return builds[0] if builds else None


@pytest.fixture(scope="module")
def six_pictures(tmp_path_factory):
    """A gallery of six pictures and its index."""
    folder = tmp_path_factory.mktemp("six")
    draw(folder / NAME, 6)
    assert build(folder / "index", folder / NAME) == 0
    return SimpleNamespace(dataset=folder / NAME, index=folder / "index")


@pytest.fixture
def copied(six_pictures, tmp_path):
    """A copy of the index of six pictures that tests may damage."""
    shutil.copytree(six_pictures.index, tmp_path / "index")
    return SimpleNamespace(dataset=six_pictures.dataset, index=tmp_path / "index")


def test_second_run_changes_nothing(six_pictures, capsys):
    before = files(six_pictures.index)
    assert build(six_pictures.index, six_pictures.dataset) == 0
    assert "nothing to do, 6 images" in capsys.readouterr().out
    assert build(six_pictures.index, six_pictures.dataset, "--streaming", "--batch-size", "2") == 0
    assert "nothing to do" in capsys.readouterr().out
    assert files(six_pictures.index) == before


def test_bad_pictures_are_skipped_counted_and_listed(tmp_path, capsys):
    corrupt_pictures(draw(tmp_path / NAME, 12), 2, 5, 8)
    assert build(tmp_path / "index", tmp_path / NAME) == 0
    printed = capsys.readouterr().out
    assert "9 images indexed" in printed
    assert "12 = 9 indexed + 3 skipped (" in printed
    index = Indexes(tmp_path / "index").get()
    reasons = {each.id: each.reason for each in index.manifest.skipped_pictures}
    assert (len(index), index.manifest.skipped) == (9, 3)
    assert "empty" in reasons.pop("002.png")
    assert "damaged" in reasons.pop("005.png")
    assert "not an image" in reasons.pop("008.jpg")
    assert not reasons
    assert [index.entry(i).id for i in range(9)] == [f"{n:03}.png" for n in range(12) if n not in (2, 5, 8)]
    assert [index.vectors(features).shape[0] for features in BUILT] == [9, 9]
    assert all(Image.open(index.thumbnail(i)).size == (50, 40) for i in range(9))


def stored_pictures(index):
    return EmbeddingStore(index).complete_pictures()


def run_and_stop(command, index, number, so_far):
    """Run the builder, signal it when `so_far` pictures are in the store; return exit code and stderr."""
    process = subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    wait_until(lambda: len(stored_pictures(index)) >= so_far or process.poll() is not None)
    process.send_signal(number)
    _, said = process.communicate(timeout=PATIENCE)
    return process.returncode, said


@pytest.mark.endurance  # the real program with real batch sizes; test_kills.py is faster and stricter
def test_repeatedly_stopped_build_ends_like_an_uninterrupted_one(tmp_path, capsys, monkeypatch):
    dataset = draw(tmp_path / NAME, 290)
    corrupt_pictures(dataset, 3, 70, 285)
    assert build(tmp_path / "reference", dataset) == 0
    index = tmp_path / "index"
    # The program itself, with small parts.
    start = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from retrieval import index_builder"
    small = "from retrieval.indexing import embed; embed.PART_ROWS = 32"
    command = [sys.executable, "-c", f"{start}; {small}; sys.exit(index_builder.main(sys.argv[1:]))"]
    command += arguments(index, dataset)
    assert run_and_stop(command, index, signal.SIGKILL, 30)[0] == -signal.SIGKILL
    for number, so_far in ((signal.SIGTERM, 100), (signal.SIGINT, 170)):
        code, said = run_and_stop(command, index, number, so_far)
        assert code == 130
        assert "Run the same command again" in said
        assert "Traceback" not in said
    assert read_manifest(index / NAME) is None
    assert not Indexes(index).names()

    capsys.readouterr()
    assert build(index, dataset, "--json") == 0
    result = json.loads(capsys.readouterr().out)
    assert result["reused"] >= 170
    whole, resumed = contents(tmp_path / "reference"), contents(index)
    assert len(whole.items) == len(whole.thumbnails) == 287
    assert_same_contents(resumed, whole)


class Callbacks(BuildCallbacks):
    """Calls a function after every batch."""

    def __init__(self, progress):
        self.progress = progress


def plan(index, gallery, options=FeatureOptions(model=BUNDLED), rebuild=False):  # noqa: B008  # frozen
    features = {each: FEATURES[each].load(options, FEATURES[each].choose(options)) for each in BUILT}
    return BuildPlan(index, NAME, gallery, features, workers=1, rebuild=rebuild)


def test_second_builder_is_refused_during_a_build(tmp_path, capsys):
    dataset, index = draw(tmp_path / NAME, 5), tmp_path / "index"
    answers = []

    def build_again(done, total, reused):
        if not answers:
            answers.append(build(index, dataset))

    gallery = Gallery(GallerySource(str(dataset)))
    build_index(plan(index, gallery), Callbacks(build_again))
    assert answers == [2]
    assert "in use by another process" in capsys.readouterr().err
    assert build(index, dataset) == 0
    assert "nothing to do" in capsys.readouterr().out


@pytest.mark.parametrize("change", ["pixel size", "model", "dataset", "--rebuild"])
def test_open_readers_switch_to_a_new_build_when_it_is_complete(copied, tmp_path, change):
    dataset = tmp_path / NAME
    if change == "dataset":
        shutil.copytree(copied.dataset, dataset)
        assert build(copied.index, dataset, "--rebuild") == 0
        shutil.copy(dataset / "000.png", dataset / "006.png")
    else:
        dataset = copied.dataset
    indexes = Indexes(copied.index)
    old = indexes.get(NAME)
    assert len(nearest(old, "clip", Metric.COSINE, old.vectors("clip")[0], 6)) == 6
    seen = []
    options = FeatureOptions(
        model=str(BUNDLED_FOLDER) if change == "model" else BUNDLED, pixel_size=8 if change == "pixel size" else 16
    )
    build_index(
        plan(copied.index, Gallery(GallerySource(str(dataset))), options, rebuild=change == "--rebuild"),
        Callbacks(lambda done, total, reused: seen.append(indexes.get(NAME) is old and old.thumbnail(0).exists())),
    )
    assert seen
    assert all(seen)
    before, old = old.snapshot, None
    new = indexes.get(NAME)
    assert new.snapshot != before
    assert new.vectors("pixels").shape[1] == (8 * 8 * 3 if change == "pixel size" else 16 * 16 * 3)
    assert len(new) == (7 if change == "dataset" else 6)
    assert len(nearest(new, "clip", Metric.COSINE, new.vectors("clip")[0], 6)) == 6
    assert indexes.get(NAME) is new
    sweep(copied.index / NAME)
    assert only_build(copied.index) == new.snapshot  # the old build is deleted once no reader uses it
    indexes.close()


@pytest.mark.endurance
@pytest.mark.short
def test_searches_continue_during_a_rebuild(reference_build, tmp_path):
    """Four visitors search continuously; each answer comes entirely from one build."""
    index, other = tmp_path / "index", draw(tmp_path / NAME, 14)
    shutil.copytree(reference_build.index, index)
    ways = list(itertools.product(BUILT, (Metric.L2, Metric.CORRELATION), ENGINES))

    def search(searcher, features, metric, engine):
        found = searcher.search(Query(position=5, features=features, metric=metric, engine=engine, top_k=50))
        return found.size, [(hit.id, hit.score) for hit in found.hits]

    def search_alone():
        searcher = Searcher(Indexes(index))
        found = [search(searcher, *way) for way in ways]
        searcher.indexes.close()
        return found

    def visit():
        seen = [[] for _ in ways]
        while not over.is_set():
            for answers, way in zip(seen, ways, strict=True):
                if (answer := search(searcher, *way)) not in answers[-1:]:
                    answers.append(answer)
        return seen

    expected = [search_alone()]
    searcher, over = Searcher(Indexes(index)), threading.Event()
    with ThreadPoolExecutor(4) as pool:
        try:
            visits = [pool.submit(visit) for _ in range(4)]
            for dataset in (other, reference_build.dataset, other):
                builder = Builder(tmp_path, *arguments(index, dataset, "--rebuild"))
                assert builder.wait() == 0, builder.output
        finally:
            over.set()
    expected.append([search(searcher, *way) for way in ways])
    searcher.indexes.close()
    assert expected[1] == search_alone()
    for visited in visits:
        for answers, (before, after) in zip(visited.result(), zip(*expected, strict=True), strict=True):
            assert answers[0] == before
            assert all(answer in (before, after) for answer in answers)
            assert len(answers) <= 4, "an old build came back"


def test_another_dataset_with_an_existing_gallery_name_is_refused(copied, tmp_path, capsys):
    other = draw(tmp_path / "other" / NAME, 2)
    before = files(copied.index)
    assert build(copied.index, other) == 2
    said = capsys.readouterr().err
    assert "--gallery" in said
    assert "--rebuild" in said
    assert str(copied.dataset) in said
    assert files(copied.index) == before
    assert build(copied.index, other, "--rebuild") == 0
    assert len(Indexes(copied.index).get(NAME)) == 2


BAD_MANIFESTS = {
    "cut": lambda text: text[: len(text) // 2],
    "empty": lambda text: "",
    "another kind of JSON": lambda text: "[]",
    "without fields": lambda text: json.dumps({"format": FORMAT}),
    "of a later format": lambda text: json.dumps({**json.loads(text), "format": 99}),
    "binary": lambda text: b"\xff\xfe\x00",
}


@pytest.mark.parametrize("kind", BAD_MANIFESTS)
def test_error_for_a_bad_manifest_names_the_rebuild_command(copied, capsys, kind):
    file = copied.index / NAME / "manifest.json"
    bad = BAD_MANIFESTS[kind](file.read_text())
    file.write_bytes(bad if isinstance(bad, bytes) else bad.encode())
    dataset = copied.dataset if kind == "of a later format" else "..."  # only a readable manifest names the dataset
    remedy = f"--index {copied.index} --gallery {NAME} --dataset {dataset} --rebuild"
    with pytest.raises(IndexingError) as error:
        Indexes(copied.index).get(NAME)
    assert remedy in str(error.value)
    assert ("format 99" in str(error.value)) == (kind == "of a later format")
    assert build(copied.index, copied.dataset) == 2
    assert remedy in capsys.readouterr().err
    if kind in ("cut", "of a later format"):
        assert build(copied.index, copied.dataset, "--rebuild") == 0
        assert len(Indexes(copied.index).get(NAME)) == 6


class Interrupted(Exception):
    pass


def test_rebuild_keeps_the_old_build_if_its_manifest_is_unreadable(copied, monkeypatch):
    published = only_build(copied.index)
    before = files(published)
    manifest = copied.index / NAME / "manifest.json"
    text = manifest.read_text()
    manifest.write_text("{")  # unreadable, perhaps only for a moment

    def interrupt(*_):
        raise Interrupted

    monkeypatch.setattr(building, "publish", interrupt)
    with pytest.raises(Interrupted):
        build(copied.index, copied.dataset, "--rebuild")
    manifest.write_text(text)
    assert files(published) == before
    index = Indexes(copied.index).get(NAME)
    assert nearest(index, "clip", Metric.L2, index.vectors("clip")[2], 1)[0] == 2


def downgrade(index):
    """Turn an index into format 4, which had builds and no embedding store."""
    old = only_build(index).rename(index / NAME / "build-0123456789abcdef-1")
    shutil.rmtree(index / STORE)
    file = index / NAME / "manifest.json"
    values = {**json.loads(file.read_text()), "format": 4, "build": old.name}
    file.write_text(json.dumps(values))
    return old


def test_error_for_an_older_format_names_a_command_that_replaces_it(copied, capsys):
    old = downgrade(copied.index)
    assert build(copied.index, copied.dataset) == 2
    said = capsys.readouterr().err
    assert f"format 4, but this program reads format {FORMAT}" in said
    command = re.search(r"python index_builder\.py (--index .*--rebuild)", said)[1]
    assert index_builder.main([*shlex.split(command), "--model", BUNDLED]) == 0
    index = Indexes(copied.index).get(NAME)
    assert [nearest(index, each, Metric.L2, index.vectors(each)[3], 1)[0] for each in BUILT] == [3, 3]
    assert only_build(copied.index)
    assert not old.exists()


def damage_chroma(build):
    file = build / "chroma" / "chroma.sqlite3"
    file.write_bytes(os.urandom(4096) + file.read_bytes()[4096:])


DAMAGES = {
    "items gone": lambda build: (build / "items.parquet").unlink(),
    "items cut": lambda build: (build / "items.parquet").write_bytes(b"PAR1"),
    "pixels gone": lambda build: (build / "pixels.npy").unlink(),
    "clip empty": lambda build: (build / "clip.npy").write_bytes(b""),
    "clip of another shape": lambda build: np.save(build / "clip.npy", np.zeros((6, 3), np.float32)),
    "clip cut": lambda build: (build / "clip.npy").write_bytes((build / "clip.npy").read_bytes()[:-100]),
    "build gone": shutil.rmtree,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_index_is_made_again_from_the_store(copied, damage, capsys):
    DAMAGES[damage](only_build(copied.index))
    indexes = Indexes(copied.index)
    with pytest.raises(IndexingError, match=r"Repair it: `python index_builder\.py"):
        index = indexes.get(NAME)
        for features in BUILT:
            nearest(index, features, Metric.COSINE, index.vectors(features)[0], 3)
    indexes.close()
    assert build(copied.index, copied.dataset, "--json") == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["embedded"], result["reused"]) == (0, 6)
    index = Indexes(copied.index).get(NAME)
    assert len(nearest(index, "clip", Metric.COSINE, index.vectors("clip")[0], 3)) == 3
    index.close()


def test_damaged_chroma_files_are_rebuilt_from_the_vectors(copied, caplog):
    index = Indexes(copied.index).get(NAME)
    expected = [nearest(index, each, metric, index.vectors(each)[2], 6) for each in BUILT for metric in Metric]
    index.close()
    damage_chroma(only_build(copied.index))
    index = Indexes(copied.index).get(NAME)
    query = index.vectors("clip")[2]
    assert list(rank(index, Combination("clip"), query, 1)[0]) == [2]  # the exact scan does not need ChromaDB
    assert "Rebuilding ChromaDB" not in caplog.text
    found = [nearest(index, each, metric, index.vectors(each)[2], 6) for each in BUILT for metric in Metric]
    assert "Rebuilding ChromaDB" in caplog.text
    np.testing.assert_array_equal(found, expected)
    index.close()


def test_gallery_without_readable_pictures_is_not_published(tmp_path, capsys):
    corrupt_pictures(draw(tmp_path / NAME, 3), 0, 1, 2)
    assert build(tmp_path / "index", tmp_path / NAME) == 2
    said = capsys.readouterr().err
    assert "None of the 3 images can be used" in said
    assert "empty" in said
    assert not Indexes(tmp_path / "index").names()


def test_gallery_of_one_picture(tmp_path):
    assert build(tmp_path / "index", draw(tmp_path / NAME, 1)) == 0
    index = Indexes(tmp_path / "index").get()
    vector = index.vectors("clip")[0]
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)
    assert list(nearest(index, "clip", Metric.COSINE, vector, 5)) == [0]
    index.close()


def test_error_for_an_index_that_cannot_be_written(six_pictures, tmp_path, capsys):
    (tmp_path / "file").write_text("in the way")
    assert build(tmp_path / "file" / "index", six_pictures.dataset) == 2
    assert "cannot be written" in capsys.readouterr().err
