"""The state of the index, the model and ChromaDB as `/health` reports it."""

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from retrieval import index_builder
from retrieval.engines.lock import acquire_lock
from retrieval.features.models import BUNDLED_FOLDER
from retrieval.search.searcher import Searcher
from retrieval.storage.catalog import Indexes
from retrieval.ui.serving.health import INDEX_UNUSABLE, MODEL_UNUSABLE, STARTING, STOPPING, Health
from tests.support.forwards import ForwardCounter
from tests.support.paths import ROOT

NEVER = 1e9  # seconds between two checks


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder of the owner, which tests can move away."""
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
    """A searcher that has not loaded anything yet."""
    searcher = Searcher(Indexes(small))
    yield searcher
    searcher.indexes.close()


def started_health(searcher: Searcher, every: float = 0) -> Health:
    health = Health(searcher, every)
    health.started = True
    return health


def test_health_while_starting_and_stopping(searcher: Searcher) -> None:
    health = Health(searcher)
    assert health.problem() == STARTING
    health.started = True
    assert health.problem() is None
    health.stopping = True
    assert health.problem() == STOPPING


def test_health_reports_a_missing_model_until_it_is_back(searcher: Searcher, model: Path) -> None:
    health = started_health(searcher)
    away = model.rename(model.with_name("away"))
    assert health.problem() == MODEL_UNUSABLE
    away.rename(model)
    assert health.problem() is None


@pytest.mark.parametrize("lost", ["manifest.json", "items.parquet", "clip.npy"])
def test_health_reports_a_damaged_index_until_it_is_repaired(
    searcher: Searcher, small: Path, lost: str, caplog: pytest.LogCaptureFixture
) -> None:
    health = started_health(searcher)
    file = next(small.rglob(lost))
    whole = file.read_bytes()
    file.write_bytes(b"")
    problem = health.problem()
    file.write_bytes(whole)
    assert problem == INDEX_UNUSABLE
    assert str(small) in caplog.text, "the log does not name the index"
    searcher.indexes.close()
    assert health.problem() is None


def test_health_is_checked_by_one_caller_at_a_time_and_cached(searcher: Searcher, model: Path) -> None:
    encoder = searcher.embedder.loaded.get("clip", searcher.indexes.get().manifest.model)
    forwards = ForwardCounter()
    handle = encoder._model.vision_model.register_forward_pre_hook(forwards, with_kwargs=True)
    forwards.open.clear()
    health, found = started_health(searcher, NEVER), []
    first = threading.Thread(target=lambda: found.append(health.problem()))
    first.start()
    while not forwards.pictures:  # until the first caller runs the check
        assert first.is_alive()
    assert [health.problem() for _ in range(20)] == [STARTING] * 20, "other callers wait, or run the check, too"
    forwards.open.set()
    first.join()
    assert found == [None]
    assert [health.problem() for _ in range(20)] == [None] * 20
    assert forwards.pictures == [1]
    handle.remove()


def test_health_is_ready_while_another_process_uses_chromadb(
    searcher: Searcher, caplog: pytest.LogCaptureFixture
) -> None:
    lock = acquire_lock(searcher.indexes.get().snapshot)
    problem = started_health(searcher).problem()
    lock.release()
    assert problem is None
    assert "no searches by chroma" in caplog.text
