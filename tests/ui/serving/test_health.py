"""What /health says of the index, the model and ChromaDB."""

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import index_builder
from retrieval.engines.lock import acquire_lock
from retrieval.features.models import BUNDLED_FOLDER
from retrieval.search.searcher import Searcher
from retrieval.storage.catalog import Indexes
from retrieval.ui.serving.health import INDEX_UNUSABLE, MODEL_UNUSABLE, STARTING, STOPPING, Health
from tests.support.forwards import ForwardCounter
from tests.support.paths import ROOT

NEVER = 1e9  # seconds between two tries


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of the owner's, which can get lost."""
    return Path(shutil.copytree(BUNDLED_FOLDER, tmp_path_factory.mktemp("models") / "own"))


@pytest.fixture(scope="module")
def small(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index of 16 icons, made with that model."""
    folder = tmp_path_factory.mktemp("small")
    arguments = ["--dataset", str(ROOT / "assets" / "gallery"), "--limit", "16", "--model", str(model)]
    assert index_builder.main(["--index", str(folder), *arguments]) == 0
    return folder


@pytest.fixture
def searcher(small: Path) -> Iterator[Searcher]:
    """A searcher that has loaded nothing yet."""
    searcher = Searcher(Indexes(small))
    yield searcher
    searcher.indexes.close()


def started(searcher: Searcher, every: float = 0) -> Health:
    health = Health(searcher, every)
    health.started = True
    return health


def test_health_follows_start_and_stop(searcher: Searcher) -> None:
    health = Health(searcher)
    assert health.problem() == STARTING
    health.started = True
    assert health.problem() is None
    health.stopping = True
    assert health.problem() == STOPPING


def test_health_tells_of_a_lost_model_and_of_its_return(searcher: Searcher, model: Path) -> None:
    health = started(searcher)
    away = model.rename(model.with_name("away"))
    assert health.problem() == MODEL_UNUSABLE
    away.rename(model)
    assert health.problem() is None


@pytest.mark.parametrize("lost", ["manifest.json", "items.parquet", "clip.npy"])
def test_health_tells_of_a_broken_index_and_of_its_repair(
    searcher: Searcher, small: Path, lost: str, caplog: pytest.LogCaptureFixture
) -> None:
    health = started(searcher)
    file = next(small.rglob(lost))
    whole = file.read_bytes()
    file.write_bytes(b"")
    problem = health.problem()
    file.write_bytes(whole)
    assert problem == INDEX_UNUSABLE
    assert str(small) in caplog.text, "its owner is not told where"
    searcher.indexes.close()
    assert health.problem() is None


def test_health_is_tried_by_one_caller_alone_and_holds_for_a_while(searcher: Searcher, model: Path) -> None:
    encoder = searcher.embedder.loaded.get("clip", searcher.indexes.get().manifest.model)
    forwards = ForwardCounter()
    handle = encoder._model.vision_model.register_forward_pre_hook(forwards, with_kwargs=True)
    forwards.open.clear()
    health, found = started(searcher, NEVER), []
    first = threading.Thread(target=lambda: found.append(health.problem()))
    first.start()
    while not forwards.pictures:  # until the first caller tries
        assert first.is_alive()
    assert [health.problem() for _ in range(20)] == [STARTING] * 20, "others wait, or try too"
    forwards.open.set()
    first.join()
    assert found == [None]
    assert [health.problem() for _ in range(20)] == [None] * 20
    assert forwards.pictures == [1]
    handle.remove()


def test_health_is_ready_where_another_process_has_the_files_of_chromadb(
    searcher: Searcher, caplog: pytest.LogCaptureFixture
) -> None:
    lock = acquire_lock(searcher.indexes.get().build)
    problem = started(searcher).problem()
    lock.release()
    assert problem is None
    assert "no searches by chroma" in caplog.text
