"""What the tests share: real indexes, made by the real builder, and a page that is really served."""

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

if "PYTEST_XDIST_WORKER" in os.environ:
    # Each worker has a core of its own; threads that wait for each other would make both slower.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from hypothesis import settings

from tests.support.paths import ROOT, SEED

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
HF_HOME = tempfile.TemporaryDirectory(prefix="hf-home-")  # what this machine has cached changes no result
os.environ["HF_HOME"] = HF_HOME.name
os.environ["HF_HUB_OFFLINE"] = "1"  # no test reaches the network; those of the Hub start processes of their own

pytest.register_assert_rewrite("tests.support.builds")  # whose asserts are those of tests
from playwright.sync_api import Browser, Page, sync_playwright  # noqa: E402

import index_builder  # noqa: E402
from retrieval.indexing.jobs import Builds  # noqa: E402
from retrieval.search.searcher import Searcher  # noqa: E402
from retrieval.storage.catalog import Indexes  # noqa: E402
from tests.support.browsing import PATIENCE, arrived, served, settings_of  # noqa: E402
from tests.support.builds import draw_classes  # noqa: E402
from tests.support.cache import copy_index  # noqa: E402

# A busy machine is no failure, and no test is a matter of time.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")

FEW = "train[527:559]+train[728:760]"  # animals and food, with fox, cat, lion and pizza, which are query pictures too

CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
]


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
    """An index folder with the gallery `icons`: all bundled pictures, the bundled model. Tests only read it."""
    return copy_index(tmp_path_factory.mktemp("icons"), "--model", "mini")


@pytest.fixture(scope="session")
def few_icons(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index folder with 64 of the icons, for tests in which the size does not matter. Tests only read it."""
    return copy_index(tmp_path_factory.mktemp("few-icons"), "--model", "mini", "--split", FEW)


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory, seed: Path) -> Path:
    """An index folder with the gallery `train`: the photos of the seed data, the bundled model. Tests only read it."""
    return copy_index(tmp_path_factory.mktemp("photos"), "--model", "mini", "--dataset", str(seed / "train"))


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


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Headless Chromium."""
    if not Path(CHROMIUM).exists():
        # Where everything is meant to be tested, a missing browser must not pass unseen.
        missing = pytest.fail if os.environ.get("CI") else pytest.skip
        missing(f"no browser at {CHROMIUM}; install chromium, or set CHROMIUM to its path")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def page_searcher(icons: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Searcher]:
    """What the served page searches with: a copy of the icons, since ChromaDB's files have one owner at a time."""
    folder = shutil.copytree(icons, tmp_path_factory.mktemp("served"), dirs_exist_ok=True)
    searcher = Searcher(Indexes(folder))
    searcher.warm()
    yield searcher
    searcher.indexes.close()


@pytest.fixture(scope="session")
def address(page_searcher: Searcher, queries: Path) -> Iterator[str]:
    """The page over the icons, as on a machine of one's own, served once for all tests that do not change it."""
    chosen = settings_of(page_searcher.indexes.root)
    builds = Builds(chosen, page_searcher.embedder.loaded.load)
    with served(page_searcher, chosen, queries, builds) as address:
        yield address
    builds.close()


@pytest.fixture
def page(browser: Browser, address: str) -> Iterator[Page]:
    """A fresh visitor on the page; fails if the page asked any other server for anything."""
    context = browser.new_context(permissions=["camera", "clipboard-read", "clipboard-write"])
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    asked: set[str] = set()
    page.on("request", lambda request: asked.add(request.url))
    page.goto(address)
    arrived(page)
    yield page
    context.close()
    outside = [url for url in asked if not url.startswith((address, "blob:", "data:"))]
    assert not outside


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A gallery, its index, built without a disturbance by the same process, and the seconds that took."""
    # With all that a builder needs, which other tests do without.
    from tests.support.builds import BAD, NAME, PICTURES, arguments, draw, spoil, whole
    from tests.support.warm import Builder

    folder = tmp_path_factory.mktemp("undisturbed")
    spoil(draw(folder / NAME, PICTURES), *BAD)
    index = folder / "index"
    took = []
    for again in ("--rebuild", "--rebuild"):  # the first one also fills the dataset's cache
        builder = Builder(folder, *arguments(index, folder / NAME, again))
        assert builder.end() == 0, builder.said
        took.append(time.monotonic() - builder.began)
    found = whole(index)
    assert len(found.contents.items) == len(found.contents.thumbnails) == PICTURES - len(BAD)
    return SimpleNamespace(folder=folder, index=index, dataset=folder / NAME, whole=found, seconds=took[-1])


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index with the gallery `first` of six pictures."""
    folder = tmp_path_factory.mktemp("small")
    arguments = ["--dataset", str(draw_classes(folder / "first", 6)), "--model", "mini"]
    assert index_builder.main(["--index", str(folder / "index"), *arguments]) == 0
    return folder / "index"
