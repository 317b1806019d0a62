"""What the tests share: real indexes, built once in a run by the real builder."""

import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SEED = ROOT.parent / "shared" / "seed-data"

sys.path.insert(0, str(ROOT))
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="hf-home-")  # what this machine has cached changes no result
os.environ["HF_HUB_OFFLINE"] = "1"  # no test reaches the network; those of the Hub start processes of their own

import index_builder  # noqa: E402  # needs the path above
from retrieval.indexes import Indexes  # noqa: E402
from retrieval.search import Searcher  # noqa: E402


@pytest.fixture(scope="session")
def queries() -> Path:
    """The folder of the bundled query pictures."""
    return ROOT / "assets" / "gallery" / "queries"


@pytest.fixture(scope="session")
def seed() -> Path:
    """The folder of the photos handed to the project for measuring."""
    if not SEED.is_dir():
        pytest.skip(f"{SEED.relative_to(ROOT.parent)} is not on this machine")
    return SEED


@pytest.fixture(scope="session")
def icons(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index folder with the gallery `icons`: all bundled pictures, the bundled model."""
    folder = tmp_path_factory.mktemp("icons")
    assert index_builder.main(["--index", str(folder), "--model", "mini"]) == 0
    return folder


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory, seed: Path) -> Path:
    """An index folder with the gallery `train`: the photos of the seed data, the bundled model."""
    folder = tmp_path_factory.mktemp("photos")
    arguments = ["--index", str(folder), "--model", "mini", "--dataset", str(seed / "train")]
    assert index_builder.main(arguments) == 0
    return folder


@pytest.fixture(scope="module")
def icons_searcher(icons: Path) -> Iterator[Searcher]:
    """A searcher over the icons; gives ChromaDB back at the end of the module."""
    searcher = Searcher(Indexes(icons))
    yield searcher
    searcher.indexes.close()


@pytest.fixture(scope="module")
def photos_searcher(photos: Path) -> Iterator[Searcher]:
    """A searcher over the photos; gives ChromaDB back at the end of the module."""
    searcher = Searcher(Indexes(photos))
    yield searcher
    searcher.indexes.close()
