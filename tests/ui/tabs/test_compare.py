"""The Compare tab in a real browser."""

import re
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.support.browsing import ROWS, open_tab, toggle, upload

pytestmark = pytest.mark.browser


def test_compare_shows_every_combination_and_equal_metrics(page: Page, queries: Path) -> None:
    open_tab(page, "Compare")
    expect(page.locator("#compare_note")).to_contain_text("Choose an image to start")
    upload(page, queries / "pizza.png")
    expect(page.locator(".comparison .hits")).to_have_count(ROWS)
    expect(page.locator(".hits .caption-label")).to_have_count(ROWS * 6)
    rows = page.locator(".comparison").all_inner_texts()
    assert sum("always gives the same order" in row for row in rows) == 2
    assert sum("baseline" in row for row in rows) == 1
    assert all(re.search(r"ChromaDB: recall@6 [01]\.\d\d", row) for row in rows)
    same = page.locator(".comparison", has_text="CLIP features · L2")
    expect(same).to_contain_text("overlap@6 1.00 · τ 1.00")
    # ChromaDB's hits are compared with the same baseline, which is not among those shown.
    toggle(page, "compare_engine", "chroma")
    expect(page.locator(".comparison", has_text="CLIP features · Cosine")).to_contain_text("overlap@6 1.00 · τ 1.00")
    expect(page.locator(".hits .caption-label")).to_have_count(ROWS * 6)


def row_captions(page: Page, row: str) -> Locator:
    """Return the captions of the hits of one combination."""
    return page.locator(".comparison", has_text=row).locator(".caption-label")


def test_compare_follows_the_query_only_while_it_is_open(page: Page, queries: Path) -> None:
    upload(page, queries / "fox.png")
    open_tab(page, "Compare")
    expect(row_captions(page, "CLIP features · Cosine").first).to_contain_text("1. fox")
    page.locator("#query button[aria-label='Remove Image']").click()
    expect(page.locator("#compare_note")).to_contain_text("Choose an image to start")
    expect(page.locator(".comparison .caption-label")).to_have_count(0)
    upload(page, queries / "pizza.png")
    expect(row_captions(page, "CLIP features · Cosine").first).to_contain_text("1. pizza")
    before = row_captions(page, "CLIP features · Cosine").all_text_contents()
    open_tab(page, "Search")
    page.locator("#examples .thumbnail-item").nth(17).click()
    expect(page.locator("#results .caption-label").first).to_contain_text("1. soccer ball")
    assert row_captions(page, "CLIP features · Cosine").all_text_contents() == before
    open_tab(page, "Compare")
    expect(row_captions(page, "CLIP features · Cosine").first).to_contain_text("1. soccer ball")
    page.locator("#more button").first.click()
    page.locator("#labels input").click()
    page.get_by_role("option", name="animal-mammal").click()
    expect(row_captions(page, "CLIP features · Cosine").first).not_to_contain_text("soccer ball")


def test_number_of_results_can_be_changed_by_keyboard(page: Page, queries: Path) -> None:
    upload(page, queries / "fox.png")
    open_tab(page, "Compare")
    expect(page.locator(".comparison .caption-label")).to_have_count(ROWS * 6)
    page.locator("#compare_top_k input[type=range]").focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator(".comparison .caption-label")).to_have_count(ROWS * 7)
    page.keyboard.press("Home")
    expect(page.locator(".comparison .caption-label")).to_have_count(8 * 1)


def test_compare_reports_a_bad_picture_and_keeps_working(page: Page, queries: Path, tmp_path: Path) -> None:
    bad = tmp_path / "cut.png"
    bad.write_bytes((queries / "fox.png").read_bytes()[:2000])
    open_tab(page, "Compare")
    upload(page, bad)
    expect(page.locator("#compare_note")).to_contain_text("damaged or cut off")
    expect(page.locator(".error:visible")).to_have_count(0)
    page.locator("#query button[aria-label='Remove Image']").click()
    upload(page, queries / "fox.png")
    expect(row_captions(page, "CLIP features · Cosine").first).to_contain_text("1. fox")


def test_compare_with_a_text_omits_raw_pixels(page: Page) -> None:
    page.locator("#text input, #text textarea").fill("red fruit")
    open_tab(page, "Compare")
    expect(page.locator(".hits .caption-label")).to_have_count(4 * 6)
    expect(page.locator(".comparison", has_text="Raw pixels · L1")).to_contain_text("Text search needs CLIP features")
