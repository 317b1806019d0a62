"""What the browser tests share: a page that is really served, and what a visitor does on it."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect

import app
from retrieval import settings
from retrieval.indexing.jobs import Builds
from retrieval.search.searcher import Searcher
from retrieval.ui.page import build_page, launch
from retrieval.ui.serving.health import Health
from retrieval.ui.serving.limits import limits_of
from retrieval.ui.tabs.stopping import Job
from tests.support.waiting import until

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


def arrived(page: Page) -> None:
    """Wait until the page is complete: gradio mounts its components in waves, each of which may move the others."""
    for part in ("#query", "#results", "#examples .thumbnail-item", "#timings", "#link"):
        expect(page.locator(part).first).to_be_attached()
    expect(timings(page)).not_to_be_empty()
    expect(page.locator("#announcement")).to_be_attached()
    settled(page)


def settled(page: Page) -> None:
    """Wait until no answer is on its way and nothing moves."""
    expect(page.locator(".pending, .generating, .progress-text:visible")).to_have_count(0)
    page.evaluate("document.fonts.ready.then(() => undefined)")
    page.wait_for_function(
        "document.getAnimations().every(each => each.playState !== 'running' || each.effect.getTiming().iterations > 9)"
    )


def hold_until_stopped(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    """Let the next long job wait after some steps until its visitor stops it, however slow the visitor is."""
    over, asked, jobs = Job.over, count(), list[Job]()

    def held(job: Job) -> str:
        jobs.append(job)  # a job that is stopped earlier leaves the next one alone
        if next(asked) == steps and job is jobs[0]:
            until(job.ended)
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
