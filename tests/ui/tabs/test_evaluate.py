"""The Evaluate tab in a real browser."""

import csv
import json
import re
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from retrieval.features import DEFAULT_SET
from retrieval.metrics import Metric
from tests.support.browsing import details, hits, hold_until_stopped, open_tab, search_with, upload

pytestmark = pytest.mark.browser

COMBINATIONS = len(DEFAULT_SET) * len(Metric)


def test_evaluate_gallery_shows_table_plot_and_csv(page: Page) -> None:
    open_tab(page, "Evaluate")
    expect(page.locator("#sample")).to_contain_text("Images in the sample (of 1,566)")
    expect(page.locator("#sample input[type=number]")).to_have_attribute("max", "1566")
    expect(page.locator("#figures")).to_be_hidden()
    page.locator("#sample input[type=number]").fill("50")
    page.locator("#sample input[type=number]").blur()
    page.locator("#evaluate").click()
    expect(page.locator("#evaluate_state")).to_contain_text("leave-one-out over 50 of 1,566 images, exact scan.")
    expect(page.locator("#figures_plot img")).to_be_visible()
    expect(page.locator("#costs_plot img")).to_have_attribute("alt", re.compile("better, faster and smaller than"))
    lines = list(csv.DictReader(downloaded(page, "#leaderboard_csv").splitlines()))
    assert len(lines) == COMBINATIONS
    shown = page.locator("#figures .virtual-row").first
    first = lines[0]
    limits = ", ".join(f"{float(first[f'mAP {limit}']):.3f}" for limit in ("low", "high"))
    expect(shown).to_contain_text(f"{float(first['mAP']):.3f} [{limits}]")
    expect(shown).to_contain_text(first["title"])
    answer = json.loads(downloaded(page, "#results_json"))
    assert answer["results"][0]["measures"]["mAP"]["value"] == float(first["mAP"])
    said = str(page.locator("#figures_plot img").get_attribute("alt"))
    assert said == answer["verdict"]
    for sentence in (said, *answer["about"], *answer["warnings"]):
        expect(page.locator("#evaluate_state")).to_contain_text(sentence)
    assert "names and subgroups of these icons" in answer["warnings"][-1]
    assert "<title>Evaluation of icons</title>" in downloaded(page, "#report_html")
    expect(page.locator("#cancel")).to_be_disabled()
    # An error does not leave the figures of another evaluation below it.
    page.locator("#evaluate_query").click()
    expect(page.locator("#evaluate_state")).to_contain_text("whose label is known")
    expect(page.locator("#figures .virtual-row")).to_have_count(0)
    for gone in ("#figures_plot img", "#costs_plot img", "#leaderboard_csv", "#report_html"):
        expect(page.locator(gone)).to_have_count(0)


def downloaded(page: Page, button: str) -> str:
    """Return the text of the file behind a download button."""
    with page.expect_download() as download:
        page.locator(button).click()
    return Path(download.value.path()).read_text(encoding="utf-8")


def test_cancelled_evaluation_keeps_its_partial_results(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    hold_until_stopped(monkeypatch, 2)
    open_tab(page, "Evaluate")
    page.locator("#sample input[type=number]").fill("1500")
    page.locator("#sample input[type=number]").blur()
    page.locator("#evaluate").click()
    expect(page.locator("#evaluate_state")).to_contain_text(re.compile(f"[1-9]\\d* of {COMBINATIONS} combinations"))
    page.locator("#cancel").click()
    expect(page.locator("#evaluate_state")).to_have_text("Stopped.")
    expect(page.locator("#cancel")).to_be_disabled()
    rows = page.locator("#figures .virtual-row")
    assert 1 <= rows.count() < 12
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
    expect(page.locator("#figures .virtual-row")).to_have_count(12)
    expect(page.locator("#evaluate_state")).to_contain_text(re.compile("the first place|is best"))
    expect(page.locator(".error:visible")).to_have_count(0)
    expect(page.locator("#cancel")).to_be_disabled()


def test_evaluate_query_needs_a_labelled_picture(page: Page, queries: Path) -> None:
    upload(page, queries / "fox.png")
    expect(hits(page).first).to_be_visible()
    open_tab(page, "Evaluate")
    page.locator("#evaluate_query").click()
    expect(page.locator("#evaluate_state")).to_contain_text("whose label is known")
    open_tab(page, "Search")
    search_with(page, hits(page).first)
    expect(details(page)).to_contain_text("decode 0.0 ms")
    open_tab(page, "Evaluate")
    page.locator("#evaluate_query").click()
    expect(page.locator("#evaluate_state")).to_contain_text("label animal-mammal")
    expect(page.locator("#figures_plot img")).to_be_visible()


def test_vector_lab_follows_its_settings_and_the_gallery(page: Page) -> None:
    open_tab(page, "Evaluate")
    expect(page.locator("#lab_state")).to_be_hidden()
    page.get_by_role("button", name="Vector lab").click()
    expect(page.locator("#lab_state")).to_contain_text("CLIP features, centred. mAP changes by")
    rows = page.locator("#lab_table .virtual-row")
    expect(rows).to_have_count(2)
    before = rows.first.inner_text()
    page.locator("#lab_change input").click()
    page.get_by_role("option", name="binary").click()
    expect(page.locator("#lab_state")).to_contain_text("CLIP features, binary.")
    expect(rows.last).to_contain_text("64")
    assert rows.first.inner_text() == before
    page.locator("#lab_other input").click()
    page.get_by_role("option", name="Raw pixels").click()
    expect(page.locator("#lab_state")).to_contain_text("CLIP features, binary, with Raw pixels by weights.")
    expect(page.locator(".error:visible")).to_have_count(0)
