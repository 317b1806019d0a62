"""Sections of the Search tab: results as files, disagreements, browsing, and the bar on phones."""

import csv
import io
import json
import re
import time
import urllib.request
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, Route, expect

from retrieval.search.searcher import Searcher
from tests.support.browsing import (
    PATIENCE,
    captions,
    choose_features,
    details,
    hits,
    hold_until_stopped,
    lane,
    open_tab,
    upload,
    wait_until_loaded,
    wait_until_settled,
)
from tests.support.waiting import wait_until

pytestmark = pytest.mark.browser


def saved(page: Page, kind: str) -> str:
    """Return the text of the file that a button saves."""
    with page.expect_download() as download:
        page.get_by_role("button", name=f"Download {kind}").click()
    assert download.value.suggested_filename == f"icons-results.{kind.lower()}"
    assert download.value.url.startswith("blob:"), "the server keeps the file"
    return Path(download.value.path()).read_text(encoding="utf-8")


def test_results_are_saved_as_csv_and_json(page: Page, queries: Path) -> None:
    upload(page, queries / "fox.png")
    expect(hits(page).first).to_contain_text("1. fox")
    rows = list(csv.DictReader(io.StringIO(saved(page, "CSV"))))
    shown = [*captions(page, "pixels"), *captions(page)]
    assert [f"{row['rank']}. {row['caption']} · {float(row['score']):.3f}" for row in rows] == shown
    assert {row["image"] for row in rows} == {"fox.png"}
    page.locator("#examples .thumbnail-item").nth(2).click()
    expect(page).to_have_url(re.compile("example=castle"))
    value = json.loads(saved(page, "JSON"))
    assert "example=castle" in value["search"]
    assert [each["features"] for each in value["rankings"]] == ["pixels", "clip"]
    assert [len(each["hits"]) for each in value["rankings"]] == [8, 8]


def test_images_on_which_two_feature_types_disagree_can_be_searched(page: Page, page_searcher: Searcher) -> None:
    page.locator("#disagreement button").first.click()
    choose_features(page, "clip")
    page.locator("#disagree").click()
    expect(page.locator("#disagreement_state")).to_contain_text("Choose exactly two feature types")
    choose_features(page, "clip", "pixels")
    page.locator("#disagree").click()
    state = page.locator("#disagreement_state")
    expect(state).to_contain_text(re.compile(r"Raw pixels for \d+ images, CLIP features for \d+; equal for \d+"))
    strip = page.locator("#disagreement_1")
    expect(strip).to_contain_text("More correct results: CLIP features")
    counts = strip.locator(".caption-label").first.inner_text()
    choose_features(page, "color")  # a click shows the two lanes that were compared
    strip.locator(".thumbnail-item").first.click()
    expect(page).to_have_url(re.compile(r"id=.*features=pixels&features=clip"))
    expect(lane(page).locator(".count b")).to_be_visible()
    assert counts == " : ".join(lane(page, name).locator(".count b").inner_text() for name in ("pixels", "clip"))
    page.go_back()
    expect(page).not_to_have_url(re.compile("id="))
    expect(strip.locator(".thumbnail-item").first).to_be_visible()
    page.locator("#disagree").click()  # found at once
    expect(state).to_contain_text("Raw pixels for")


def test_search_for_disagreements_can_be_stopped(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    hold_until_stopped(monkeypatch, 6)
    page.locator("#disagreement button").first.click()
    page.locator("#metric input[value=l2]").check()  # not known from another test
    page.locator("#disagree").click()
    expect(page.locator("#disagreement_state")).to_contain_text(re.compile(r"[1-9]\d* of 300 images compared"))
    page.locator("#disagree_cancel").click()
    expect(page.locator("#disagreement_state")).to_contain_text("Stopped.")
    expect(page.locator("#disagree_cancel")).to_be_disabled()


def test_gallery_is_browsed_by_class(page: Page, page_searcher: Searcher) -> None:
    index = page_searcher.indexes.get()
    page.locator("#browse button").first.click()
    images, state = page.locator("#browse_images .thumbnail-item"), page.locator("#browse_state")
    expect(images.first).to_be_visible()
    page.locator("#browse_class input").click()
    page.get_by_role("option", name="food-prepared").click()
    count = len(index.with_labels(["food-prepared"]))
    expect(state).to_have_text(f"1 to {min(48, count)} of {count} images")
    page.locator("#browse_class input").click()
    large = max(index.classes, key=lambda name: len(index.with_labels([name])))
    page.locator("#browse_class input").fill(large)
    page.get_by_role("option", name=large, exact=True).click()
    total = len(index.with_labels([large]))
    expect(state).to_have_text(f"1 to 48 of {total} images")
    expect(page.locator("#browse_previous")).to_be_disabled()
    page.locator("#browse_next").click()
    expect(state).to_have_text(f"49 to {min(96, total)} of {total} images")
    name = images.nth(1).locator(".caption-label").inner_text()
    images.nth(1).click()
    expect(page).to_have_url(re.compile("id="))
    expect(details(page)).to_contain_text("decode 0.0 ms")
    expect(page.locator("#query img")).to_be_visible()
    assert name


def test_bar_keeps_query_and_lanes_in_sight_on_phones(browser: Browser, address: str) -> None:
    page = browser.new_page(viewport={"width": 390, "height": 844})
    page.set_default_timeout(PATIENCE)
    page.goto(address)
    wait_until_loaded(page)
    expect(hits(page, "pixels").first).to_be_in_viewport(ratio=0.4)
    tabs = page.get_by_role("tab").all()
    assert len({each.bounding_box()["y"] for each in tabs}) == 1  # one row, which scrolls
    assert page.locator("#metric").bounding_box()["y"] > hits(page).last.bounding_box()["y"]
    bar = page.locator("#results .lanes-bar")
    hits(page).last.scroll_into_view_if_needed()
    assert bar.bounding_box()["y"] == pytest.approx(0, abs=1)
    bar.get_by_role("button", name="Raw pixels").click()
    expect(page.locator(".lane[data-features=pixels] h2")).to_be_in_viewport()
    title = lane(page, "pixels").locator("h2")
    wait_until(lambda: title.bounding_box()["y"] > bar.bounding_box()["height"] - 1)  # it scrolls there smoothly
    expect(bar.get_by_role("button", name="CLIP features")).to_contain_text(re.compile(r"\d of 8"))
    bar.get_by_role("button", name="Back to the query image").click()
    expect(page.locator("#query img")).to_be_in_viewport(ratio=1)  # once it has scrolled there
    open_tab(page, "Compare")
    expect(page.locator("#examples")).to_be_hidden()
    expect(page.locator("#query img")).to_be_in_viewport()
    open_tab(page, "Search")
    expect(page.locator("#examples")).to_be_visible()
    page.set_viewport_size({"width": 1280, "height": 800})
    expect(bar).to_be_hidden()
    page.close()


def test_quick_changes_ask_once_for_each_answer(page: Page, queries: Path) -> None:
    """While answers are slow; functions of one event that are busy must not repeat each other."""
    asked: list[str] = []

    def slowly(route: Route) -> None:
        asked.append(route.request.url)
        time.sleep(0.2)
        route.continue_()

    upload(page, queries / "fox.png")
    expect(hits(page).first).to_contain_text("1. fox")
    page.route("**/queue/join*", slowly)
    hits(page).nth(1).focus()
    page.keyboard.press("+")
    for text in ("cat", "bird", "dog"):
        page.locator("#text textarea").fill(text)
        page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile("text=dog"))
    wait_until_settled(page)
    page.wait_for_timeout(2000)  # for calls that should not come
    assert len(asked) <= 16


def test_closed_tabs_are_not_asked_and_do_not_change(page: Page, address: str, queries: Path) -> None:
    config = json.loads(urllib.request.urlopen(f"{address}/config", timeout=PATIENCE).read())
    parts = {"compare_note", "robustness_note", "map_note"}
    shown = {each["id"] for each in config["components"] if each["props"].get("elem_id") in parts}
    theirs = {each["id"] for each in config["dependencies"] if shown & set(each["outputs"]) and each["backend_fn"]}
    asked = set[int]()
    page.on(
        "request",
        lambda request: asked.add(request.post_data_json["fn_index"]) if "/queue/join" in request.url else None,
    )
    upload(page, queries / "fox.png")
    expect(hits(page).first).to_contain_text("1. fox")
    wait_until_settled(page)
    assert len(theirs) == 2 * len(parts) + 1  # a change and the opening of each, and the reset of Robustness
    assert asked
    assert not asked & theirs
    for number, tab in enumerate(("Compare", "Robustness", "Map"), start=1):
        open_tab(page, tab)
        wait_until_settled(page)
        assert len(asked & theirs) >= number
