"""Fixtures for all tests: indexes made by the real builder, and the page served by the real app."""

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

if "PYTEST_XDIST_WORKER" in os.environ:
    # Each worker has one core, so more threads would only slow each other down.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    # Ports of its own, since a port found free can be taken by another worker's page before this one listens.
    os.environ["GRADIO_SERVER_PORT"] = str(7860 + 100 * int(os.environ["PYTEST_XDIST_WORKER"].removeprefix("gw")))

import pytest
from hypothesis import settings

from tests.support.paths import ROOT, SEED

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
HF_HOME = tempfile.TemporaryDirectory(prefix="hf-home-")  # so that the machine's own cache does not affect results
os.environ["HF_HOME"] = HF_HOME.name
os.environ["HF_HUB_OFFLINE"] = "1"  # no test uses the network; the Hub tests start their own processes

pytest.register_assert_rewrite("tests.support.builds")  # it contains assertions
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright  # noqa: E402

from retrieval import index_builder  # noqa: E402
from retrieval.engines import separate  # noqa: E402
from retrieval.indexing.jobs import Builds  # noqa: E402
from retrieval.search.searcher import Searcher  # noqa: E402
from retrieval.storage.catalog import Indexes  # noqa: E402
from retrieval.ui.serving.own_page import address_with_token  # noqa: E402
from tests.support.browsing import PATIENCE, clear, served, settings_of, wait_until_loaded  # noqa: E402
from tests.support.builds import draw_classes  # noqa: E402
from tests.support.cache import copy_index  # noqa: E402

if TYPE_CHECKING:
    from tests.support.hub_client import Client
    from tests.support.loopback_hub import LoopbackHub

# No deadline: a test must not fail because the machine is busy.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")

FEW = "train[488:520]+train[689:721]"  # animals and food; fox, cat, lion and pizza are also query pictures

CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
]


@pytest.fixture(scope="session", autouse=True)
def processes_start_at_once() -> Iterator[None]:
    """Fork the processes that write ChromaDB's files from one that has imported all they need, which takes a second."""

    def forking() -> object:
        from tests.support import warm  # imports torch

        return warm.forking()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(separate, "_context", forking)
        yield


@pytest.fixture(scope="session")
def queries() -> Path:
    """The folder of the bundled icons that serve as query pictures."""
    return ROOT / "assets" / "gallery" / "queries"


@pytest.fixture(scope="session")
def seed() -> Path:
    """The folder of the photos used for measurements."""
    if not SEED.is_dir():
        pytest.skip(f"{SEED.relative_to(ROOT.parent)} is not on this machine")
    return SEED


@pytest.fixture(scope="session")
def icons(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index folder with the gallery `icons`: all bundled icons, the bundled model. Tests only read it."""
    return copy_index(tmp_path_factory.mktemp("icons"), "--model", "mini", "--dataset", "icons")


@pytest.fixture(scope="session")
def few_icons(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index folder with 64 of the icons, for tests in which the size does not matter. Tests only read it."""
    flags = ("--model", "mini", "--dataset", "icons", "--split", FEW)
    return copy_index(tmp_path_factory.mktemp("few-icons"), *flags)


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory, seed: Path) -> Path:
    """An index folder with the gallery `train`: the photos of the seed data, the bundled model. Tests only read it."""
    return copy_index(tmp_path_factory.mktemp("photos"), "--model", "mini", "--dataset", str(seed / "train"))


@pytest.fixture(scope="module")
def icons_searcher(icons: Path) -> Iterator[Searcher]:
    """A searcher over the icons; closes ChromaDB at the end of the module."""
    searcher = Searcher(Indexes(icons))
    yield searcher
    searcher.indexes.close()


@pytest.fixture(scope="module")
def photos_searcher(photos: Path) -> Iterator[Searcher]:
    """A searcher over the photos; closes ChromaDB at the end of the module."""
    searcher = Searcher(Indexes(photos))
    yield searcher
    searcher.indexes.close()


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Headless Chromium."""
    if not Path(CHROMIUM).exists():
        # CI must run every test, so a missing browser is an error there.
        missing = pytest.fail if os.environ.get("CI") else pytest.skip
        missing(f"no browser at {CHROMIUM}; install chromium, or set CHROMIUM to its path")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def context_of(browser: Browser) -> Iterator[Callable[..., BrowserContext]]:
    """Return a function that gives the browser context with some options, without cookies.

    Contexts are kept, because one that has the page's scripts in its cache opens the page in a third of the time.
    """
    kept: dict[str, BrowserContext] = {}

    def context_of(**options: Any) -> BrowserContext:
        key = repr(sorted(options.items()))
        if key not in kept:
            kept[key] = browser.new_context(**options)
        for left in kept[key].pages:
            left.close()
        kept[key].clear_cookies()
        return kept[key]

    yield context_of
    for context in kept.values():
        context.close()


@pytest.fixture(scope="session")
def page_searcher(icons: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Searcher]:
    """The searcher of the served page, over a copy of the icons: ChromaDB's files can be open only once at a time."""
    folder = shutil.copytree(icons, tmp_path_factory.mktemp("served"), dirs_exist_ok=True)
    searcher = Searcher(Indexes(folder))
    searcher.warm()
    yield searcher
    searcher.indexes.close()


@pytest.fixture(scope="session")
def address(page_searcher: Searcher, queries: Path) -> Iterator[str]:
    """The page over the icons, as on a user's own machine, served once for all tests that do not change it."""
    chosen = settings_of(page_searcher.indexes.root)
    builds = Builds(chosen, page_searcher.embedder.loaded.load)
    with served(page_searcher, chosen, builds) as address:
        yield address
    builds.close()


@pytest.fixture
def page(context_of: Callable[..., BrowserContext], address: str) -> Iterator[Page]:
    """The page as a new visitor sees it; fails if the page sent a request to any other server."""
    page = context_of(permissions=("camera", "clipboard-read", "clipboard-write")).new_page()
    page.set_default_timeout(PATIENCE)
    requested: set[str] = set()
    page.on("request", lambda request: requested.add(request.url))
    page.goto(address_with_token(address))
    wait_until_loaded(page)
    clear(page)
    yield page
    page.close()
    outside = [url for url in requested if not url.startswith((address, "blob:", "data:"))]
    assert not outside


@pytest.fixture
def hub(tmp_path: Path) -> "Iterator[LoopbackHub]":
    """A Hub without repositories, over the folder `hub`."""
    from tests.support.loopback_hub import LoopbackHub

    (tmp_path / "hub" / "datasets").mkdir(parents=True)
    with LoopbackHub(tmp_path / "hub") as hub:
        yield hub


@pytest.fixture
def client(tmp_path: Path) -> "Client":
    """Runs commands with the real client of the Hub and a cache of its own."""
    from tests.support.hub_client import Client  # imports transformers

    return Client(tmp_path)


@pytest.fixture(scope="session")
def reference_build(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A gallery, its index from a build without interruption, and the seconds that the build took."""
    # Imported here because these load all that a builder needs, and most tests do not.
    from tests.support.builds import BAD, NAME, PICTURES, arguments, corrupt_pictures, draw, take_snapshot
    from tests.support.warm import Builder

    folder = tmp_path_factory.mktemp("reference")
    corrupt_pictures(draw(folder / NAME, PICTURES), *BAD)
    index = folder / "index"
    took = []
    for again in ("--rebuild", "--rebuild"):  # the first one also fills the dataset's cache
        builder = Builder(folder, *arguments(index, folder / NAME, again))
        assert builder.wait() == 0, builder.output
        took.append(time.monotonic() - builder.began)
    found = take_snapshot(index)
    assert len(found.contents.items) == len(found.contents.thumbnails) == PICTURES - len(BAD)
    return SimpleNamespace(folder=folder, index=index, dataset=folder / NAME, snapshot=found, seconds=took[-1])


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index with the gallery `first` of six pictures."""
    folder = tmp_path_factory.mktemp("small")
    arguments = ["--dataset", str(draw_classes(folder / "first", 6)), "--model", "mini"]
    assert index_builder.main(["--index", str(folder / "index"), *arguments]) == 0
    return folder / "index"
