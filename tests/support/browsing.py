"""Helpers for the browser tests: serve the page, and act on it like a visitor."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect

from retrieval import app, settings
from retrieval.features import DEFAULT_SET
from retrieval.indexing.jobs import Builds
from retrieval.search.searcher import Searcher
from retrieval.ui.page import build_page, launch
from retrieval.ui.serving.health import Health
from retrieval.ui.serving.limits import limits_of
from retrieval.ui.tabs.compare import rows
from retrieval.ui.tabs.stopping import Job
from tests.support.waiting import wait_until

PATIENCE = 60_000  # ms; generous, so that slow machines pass
ROWS = len(rows(DEFAULT_SET))  # of the Compare tab
expect.set_options(timeout=PATIENCE)


@contextmanager
def served(searcher: Searcher, chosen: settings.Settings, builds: Builds | None = None) -> Iterator[str]:
    """Serve the page as the app does, in this process; yield its address."""
    page = build_page(searcher, "about", builds, limits_of(chosen))
    launch(page, chosen, Health(searcher))
    yield str(page.local_url).rstrip("/")
    page.close()


def settings_of(index: Path, *flags: str) -> settings.Settings:
    """The app's settings over an index, on loopback; galleries get no t-SNE maps, which take time."""
    return settings.parse(app.parser(), ["--index", str(index), "--host", "127.0.0.1", "--map", "pca", *flags], {})[1]


def wait_until_loaded(page: Page) -> None:
    """Wait until the page is complete: gradio mounts components in stages, and each stage may move the others."""
    for part in ("#query img", "#results .hit", "#examples .thumbnail-item", "#link .there"):
        expect(page.locator(part).first).to_be_attached()
    wait_until_settled(page)


def clear(page: Page) -> None:
    """Remove the example with which the page opens."""
    page.locator("#query button[aria-label='Remove Image']").click()
    expect(hint(page)).to_contain_text("Choose an image to start")


def wait_until_settled(page: Page) -> None:
    """Wait until no response is pending and no animation runs."""
    expect(page.locator(".pending, .generating, .progress-text:visible")).to_have_count(0)
    page.evaluate("document.fonts.ready.then(() => undefined)")
    page.wait_for_function(
        "document.getAnimations().every(each => each.playState !== 'running' || each.effect.getTiming().iterations > 9)"
    )


def open_advanced(page: Page) -> None:
    """Open the section Advanced, and wait until gradio has set its values, a moment after they are shown."""
    page.locator("#more button").first.click()
    expect(page.locator("#top_k input[type=number]")).to_be_visible()
    page.evaluate("new Promise(done => requestIdleCallback(() => requestIdleCallback(done)))")


def hold_until_stopped(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    """Pause the next long job after `steps` steps until the visitor stops it, so that the test is not a race."""
    over, asked, first, began = Job.over, count(), list[Job](), time.time() * 1000

    def held(job: Job) -> str:
        if job.began < began:  # of an earlier test
            return over(job)
        first.append(job)
        if job is first[0] and next(asked) == steps:  # the visitor's next job must not pause
            wait_until(job.ended)
        return over(job)

    monkeypatch.setattr(Job, "over", held)


def lane(page: Page, features: str = "clip") -> Locator:
    return page.locator(f"#results .lane[data-features={features}]")


def hits(page: Page, features: str = "clip") -> Locator:
    return lane(page, features).locator(".hit")


def captions(page: Page, features: str = "clip") -> list[str]:
    """Return rank, name and score of each result of a lane, such as "1. pizza · 0.912"."""
    script = (
        "cards => cards.map(each => ['.name', '.score'].map(part => each.querySelector(part).textContent).join(' · '))"
    )
    found: list[str] = hits(page, features).evaluate_all(script)
    return found


def details(page: Page, features: str = "clip") -> Locator:
    """Return the timings and the explanation of the scores in a lane."""
    return lane(page, features).locator("details")


def hint(page: Page) -> Locator:
    return page.locator("#results .lanes-note")


def choose_features(page: Page, *names: str) -> None:
    """Choose exactly these feature types; those to add come first, so that the choice is never empty."""
    boxes = page.locator("#features input").all()
    for box in sorted(boxes, key=lambda each: each.get_attribute("name") not in names):
        box.set_checked(box.get_attribute("name") in names)


def search_with(page: Page, result: Locator) -> None:
    """Open a result in the viewer, and make it the query there."""
    result.click()
    page.get_by_role("button", name="Search with this").click()


def upload(page: Page, path: Path) -> None:
    page.locator("#choose input[type=file]").set_input_files(str(path))


def toggle(page: Page, group: str, value: str) -> None:
    page.locator(f"#{group} input[value={value}]").check()


def open_tab(page: Page, name: str) -> None:
    page.get_by_role("tab", name=name).click()
