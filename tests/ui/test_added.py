"""Images added to the query on the page: more and less like this, uploads, signs, links."""

import re
from pathlib import Path
from typing import Any

import gradio as gr
import pytest
from playwright.sync_api import Locator, Page, expect

from retrieval.search.searcher import Searcher
from retrieval.ui.widgets.added_input import AddedImage, AddedImages, AddedInput
from retrieval.ui.widgets.thumbnails import Thumbnails
from tests.support.browsing import captions, hits, open_tab, toggle, upload, wait_until_settled


def chips(page: Page) -> Locator:
    return page.locator("#added li")


def judge(page: Page, number: int, sign: str, features: str = "clip") -> str:
    """Add a result to the query by the keyboard, and wait for the chip; return the name of the result."""
    result, before = hits(page, features).nth(number), chips(page).count()
    name = str(result.locator("img").get_attribute("alt"))
    result.focus()
    page.keyboard.press(sign)
    expect(chips(page)).to_have_count(before + 1)
    expect(hits(page, features).locator(f"img[alt='{name}']")).to_have_count(0)
    return name


@pytest.mark.browser
def test_results_are_added_with_a_sign_that_can_be_turned_around(page: Page, queries: Path) -> None:
    upload(page, queries / "fox.png")
    expect(hits(page).first).to_contain_text("1. fox")
    alone = captions(page)
    liked, disliked = judge(page, 1, "+"), judge(page, 0, "-")
    expect(chips(page).nth(0).locator(".sign")).to_have_text(f"+ {liked}")
    expect(chips(page).nth(0).locator("img")).to_have_attribute("alt", liked)
    expect(chips(page).nth(1).locator(".sign")).to_have_text(f"\N{MINUS SIGN} {disliked}")
    both = captions(page)
    chips(page).nth(1).get_by_role("button", name="Find images like it instead").click()
    expect(chips(page).nth(1).locator(".sign")).to_have_text(f"+ {disliked}")
    expect(hits(page).first).not_to_contain_text(both[0])
    chips(page).nth(1).get_by_role("button", name=f"Remove {disliked}").click()
    expect(chips(page)).to_have_count(1)
    expect(chips(page).get_by_role("button", name=f"Remove {liked}")).to_be_focused()
    page.keyboard.press("Enter")
    expect(chips(page)).to_have_count(0)
    expect(hits(page).first).to_contain_text("1. fox")
    assert captions(page) == alone


@pytest.mark.browser
def test_buttons_on_a_result_do_the_same(page: Page, queries: Path) -> None:
    upload(page, queries / "fox.png")
    expect(hits(page).first).to_contain_text("1. fox")
    card = page.locator(".lane[data-features=pixels] .card").nth(3)
    name = card.locator("img").get_attribute("alt")
    card.hover()
    card.get_by_role("button", name=f"Less like this: {name}").click()
    expect(chips(page).locator(".sign")).to_have_text(f"\N{MINUS SIGN} {name}")
    expect(hits(page, "pixels").locator(f"img[alt='{name}']")).to_have_count(0)


@pytest.mark.browser
def test_link_keeps_added_items_and_says_that_uploads_are_missing(page: Page) -> None:
    page.locator("#surprise").click()
    expect(page).to_have_url(re.compile("id="))
    judge(page, 1, "+")
    judge(page, 1, "-", "pixels")
    expect(page).to_have_url(re.compile("more=.*&less="))
    wait_until_settled(page)
    before = captions(page)
    page.goto(page.url)
    expect(chips(page)).to_have_count(2)
    expect(hits(page).first).to_contain_text(before[0].split(" · ")[0])
    assert captions(page) == before
    open_tab(page, "Map")
    expect(page.locator("#map_note")).to_contain_text("Your image without what was added")
    open_tab(page, "Robustness")
    expect(page.locator("#withstood_clip")).to_contain_text("results kept")


@pytest.mark.browser
def test_uploaded_images_are_added_and_removed_with_the_query_image(page: Page, queries: Path) -> None:
    upload(page, queries / "cat.png")
    expect(hits(page).first).to_contain_text("1. cat")
    first = captions(page)
    page.locator("#parts input[type=file]").set_input_files(str(queries / "pizza.png"))
    expect(chips(page).locator(".sign")).to_have_text("+ pizza")
    expect(page.locator("#link")).to_contain_text("The link does not include your uploaded image.")
    page.wait_for_function(
        "first => document.querySelector('#results .lane:last-child .score').textContent !== first",
        arg=first[0].split(" · ")[1],
    )
    upload(page, queries / "lion.png")
    expect(chips(page)).to_have_count(0)
    expect(hits(page).first).to_contain_text("1. lion")


@pytest.mark.browser
def test_added_images_alone_are_a_query(page: Page, queries: Path) -> None:
    page.locator("#parts input[type=file]").set_input_files(str(queries / "pizza.png"))
    expect(hits(page).first).to_contain_text("1. pizza")
    page.locator("#parts input[type=file]").set_input_files(str(queries / "cat.png"))
    expect(chips(page)).to_have_count(2)
    page.get_by_role("button", name="Remove all").click()
    expect(page.locator("#results .lanes-note")).to_contain_text("Choose an image to start")


@pytest.mark.browser
def test_balance_is_shown_with_image_and_words_only(page: Page, queries: Path) -> None:
    balance = page.locator("#balance")
    page.locator("#text textarea").fill("night - snow")
    expect(balance).to_be_hidden()
    upload(page, queries / "fox.png")
    expect(balance).to_be_visible()
    page.locator("#text textarea").press("Enter")
    expect(page.locator(".lane[data-features=pixels]")).to_contain_text("do not support text, so only the images are")
    toggle(page, "metric", "l2")
    page.locator("#query button[aria-label='Remove Image']").click()
    expect(balance).to_be_hidden()
    expect(page.locator(".lane[data-features=pixels]")).to_contain_text("Text search needs CLIP features")


# Values, which come from the browser


@pytest.fixture
def added(icons_searcher: Searcher) -> AddedInput:
    thumbnails = Thumbnails()
    thumbnails.serve(icons_searcher.indexes.get())
    return AddedInput(thumbnails)


def test_value_round_trip(added: AddedInput, icons_searcher: Searcher) -> None:
    index = icons_searcher.indexes.get()
    files = [str(index.thumbnail(position)) for position in (3, 4)]
    value = AddedImages(files[0], (AddedImage(files[1], False, "name"),))
    sent = added.postprocess(value)
    assert str(index.snapshot) not in str(sent)
    assert added.preprocess(sent) == value
    [found] = value.searched(index)
    assert (found.position, found.picture, found.more) == (4, None, False)
    assert value.to(files[1]) == AddedImages(files[1])


@pytest.mark.parametrize(
    "payload",
    [
        5,
        [],
        {"images": "x"},
        {"images": [5]},
        {"images": [{}]},
        {"images": [{"file": 5}]},
        {"images": [{"file": "/etc/passwd", "more": True, "name": "x"}]},
        {"images": [{"file": "../../x.png"}]},
        {"images": [{"file": "a\0b"}]},
    ],
)
def test_values_of_others_are_refused(added: AddedInput, payload: Any) -> None:
    with pytest.raises(gr.Error, match="was not uploaded here"):
        added.preprocess(payload)


def test_number_of_images_is_limited(added: AddedInput) -> None:
    with pytest.raises(gr.Error, match="16 added images, not 10,000"):
        added.preprocess({"images": [None] * 10_000})
