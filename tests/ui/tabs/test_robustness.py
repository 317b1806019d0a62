"""The Robustness tab in a real browser."""

import re
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from retrieval.analysis.robustness import STEPS
from tests.support.browsing import PATIENCE, hold_until_stopped, open_tab, upload

pytestmark = pytest.mark.browser

UNCHANGED = re.compile(r"8 of 8 results kept · order \(τ\) 1\.00 · cosine 1\.00")


@pytest.fixture
def opened(page: Page, queries: Path) -> Page:
    """The tab with an undistorted query picture of a cat."""
    upload(page, queries / "cat.png")
    open_tab(page, "Robustness")
    wait_until_described_as(page, "The query image, rotated by 20°")
    page.locator("#reset").click()
    wait_until_described_as(page, "The query image, undistorted")
    expect(captions(page, "distorted_pixels")).to_have_count(8)
    return page


def captions(page: Page, strip: str) -> Locator:
    return page.locator(f"#{strip} .caption-label")


def wait_until_described_as(page: Page, words: str | re.Pattern[str]) -> None:
    """Wait until the distorted query picture has this description."""
    expect(page.locator("#distorted img")).to_have_attribute("alt", words)


def distort(page: Page, kind: str, value: str) -> None:
    page.locator(f"#distort_{kind} input[type=number]").fill(value)
    page.locator(f"#distort_{kind} input[type=number]").blur()


def test_rows_and_figures_agree_without_distortion(opened: Page) -> None:
    expect(opened.locator("#robustness_note")).to_contain_text("Nothing is distorted")
    wait_until_described_as(opened, "The query image, undistorted")
    for features in ("clip", "pixels"):
        expect(opened.locator(f"#withstood_{features}").first).to_contain_text(UNCHANGED)
        before = captions(opened, f"undistorted_{features}").all_inner_texts()
        assert captions(opened, f"distorted_{features}").all_inner_texts() == before


def test_sliders_are_beside_both_rows_of_results(opened: Page) -> None:
    """Without scrolling on a laptop; the sliders stay in view while the page scrolls to the other feature types."""
    opened.set_viewport_size({"width": 1366, "height": 768})
    opened.evaluate("window.scrollTo({ top: 0, behavior: 'instant' })")
    first = opened.locator("#sliders ~ * .hits").first
    for part in (*opened.locator("#sliders input[type=range]").all()[:5], first, opened.locator("#distorted_clip")):
        box = part.bounding_box()
        assert box and box["y"] + box["height"] <= 768
    opened.evaluate("window.scrollTo({ top: 400, behavior: 'instant' })")
    expect(opened.locator("#distort_rotation")).to_be_in_viewport()
    expect(opened.locator("#distort_quality")).to_be_in_viewport()


def test_slider_changes_the_results_and_reset_restores_them(opened: Page) -> None:
    before = captions(opened, "distorted_pixels").all_inner_texts()
    picture = opened.locator("#distorted img").get_attribute("src")
    slider = opened.locator("#distort_rotation input[type=range]")
    box = slider.bounding_box()
    assert box
    opened.mouse.click(box["x"] + box["width"] * 0.75, box["y"] + box["height"] / 2)
    wait_until_described_as(opened, re.compile(r"^The query image, rotated by (8|9|10)\d?°$"))
    expect(opened.locator("#robustness_note")).to_contain_text("Kept (green ring): results of the original")
    expect(opened.locator("#withstood_pixels").first).not_to_contain_text(UNCHANGED)
    assert opened.locator("#distorted img").get_attribute("src") != picture
    assert captions(opened, "undistorted_pixels").all_inner_texts() == before
    moved = captions(opened, "distorted_pixels").all_inner_texts()
    assert moved != before
    kept = int(re.search(r"(\d) of 8 results kept", opened.locator("#withstood_pixels").first.inner_text())[1])
    assert sum(text.endswith("new") for text in moved) == 8 - kept
    rings = "items => items.map(each => getComputedStyle(each).borderStyle)"
    found = opened.locator("#distorted_pixels .thumbnail-item").evaluate_all(rings)
    assert found == ["dashed" if text.endswith("new") else "solid" for text in moved]
    distort(opened, "grey", "100")
    wait_until_described_as(opened, re.compile("°, 100 % grey$"))
    opened.locator("#reset").click()
    wait_until_described_as(opened, "The query image, undistorted")
    expect(opened.locator("#withstood_pixels").first).to_contain_text(UNCHANGED)
    assert captions(opened, "distorted_pixels").all_inner_texts() == before
    for kind, none in (("rotation", "0"), ("grey", "0"), ("quality", "100")):
        expect(opened.locator(f"#distort_{kind} input[type=number]")).to_have_value(none)


def test_sliders_and_sweep_work_by_keyboard(opened: Page) -> None:
    opened.locator("#distort_rotation input[type=range]").focus()
    opened.keyboard.press("ArrowRight")
    wait_until_described_as(opened, "The query image, rotated by 1°")
    opened.keyboard.press("End")
    wait_until_described_as(opened, "The query image, rotated by 180°")
    number = opened.locator("#distort_blur input[type=number]")
    number.fill("2.5")
    number.press("Enter")
    wait_until_described_as(opened, re.compile("blurred by 2.5 % of its shorter side"))
    opened.locator("#reset").focus()
    opened.keyboard.press("Enter")
    wait_until_described_as(opened, "The query image, undistorted")
    opened.locator("#sweep").focus()
    opened.keyboard.press("Enter")
    expect(opened.locator("#sweep_plot img")).to_be_visible()


def test_sweep_shows_table_plot_and_summary(opened: Page) -> None:
    opened.locator("#sweep").click()
    expect(opened.locator("#sweep_plot img")).to_be_visible()
    expect(opened.locator("#sweep_state")).to_contain_text("Mean overlap@8 for this image:")
    sentence = opened.locator("#sweep_state p").inner_text()
    expect(opened.locator("#sweep_plot img")).to_have_attribute("alt", sentence)
    expect(opened.locator("#sweep_table .virtual-row")).to_have_count(STEPS)
    rows = [row.split() for row in opened.locator("#sweep_table .virtual-row").all_inner_texts()]
    assert all(re.fullmatch(r"[01]\.\d\d", figure) for row in rows for figure in row[-3:])
    shares = [[float(figure) for figure in row[-3:]] for row in rows if row[0] == "Blur"]
    means = [f"{sum(column) / len(column):.2f}" for column in zip(*shares, strict=True)]
    assert all(mean in sentence for mean in means), (means, sentence)
    expect(opened.locator("#sweep_cancel")).to_be_disabled()


def test_sweep_can_be_cancelled_and_restarted(opened: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    hold_until_stopped(monkeypatch, 3)
    opened.locator("#sweep").click()
    opened.locator("#sweep_cancel:enabled").click()
    expect(opened.locator("#sweep_state")).to_have_text("Stopped.")
    expect(opened.locator("#sweep_cancel")).to_be_disabled()
    expect(opened.locator("#sweep_table")).to_contain_text("…")  # steps that did not run
    expect(opened.locator("#sweep_plot img")).to_have_count(0)
    opened.locator("#sweep").click()
    expect(opened.locator("#sweep_plot img")).to_be_visible()
    expect(opened.locator("#sweep_table")).not_to_contain_text("…")


def test_changing_picture_or_metric_updates_results_and_clears_the_sweep(opened: Page, queries: Path) -> None:
    opened.locator("#sweep").click()
    expect(opened.locator("#sweep_plot img")).to_be_visible()
    opened.locator("#examples .thumbnail-item").nth(14).click()
    expect(captions(opened, "undistorted_clip").first).to_contain_text("1. soccer ball")
    expect(opened.locator("#sweep_plot img")).to_have_count(0)
    expect(opened.locator("#sweep_state p")).to_have_count(0)
    before = captions(opened, "undistorted_pixels").all_inner_texts()
    opened.locator("#robustness_metric input").click()
    opened.get_by_role("option", name="L1").click()
    expect(captions(opened, "undistorted_pixels").first).not_to_have_text(before[0])
    opened.locator("#robustness_top_k input[type=number]").fill("3")
    opened.locator("#robustness_top_k input[type=number]").blur()
    expect(captions(opened, "distorted_clip")).to_have_count(3)
    expect(opened.locator("#withstood_clip").first).to_contain_text("3 of 3 results kept")


def test_text_query_gets_a_hint_that_a_picture_is_needed(page: Page, queries: Path) -> None:
    open_tab(page, "Robustness")
    expect(page.locator("#robustness_note")).to_contain_text("Choose an image to start")
    page.locator("#text input, #text textarea").fill("red fruit")
    page.keyboard.press("Enter")
    expect(page.locator("#robustness_note")).to_contain_text("a text cannot be rotated or blurred")
    page.locator("#sweep").click()
    expect(page.locator("#sweep_state")).to_contain_text("a text cannot be rotated or blurred")
    expect(page.locator("[data-testid=toast-body]")).to_have_count(0)
    upload(page, queries / "red-apple.png")
    expect(page.locator("#robustness_note")).to_contain_text("Only images count here, not the text.")
    expect(captions(page, "distorted_clip")).to_have_count(8)


def test_bad_picture_is_reported_and_the_tab_keeps_working(opened: Page, queries: Path, tmp_path: Path) -> None:
    bad = tmp_path / "cut.png"
    bad.write_bytes((queries / "cat.png").read_bytes()[:2000])
    opened.locator("#query button[aria-label='Remove Image']").click()
    expect(opened.locator("#robustness_note")).to_contain_text("Choose an image to start")
    expect(captions(opened, "distorted_clip")).to_have_count(0)
    upload(opened, bad)
    expect(opened.locator("#robustness_note")).to_contain_text("damaged or cut off")
    opened.locator("#query button[aria-label='Remove Image']").click()
    upload(opened, queries / "fox.png")
    expect(captions(opened, "distorted_clip").first).to_contain_text("1. fox")


def test_all_pictures_have_alt_text(opened: Page) -> None:
    for picture in opened.locator("img").all():
        assert picture.get_attribute("alt"), picture.evaluate("image => image.outerHTML")


@pytest.mark.parametrize("theme", ["light", pytest.param("dark", marks=pytest.mark.endurance)])
def test_page_does_not_scroll_sideways_on_a_phone(browser: Browser, address: str, queries: Path, theme: str) -> None:
    context = browser.new_context(viewport={"width": 390, "height": 844})
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    page.goto(f"{address}?__theme={theme}")
    upload(page, queries / "castle.png")
    open_tab(page, "Robustness")
    expect(captions(page, "distorted_pixels")).to_have_count(8)
    page.locator("#sweep").click()
    expect(page.locator("#sweep_plot img")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    table = page.locator("#sweep_table").bounding_box()
    assert table
    assert table["x"] + table["width"] <= 390
    context.close()
