"""The Evaluate tab in a real browser."""

import re
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.support.browsing import hold_until_stopped, open_tab, timings, upload

pytestmark = pytest.mark.browser


def test_evaluate_gallery_shows_table_plot_and_csv(page: Page) -> None:
    open_tab(page, "Evaluate")
    page.locator("#sample input[type=number]").fill("50")
    page.locator("#sample input[type=number]").blur()
    page.locator("#evaluate").click()
    expect(page.locator("#evaluate_state")).to_contain_text("leave-one-out over 50 of 1,566 images, exact scan.")
    expect(page.locator("#figures_plot img")).to_be_visible()
    expect(page.locator("#figures tbody tr").last).to_contain_text("Correlation")
    with page.expect_download() as download:
        page.locator("#csv").click()
    lines = Path(download.value.path()).read_text().splitlines()
    assert len(lines) == 9
    assert lines[0] == "features,metric,engine,p@1,p@5,map"
    said = str(page.locator("#figures_plot img").get_attribute("alt"))
    assert said.startswith(f"Highest mAP: {max(float(line.split(',')[-1]) for line in lines[1:]):.3f} by CLIP features")
    expect(page.locator("#evaluate_state")).to_contain_text(said)
    expect(page.locator("#cancel")).to_be_disabled()


def test_cancelled_evaluation_keeps_its_partial_results(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    hold_until_stopped(monkeypatch, 2)
    open_tab(page, "Evaluate")
    page.locator("#sample input[type=number]").fill("2000")
    page.locator("#sample input[type=number]").blur()
    page.locator("#evaluate").click()
    expect(page.locator("#evaluate_state")).to_contain_text(re.compile("[1-7] of 8 combinations"))
    page.locator("#cancel").click()
    expect(page.locator("#evaluate_state")).to_have_text("Stopped.")
    expect(page.locator("#cancel")).to_be_disabled()
    rows = page.locator("#figures .virtual-row")
    assert 1 <= rows.count() < 8
    expect(page.locator("#figures_plot img")).to_have_count(0)
    page.locator("#evaluate_query").click()  # an update from the stopped run would arrive before this one
    expect(page.locator("#evaluate_state")).to_contain_text("whose label is known")


def test_evaluation_restarted_right_after_cancelling_completes(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    hold_until_stopped(monkeypatch, 1)
    open_tab(page, "Evaluate")
    page.locator("#evaluate").click()
    page.locator("#cancel:enabled").click()
    page.locator("#evaluate").click()
    expect(page.locator("#figures_plot img")).to_be_visible()
    expect(page.locator("#figures .virtual-row")).to_have_count(8)
    expect(page.locator("#evaluate_state")).to_contain_text("Highest mAP")
    expect(page.locator(".error:visible")).to_have_count(0)
    expect(page.locator("#cancel")).to_be_disabled()


def test_evaluate_query_needs_a_labelled_picture(page: Page, queries: Path) -> None:
    upload(page, queries / "fox.png")
    expect(page.locator("#results .caption-label").first).to_be_visible()
    open_tab(page, "Evaluate")
    page.locator("#evaluate_query").click()
    expect(page.locator("#evaluate_state")).to_contain_text("whose label is known")
    open_tab(page, "Search")
    page.locator("#results .thumbnail-item").first.click()
    expect(timings(page)).to_contain_text("decode 0.0 ms")
    open_tab(page, "Evaluate")
    page.locator("#evaluate_query").click()
    expect(page.locator("#evaluate_state")).to_contain_text("label animal-mammal")
    expect(page.locator("#figures_plot img")).to_be_visible()
