"""The Compare tab in a real browser."""

import re
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect

from retrieval.metrics import Metric
from tests.support.browsing import ROWS, hits, open_advanced, open_tab, toggle, upload

pytestmark = pytest.mark.browser


def test_compare_shows_every_combination_and_equal_metrics(page: Page, queries: Path) -> None:
    open_tab(page, "Compare")
    expect(page.locator("#compare_note")).to_contain_text("Choose an image to start")
    upload(page, queries / "pizza.png")
    expect(page.locator(".comparison .hits")).to_have_count(ROWS)
    expect(page.locator(".hits .caption-label")).to_have_count(ROWS * 6)
    rows = page.locator(".comparison").all_inner_texts()
    assert rows[0].startswith("CLIP features · Cosine = L2")
    assert rows[1].startswith("Raw pixels · L2")
    assert sum("always gives the same order" in row for row in rows) == 2
    assert sum("Baseline" in row for row in rows) == 1
    note = page.locator("#compare_note")
    said = "Of the baseline's 6 results: CLIP features by other metrics find 6; raw pixels find "
    expect(note).to_contain_text(said)
    expect(note).to_contain_text(re.compile(r"ChromaDB finds all exact results in (every row|\d+ of \d+ rows)\."))
    recall = re.compile(r"Its lowest recall@10 in this gallery is [01]\.\d{3} \(95 % interval from 0\.9")
    expect(note).to_contain_text(recall)
    # ChromaDB's hits are compared with the same baseline, which is not among those shown.
    toggle(page, "compare_engine", "chroma")
    row = page.locator(".comparison", has_text="CLIP features · Cosine")
    expect(row).to_contain_text("6 of 6 shared · order (τ) 1.00")
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
    page.locator("#examples .thumbnail-item").nth(14).click()
    expect(hits(page).first).to_contain_text("1. soccer ball")
    assert row_captions(page, "CLIP features · Cosine").all_text_contents() == before
    open_tab(page, "Compare")
    expect(row_captions(page, "CLIP features · Cosine").first).to_contain_text("1. soccer ball")
    open_advanced(page)
    page.locator("#labels input").click()
    page.get_by_role("option", name="animal-mammal").click()
    expect(row_captions(page, "CLIP features · Cosine").first).not_to_contain_text("soccer ball")


def test_results_of_the_baseline_have_a_letter_and_a_colour_in_each_row(page: Page, queries: Path) -> None:
    upload(page, queries / "fox.png")
    open_tab(page, "Compare")
    expect(page.locator(".comparison .caption-label")).to_have_count(ROWS * 6)
    script = """items => items.map(each => [each.querySelector("img").alt, getComputedStyle(each).borderTopColor,
        getComputedStyle(each.querySelector(".caption-label"), "::first-letter").backgroundColor])"""
    seen: dict[str, set[tuple[str, str, str]]] = {}
    for name in page.locator(".comparison").all():
        for alt, border, badge in name.locator(".thumbnail-item").evaluate_all(script):
            if found := re.match(r"([A-F]) \d\. (.*) · ", alt):
                assert border == badge
                seen.setdefault(found[1], set()).add((found[2], border, badge))
            else:
                assert re.match(r"\d\. ", alt)
                assert badge != border
    assert sorted(seen) == list("ABCDEF")
    assert all(len(each) == 1 for each in seen.values())
    assert len({border for each in seen.values() for _, border, _ in each}) == 6
    first = row_captions(page, "CLIP features · Cosine")
    assert [text.strip()[0] for text in first.all_text_contents()] == list("ABCDEF")


def test_number_of_results_can_be_changed_by_keyboard(page: Page, queries: Path) -> None:
    upload(page, queries / "fox.png")
    open_tab(page, "Compare")
    expect(page.locator(".comparison .caption-label")).to_have_count(ROWS * 6)
    page.locator("#compare_top_k input[type=range]").focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator(".comparison .caption-label")).to_have_count(ROWS * 7)
    page.keyboard.press("Home")
    expect(page.locator(".comparison .caption-label")).to_have_count(ROWS * 1)


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
    expect(page.locator(".hits .caption-label")).to_have_count((len(Metric) - 1) * 6)  # L2 shares a row with cosine
    expect(page.locator(".comparison", has_text="Raw pixels · L1")).to_contain_text("Text search needs CLIP features")


def test_lab_draws_the_curve_of_a_graph_beside_that_of_the_gallery(page: Page) -> None:
    open_tab(page, "Compare")
    page.locator("#hnsw_lab button").first.click()
    page.locator("#lab_build").click()
    expect(page.locator("#lab_state")).to_contain_text(re.compile(r"CLIP features · Cosine: a graph of [\d,]+ images"))
    expect(page.locator("#lab_state")).to_contain_text("recall@10 in this gallery: 1.000 (0.981 to 1.000)")
    expect(page.locator("#lab_plot img")).to_be_visible()
