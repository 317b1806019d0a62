"""Engines that open slowly, fail, or search unusual subsets."""

import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from typing_extensions import override

from retrieval import index_builder
from retrieval.engines import ENGINES, chroma_digests
from retrieval.engines.base import GalleryVectors
from retrieval.engines.chroma import OpenChroma
from retrieval.errors import IndexingError
from retrieval.features import DEFAULT_FEATURES
from retrieval.metrics import Metric, closest
from retrieval.storage.catalog import Indexes
from retrieval.storage.projection import Method
from retrieval.storage.reader import GalleryIndex
from tests.engines.signs import SignsEngine
from tests.support.builds import NAME, arguments, draw

COUNT = 24


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index of a gallery with the classes a and b."""
    root = tmp_path_factory.mktemp("engines")
    for label in ("a", "b"):
        draw(root / NAME / label, COUNT // 2)
    assert index_builder.main(arguments(root / "index", root / NAME)) == 0
    return root / "index"


@pytest.fixture
def index(folder: Path) -> Iterator[GalleryIndex]:
    indexes = Indexes(folder)
    yield indexes.get()
    indexes.close()


class SlowEngine(SignsEngine):
    """Reads vectors until the gallery is closed."""

    name = "slow"

    def __init__(self) -> None:
        self.started = threading.Event()

    @override
    def build(self, gallery: GalleryVectors, folder: Path, floor: float) -> None:
        while True:
            gallery.vectors(DEFAULT_FEATURES)
            self.started.set()


def test_slow_rebuild_delays_neither_maps_nor_closing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = SlowEngine()
    monkeypatch.setitem(ENGINES, slow.name, slow)
    indexes = Indexes(folder)
    index = indexes.get()
    raised: list[Exception] = []

    def open_slow() -> None:
        try:
            index.engine(slow.name)
        except IndexingError as error:
            raised.append(error)

    opening = threading.Thread(target=open_slow, daemon=True)
    opening.start()
    assert slow.started.wait(60)
    assert index.map(DEFAULT_FEATURES, Method.PCA)
    assert index.engine("chroma")
    indexes.close()
    opening.join(60)
    assert not opening.is_alive()
    assert "was closed" in str(raised[0])


class FullDiskEngine(SignsEngine):
    name = "full"
    attempts = 0

    @override
    def build(self, gallery: GalleryVectors, folder: Path, floor: float) -> None:
        self.attempts += 1
        raise OSError(28, "No space left on device")


def test_failed_rebuild_is_not_retried_immediately(index: GalleryIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    full = FullDiskEngine()
    monkeypatch.setitem(ENGINES, full.name, full)
    index = GalleryIndex(index.snapshot.parent, index.manifest)
    for _ in range(2):
        with pytest.raises(IndexingError, match="No space left on device"):
            index.engine(full.name)
    assert full.attempts == 1
    monkeypatch.setattr("retrieval.storage.reader.PAUSE", 0)
    index = GalleryIndex(index.snapshot.parent, index.manifest)
    for _ in range(2):
        with pytest.raises(IndexingError, match="No space left on device"):
            index.engine(full.name)
    assert full.attempts == 3


def _fail_reading(path: Path) -> int:
    raise OSError(24, "Too many open files")


def _fail_connecting(*args: object, **kwargs: object) -> sqlite3.Connection:
    error = sqlite3.OperationalError("unable to open database file")
    error.sqlite_errorcode = sqlite3.SQLITE_CANTOPEN
    raise error


@pytest.mark.parametrize(
    ("place", "name", "failure"),
    [(chroma_digests, "_database_digest", _fail_reading), (sqlite3, "connect", _fail_connecting)],
)
def test_temporarily_unreadable_files_are_kept(
    folder: Path, monkeypatch: pytest.MonkeyPatch, place: object, name: str, failure: Callable[..., object]
) -> None:
    [database] = folder.glob(f"{NAME}/snapshot-*/chroma/chroma.sqlite3")
    indexes = Indexes(folder)
    index = indexes.get()
    index.vectors(DEFAULT_FEATURES)
    before = database.stat()
    with monkeypatch.context() as patch:
        patch.setattr(place, name, failure)
        with pytest.raises(IndexingError, match="Try again later"):
            index.engine("chroma")
    indexes.close()
    assert (database.stat().st_ino, database.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_drop_removes_a_file_named_like_the_folder(folder: Path, tmp_path: Path) -> None:
    [build] = folder.glob(f"{NAME}/snapshot-*")
    (tmp_path / "chroma").write_text("not a folder")
    ENGINES["chroma"].drop(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["lock"]
    assert (build / "chroma").is_dir()


@pytest.mark.parametrize("named_max", [0, 5, COUNT])
def test_chroma_finds_k_among_any_subset(index: GalleryIndex, named_max: int, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = index.engine("chroma")
    assert isinstance(opened, OpenChroma)
    object.__setattr__(opened._collections, "named_max", named_max)
    monkeypatch.setattr("retrieval.engines.chroma_search.SURPLUS", 0)
    vectors = index.vectors(DEFAULT_FEATURES)
    among = np.arange(0, COUNT, 2)  # half of each class
    for query in vectors:
        [candidates] = opened.candidates(DEFAULT_FEATURES, Metric.COSINE, query[None], 8, among)
        found = candidates.positions
        assert set(found) <= set(among)
        exact, _ = closest(Metric.COSINE, query, vectors, among, 8)
        assert set(exact) <= set(found)
