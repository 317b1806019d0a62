"""The page's address and the browser's history: reload, Back, Forward, shared links, and hostile addresses."""

import re
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.support.browsing import (
    PATIENCE,
    captions,
    details,
    hint,
    hits,
    open_advanced,
    open_tab,
    search_with,
    toggle,
    upload,
    wait_until_loaded,
)
from tests.support.waiting import wait_until

pytestmark = pytest.mark.browser

CASTLE = re.compile("example=castle")


def tab(page: Page) -> str:
    """Return the title of the open tab."""
    return page.locator("[role=tab][aria-selected=true]").inner_text()


def length(page: Page) -> int:
    found: int = page.evaluate("history.length")
    return found


def choose_castle(page: Page) -> None:
    page.locator("#examples .thumbnail-item").nth(2).click()
    expect(hits(page).first).to_contain_text("1. castle")
    expect(page).to_have_url(CASTLE)


def rotate(page: Page, degrees: int) -> None:
    slider = page.locator("#distort_rotation input[type=number]")
    slider.fill(str(degrees))
    slider.blur()
    expect(page).to_have_url(re.compile(f"rotation={degrees}(&|$)"))


def test_back_and_forward_lead_through_searches_and_tabs(page: Page) -> None:
    choose_castle(page)
    toggle(page, "metric", "l1")
    expect(details(page)).to_contain_text("Score: L1")
    expect(page).to_have_url(re.compile("metric=l1"))
    l1 = captions(page)
    search_with(page, hits(page).nth(1))
    expect(page).to_have_url(re.compile("id="))
    open_tab(page, "Map")
    expect(page).to_have_url(re.compile("tab=map"))
    entries = length(page)

    page.go_back()
    expect(page).not_to_have_url(re.compile("tab="))
    assert tab(page) == "Search"
    page.go_back()
    expect(page).to_have_url(CASTLE)
    wait_until(lambda: captions(page) == l1, lambda: captions(page))
    page.go_back()
    expect(page.locator("#metric input[value=cosine]")).to_be_checked()
    expect(details(page)).to_contain_text("Score: Cosine")
    page.go_back()
    expect(hint(page)).to_contain_text("Choose an image to start")  # the fixture has cleared the query
    for _ in range(3):
        page.go_forward()
        page.wait_for_timeout(50)  # faster than the answers
    expect(page).to_have_url(re.compile("id="))
    expect(details(page)).to_contain_text("decode 0.0 ms")
    expect(page.locator("#metric input[value=l1]")).to_be_checked()
    page.go_forward()
    expect(page).to_have_url(re.compile("tab=map"))
    assert tab(page) == "Map"
    assert length(page) == entries


def test_sliders_make_no_entries_in_the_history(page: Page) -> None:
    choose_castle(page)
    open_advanced(page)
    open_tab(page, "Robustness")
    entries = length(page)
    for degrees in range(25, 70, 5):
        rotate(page, degrees)
    slider = page.locator("#distort_blur input[type=range]")
    slider.focus()
    for _ in range(10):
        page.keyboard.press("ArrowRight")
    expect(page).to_have_url(re.compile(r"blur=\d"))
    for amount in ("0.9", "0.8", "0.7"):
        page.locator("#alike input[type=number]").fill(amount)
        page.locator("#alike input[type=number]").blur()
        expect(page).to_have_url(re.compile(f"alike={amount}"))
    assert length(page) == entries
    page.locator("#reset").click()
    expect(page).to_have_url(re.compile("rotation=0(&|$)"))  # unlike what the tab shows first


def test_reload_keeps_tab_example_distortion_and_cut_off(page: Page) -> None:
    choose_castle(page)
    open_advanced(page)
    page.locator("#cutoff input[type=number]").fill("90")
    page.locator("#cutoff input[type=number]").blur()
    expect(page).to_have_url(re.compile("cutoff=90"))
    page.reload()
    expect(hits(page).first).to_contain_text("1. castle")
    open_advanced(page)
    expect(page.locator("#cutoff input[type=number]")).to_have_value("90")
    open_tab(page, "Robustness")
    rotate(page, 25)
    entries = length(page)
    page.reload()
    expect(page.locator("#distort_rotation input[type=number]")).to_have_value("25")
    expect(page.locator("#withstood_clip")).to_contain_text("results kept")
    expect(page.locator("#distorted img")).to_have_attribute("alt", re.compile("rotated by 25"))
    assert tab(page) == "Robustness"
    assert length(page) == entries
    expect(page.locator("[data-testid=toast-body]")).to_have_count(0)


def test_uploads_are_restored_in_the_same_browser_only(page: Page, browser: Browser, queries: Path) -> None:
    upload(page, queries / "fox.png")
    expect(hits(page).first).to_contain_text("1. fox")
    upload(page, queries / "pizza.png")
    expect(hits(page).first).to_contain_text("1. pizza")
    page.go_back()
    expect(hits(page).first).to_contain_text("1. fox")
    page.reload()
    expect(hits(page).first).to_contain_text("1. fox")
    expect(page.locator("#link [role=status]")).to_contain_text("does not include your uploaded image")
    assert "fox" not in page.url
    context = browser.new_context()
    other = context.new_page()
    other.set_default_timeout(PATIENCE)
    other.goto(page.url)
    wait_until_loaded(other)
    expect(hits(other).first).not_to_contain_text("1. fox")
    context.close()


@pytest.mark.parametrize(
    "path",
    [
        "/etc/hostname",
        {"path": "/"},
        *(
            pytest.param(each, marks=pytest.mark.endurance)
            for each in ("../../etc/hostname", "x" * 5000, "\0", 7, ["a"])
        ),
    ],
)
def test_history_cannot_name_files_that_were_not_uploaded(page: Page, path: object) -> None:
    page.evaluate("path => history.replaceState({ upload: path }, '', location.href)", path)
    page.reload()
    expect(page.locator("[data-testid=toast-body]")).to_contain_text("is no longer on the server")  # it disappears
    expect(hits(page)).to_have_count(8)


def test_shared_link_opens_a_tab(page: Page, address: str) -> None:
    page.goto(f"{address}?example=castle&tab=robustness&rotation=15&crop=30")
    expect(page.locator("#distorted img")).to_have_attribute("alt", re.compile("rotated by 15"))
    assert tab(page) == "Robustness"
    expect(page.locator("#distort_crop input[type=number]")).to_have_value("30")
    open_tab(page, "Search")
    expect(hits(page).first).to_contain_text("1. castle")
    expect(page).not_to_have_url(re.compile("rotation="))
    open_tab(page, "Robustness")
    expect(page).to_have_url(re.compile("rotation=15"))


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("tab=nothing", "There is no tab 'nothing' here."),
        pytest.param("tab=__proto__", "There is no tab '__proto__' here.", marks=pytest.mark.endurance),
        pytest.param("tab=<b>x</b>", "There is no tab '<b>x</b>' here.", marks=pytest.mark.endurance),
        ("tab=robustness&rotation=1e999", "rotation must be a number from"),
        pytest.param("tab=robustness&crop=nan&blur=x", "crop must be a number from", marks=pytest.mark.endurance),
        ("cutoff=-5", "cutoff must be a number from 0 to 99.5, not '-5'."),
        pytest.param("example=" + "e" * 20_000, "", marks=pytest.mark.endurance),
        pytest.param("lesson=copies", "There is no tab 'lessons' here.", marks=pytest.mark.endurance),
        ("region=0,0,1,1&example=castle&tab=search&tab=map", ""),
    ],
)
def test_hostile_addresses_leave_the_page_usable(page: Page, address: str, query: str, said: str) -> None:
    page.goto(f"{address}?{query}")
    toast = page.locator("[data-testid=toast-body]")
    if said:
        expect(toast).to_contain_text(said)  # it disappears
    else:
        wait_until_loaded(page)
        expect(toast).to_have_count(0)
    open_tab(page, "Search")
    choose_castle(page)
    page.go_back()
    expect(page).not_to_have_url(CASTLE)


def test_very_long_text_in_an_address_is_reported(page: Page, address: str) -> None:
    page.goto(f"{address}?text={'a' * 20_000}")
    expect(hint(page)).to_contain_text("Shorten it to 500 or fewer.")
    page.locator("#text textarea").fill("")
    choose_castle(page)
