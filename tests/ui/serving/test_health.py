"""What whoever runs the app relies on: /health, the log, the same answers after every start, the pinned packages."""

import ast
import importlib
import json
import logging
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from importlib.metadata import packages_distributions, version
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from nearly import nearly
from test_embedding import Forwards

import index_builder
from retrieval import logs
from retrieval.analysis.evaluation import from_folder
from retrieval.engines.lock import own
from retrieval.features.models import BUNDLED_FOLDER
from retrieval.gallery.source import Item
from retrieval.indexing.embed import embed_all
from retrieval.pictures.loading import load_picture
from retrieval.search.searcher import Searcher
from retrieval.storage.catalog import Indexes
from retrieval.ui.serving.health import INDEX_UNUSABLE, MODEL_UNUSABLE, STARTING, STOPPING, Health

NEVER = 1e9  # seconds between two tries

ANSWERS = """
import json, sys
from itertools import product
from pathlib import Path
from retrieval.analysis.comparison import compare
from retrieval.features import FEATURES
from retrieval.storage.catalog import Indexes
from retrieval.search.query import Query
from retrieval.search.searcher import Searcher
index, queries = map(Path, sys.argv[1:])
searcher = Searcher(Indexes(index))
found = [
    compare(searcher, Query(queries / f"{name}.png", text=text, labels=labels, alike=alike, top_k=25)).to_json()
    for name, (text, labels, alike) in product(("fox", "pizza"), (("", (), 1), ("red", ("smileys-emotion",), 0.9)))
]
for each in found:
    for cell in each["cells"]:
        del cell["timings_ms"]
print(json.dumps(found))
"""

SPACES = """
lent = []
def GPU(duration):
    return lambda function: lambda pixels: lent.append(function.__name__) or pixels.reshape(len(pixels), -1)
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of the owner's, which can get lost."""
    return Path(shutil.copytree(BUNDLED_FOLDER, tmp_path_factory.mktemp("models") / "own"))


@pytest.fixture(scope="module")
def small(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index of 128 icons, made with that model."""
    folder = tmp_path_factory.mktemp("small")
    arguments = ["--dataset", str(ROOT / "assets" / "gallery"), "--limit", "128", "--model", str(model)]
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
    forwards = Forwards()
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


@pytest.mark.parametrize("formatter", [logs.TextLines(), logs.JsonLines()])
def test_log_has_fields_and_where_an_error_was_raised_but_not_what_was_sent(formatter: logging.Formatter) -> None:
    record = logging.LogRecord("search", logging.WARNING, __file__, 1, "search of %d", (3,), None)
    record.fields = {"engine": "exact", "k": 5}
    sent = "what a visitor wrote"
    try:
        int(sent)
    except ValueError:
        record.exc_info = sys.exc_info()
    line = formatter.format(record)
    assert "search of 3" in line
    assert "exact" in line
    assert "ValueError" in line
    assert "test_operations.py" in line
    assert sent not in line
    if isinstance(formatter, logs.JsonLines):
        told = json.loads(line)
        assert told | {"level": "warning", "logger": "search", "message": "search of 3", "k": 5} == told
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", told["time"])


def test_every_start_gives_the_same_answers(small: Path, queries: Path, tmp_path: Path) -> None:
    """Whatever order Python's sets have, and however many threads compute, but for the last digits of scores."""
    starts = []
    for seed in ("1", "2"):
        index = shutil.copytree(small, tmp_path / seed)  # ChromaDB's files have one owner at a time
        environment = {**os.environ, "PYTHONHASHSEED": seed, "OMP_NUM_THREADS": seed}
        command = [sys.executable, "-c", ANSWERS, str(index), str(queries)]
        starts.append(subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE))
    first, second = (json.loads(start.communicate()[0]) for start in starts)
    assert len(first) == 4
    assert first == nearly(second)


def pinned() -> dict[str, str]:
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def test_installed_packages_have_the_pinned_versions() -> None:
    different = {name: version(name) for name, pin in pinned().items() if version(name).partition("+")[0] != pin}
    assert different == {}
    front = (ROOT / "README.md").read_text(encoding="utf-8").split("---")[1]
    assert f"sdk_version: {pinned()['gradio']}\n" in front


def test_every_package_that_the_app_imports_is_pinned() -> None:
    imported = set()
    for file in (ROOT / "app.py", ROOT / "index_builder.py", *(ROOT / "retrieval").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {each.name.partition(".")[0] for each in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                imported.add(str(node.module).partition(".")[0])
    packages = packages_distributions()
    # A Space with ZeroGPU installs `spaces` by itself.
    foreign = imported - sys.stdlib_module_names - {"retrieval", "index_builder", "spaces"}
    assert "PIL" in foreign
    pins = {normal(each) for each in pinned()}
    assert [each for each in sorted(foreign) if not {normal(name) for name in packages.get(each, ())} & pins] == []


def normal(name: str) -> str:
    """Return a package's name as the index of packages compares it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def test_zero_gpu_lends_to_visitors_alone(
    searcher: Searcher, queries: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a stand-in for the package `spaces`, which notes what it would lend a GPU for."""
    (tmp_path / "spaces.py").write_text(SPACES)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("SPACES_ZERO_GPU", "true")
    data, index = (queries / "fox.png").read_bytes(), searcher.indexes.get()
    folder = tmp_path / "queries" / index.labels[0]
    folder.mkdir(parents=True)
    (folder / "fox.png").write_bytes(data)
    encoder = searcher.embedder.loaded.get("clip", index.manifest.model)
    lent = importlib.import_module("spaces").lent
    rows = [[Item(0, "fox", "", "", data)]]
    (batch,) = embed_all(rows, {"clip": encoder}, batch_size=1, workers=1)
    labelled = from_folder(index, searcher.embedder, str(folder.parent))
    assert started(searcher).problem() is None
    assert lent == []
    assert np.array_equal(batch.vectors["clip"], labelled.vectors["clip"])
    encoder.embed_query([load_picture(data)])
    assert lent == ["_forward_on_gpu"]
    sys.modules.pop("spaces")


def test_health_is_ready_where_another_process_has_the_files_of_chromadb(
    searcher: Searcher, caplog: pytest.LogCaptureFixture
) -> None:
    lock = own(searcher.indexes.get().build)
    problem = started(searcher).problem()
    lock.release()
    assert problem is None
    assert "no searches by chroma" in caplog.text
