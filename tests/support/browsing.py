"""Helpers for the browser tests: serve the page, and act on it like a visitor."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect

import app
from retrieval import settings
from retrieval.features import FEATURES
from retrieval.indexing.jobs import Builds
from retrieval.metrics import Metric
from retrieval.search.searcher import Searcher
from retrieval.ui.page import build_page, launch
from retrieval.ui.serving.health import Health
from retrieval.ui.serving.limits import limits_of
from retrieval.ui.tabs.stopping import Job
from tests.support.waiting import wait_until

PATIENCE = 60_000  # ms; generous, so that slow machines pass
ROWS = len(FEATURES) * len(Metric)  # of the Compare tab
expect.set_options(timeout=PATIENCE)


@contextmanager
def served(searcher: Searcher, chosen: settings.Settings, queries: Path, builds: Builds | None = None) -> Iterator[str]:
    """Serve the page as the app does, in this process; yield its address."""
    page = build_page(searcher, queries.glob("*.png"), "about", builds, limits_of(chosen))
    launch(page, chosen, Health(searcher))
    yield str(page.local_url).rstrip("/")
    page.close()


def settings_of(index: Path, *flags: str) -> settings.Settings:
    """The app's settings over an index, on loopback."""
    return settings.parse(app.parser(), ["--index", str(index), "--host", "127.0.0.1", *flags], {})[1]


def wait_until_loaded(page: Page) -> None:
    """Wait until the page is complete: gradio mounts components in stages, and each stage may move the others."""
    for part in ("#query", "#results", "#examples .thumbnail-item", "#timings", "#link"):
        expect(page.locator(part).first).to_be_attached()
    expect(timings(page)).not_to_be_empty()
    expect(page.locator("#announcement")).to_be_attached()
    wait_until_settled(page)


def wait_until_settled(page: Page) -> None:
    """Wait until no response is pending and no animation runs."""
    expect(page.locator(".pending, .generating, .progress-text:visible")).to_have_count(0)
    page.evaluate("document.fonts.ready.then(() => undefined)")
    page.wait_for_function(
        "document.getAnimations().every(each => each.playState !== 'running' || each.effect.getTiming().iterations > 9)"
    )


def hold_until_stopped(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    """Pause the next long job after `steps` steps until the visitor stops it, so that the test is not a race."""
    over, asked, first = Job.over, count(), list[Job]()

    def held(job: Job) -> str:
        first.append(job)
        if job is first[0] and next(asked) == steps:  # the visitor's next job must not pause
            wait_until(job.ended)
        return over(job)

    monkeypatch.setattr(Job, "over", held)


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
