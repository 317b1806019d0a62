"""What the browser tests share: a page that is really served, and what a visitor does on it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Locator, Page, expect

import app
from retrieval import settings
from retrieval.indexing.jobs import Builds
from retrieval.search.searcher import Searcher
from retrieval.ui.page import build_page, launch
from retrieval.ui.serving.health import Health
from retrieval.ui.serving.limits import limits_of

PATIENCE = 60_000  # ms; a slow machine is no failure
expect.set_options(timeout=PATIENCE)


@contextmanager
def served(searcher: Searcher, chosen: settings.Settings, queries: Path, builds: Builds | None = None) -> Iterator[str]:
    """Serve the page as the app does, in this process; gives its address."""
    page = build_page(searcher, queries.glob("*.png"), "about", builds, limits_of(chosen))
    launch(page, chosen, Health(searcher))
    yield str(page.local_url).rstrip("/")
    page.close()


def settings_of(index: Path, *flags: str) -> settings.Settings:
    """The app's settings over an index, on loopback."""
    return settings.parse(app.parser(), ["--index", str(index), "--host", "127.0.0.1", *flags], {})[1]


def captions(page: Page) -> list[str]:
    return page.locator("#results .caption-label").all_inner_texts()


def timings(page: Page) -> Locator:
    return page.locator("#timings")


def upload(page: Page, path: Path) -> None:
    page.locator("#query input[type=file]").set_input_files(str(path))


def toggle(page: Page, group: str, value: str) -> None:
    page.locator(f"#{group} input[value={value}]").check()


def open_tab(page: Page, name: str) -> None:
    page.get_by_role("tab", name=name).click()
