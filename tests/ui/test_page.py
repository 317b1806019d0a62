"""The page in a real browser: actions of a visitor, and what the page then shows."""

import contextlib
import re
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, Route, expect

from retrieval.features import FEATURES
from retrieval.metrics import DEFINITIONS, Metric
from retrieval.search.query import Query
from retrieval.search.searcher import Searcher
from tests.support.browsing import PATIENCE, captions, open_tab, timings, toggle, upload

pytestmark = pytest.mark.browser


def test_page_shows_a_hint_without_a_picture(page: Page) -> None:
    expect(timings(page)).to_contain_text("Choose an image to start")
    page.locator("#search").click()
    expect(timings(page)).to_contain_text("Choose an image to start")
    expect(page.locator("[data-testid=toast-body]")).to_have_count(0)


def test_upload_toggles_captions_and_clicking_a_result(page: Page, queries: Path) -> None:
    upload(page, queries / "pizza.png")
    expect(page.locator("#results .caption-label").first).to_be_visible()
    assert len(captions(page)) == 12
    assert captions(page)[0].startswith("1. pizza · 0.")
    seen = {tuple(captions(page))}
    for features in FEATURES:
        toggle(page, "features", features)
        for metric in Metric:
            toggle(page, "metric", metric)
            for engine, name in (("chroma", "ChromaDB"), ("exact", "Exact scan")):
                toggle(page, "engine", engine)
                expect(timings(page)).to_contain_text(name)
                title = DEFINITIONS[metric].title
                expect(page.locator("#explanation")).to_contain_text(f"Score: {title} =")
                model = "mini" if features == "clip" else "no model"
                expect(timings(page)).to_contain_text(model)
                expect(page.locator("#results .caption-label")).to_have_count(12)
                found = captions(page)
                scores = [float(text.rsplit("· ", 1)[1]) for text in found]
                assert scores == sorted(scores, reverse=not DEFINITIONS[metric].smaller_is_closer)
                seen.add(tuple(found))
    # With CLIP features, cosine and correlation may agree to three decimals.
    assert len(seen) >= 7, "the toggles changed nothing"

    name = re.match(r"2\. (.+) · ", captions(page)[1])[1]
    page.locator("#results .thumbnail-item").nth(1).click()
    expect(page.locator("#results .caption-label").first).to_contain_text(f"1. {name} · 1.000")
    expect(timings(page)).to_contain_text("decode 0.0 ms · features 0.0 ms")


def test_timings_show_every_part(page: Page, queries: Path) -> None:
    upload(page, queries / "fox.png")
    pattern = r"decode [\d.]+ ms · features [\d.]+ ms · search [\d.]+ ms · total [\d.]+ ms · 1,566 images · "
    expect(timings(page)).to_have_text(re.compile(pattern + r"Exact scan · mini \(\w+\)"))


def test_results_do_not_shift_the_layout(page: Page, queries: Path) -> None:
    before = timings(page).bounding_box()
    upload(page, queries / "fox.png")
    expect(page.locator("#results .caption-label")).to_have_count(12)
    assert timings(page).bounding_box()["y"] == before["y"]


def test_clicking_an_example_searches_it(page: Page) -> None:
    page.locator("#examples .thumbnail-item").first.click()
    expect(page.locator("#results .caption-label").first).to_be_visible()


def test_number_of_results(page: Page, queries: Path) -> None:
    upload(page, queries / "lion.png")
    expect(page.locator("#results .caption-label")).to_have_count(12)
    page.locator("#top_k input[type=number]").fill("3")
    page.locator("#top_k input[type=number]").blur()
    expect(page.locator("#results .caption-label")).to_have_count(3)


def test_pasted_picture_is_searched(page: Page, queries: Path) -> None:
    png = (queries / "pizza.png").read_bytes()
    page.evaluate(
        """async bytes => navigator.clipboard.write([new ClipboardItem(
            {'image/png': new Blob([new Uint8Array(bytes)], {type: 'image/png'})})])""",
        list(png),
    )
    page.locator("#query button[aria-label='Paste from clipboard']").click()
    expect(page.locator("#results .caption-label").first).to_contain_text("1. pizza")


def test_webcam_picture_is_searched(page: Page) -> None:
    page.locator("#query button[aria-label='Capture from camera']").click()
    page.locator("#query").get_by_text("Click to Access Webcam").click()
    page.wait_for_function("document.querySelector('#query video')?.readyState >= 3")
    page.locator("#query button[aria-label='capture photo']").click()
    expect(page.locator("#results .caption-label").first).to_be_visible()


def test_text_search_with_and_without_a_picture(page: Page, queries: Path) -> None:
    page.locator("#text input, #text textarea").fill("something to drink")
    page.keyboard.press("Enter")
    expect(page.locator("#results .caption-label").first).to_be_visible()
    drinks = captions(page)
    assert any("mate" in each or "beer" in each or "cup" in each for each in drinks[:3]), drinks
    upload(page, queries / "pizza.png")
    expect(page.locator("#results .caption-label").first).not_to_have_text(drinks[0])
    assert captions(page) != drinks


def test_text_field_is_disabled_for_raw_pixels_with_a_reason(page: Page, queries: Path) -> None:
    toggle(page, "features", "pixels")
    expect(page.locator("#text input, #text textarea")).to_be_disabled()
    expect(page.locator("#text")).to_contain_text("Text search needs CLIP features")
    toggle(page, "features", "clip")
    expect(page.locator("#text input, #text textarea")).to_be_enabled()


def test_recent_queries_can_be_reopened(page: Page) -> None:
    for example in (0, 1):
        page.locator("#examples .thumbnail-item").nth(example).click()
        expect(page.locator("#results .caption-label").first).to_be_visible()
    expect(page.locator("#trail .thumbnail-item")).to_have_count(2)
    second = captions(page)
    page.locator("#trail .thumbnail-item").first.click()
    expect(page.locator("#results .caption-label").first).not_to_have_text(second[0])


def test_chroma_shows_its_recall_for_this_query(page: Page, queries: Path) -> None:
    upload(page, queries / "guitar.png")
    expect(page.locator("#results .caption-label")).to_have_count(12)
    toggle(page, "engine", "chroma")
    expect(timings(page)).to_contain_text(re.compile(r"recall@12 [01]\.\d\d \(exact scan: [\d.]+ ms\)"))


def test_filter_by_class(page: Page, queries: Path) -> None:
    upload(page, queries / "fox.png")
    expect(page.locator("#results .caption-label").first).to_contain_text("fox")
    page.locator("#more button").first.click()
    page.locator("#labels input").click()
    page.get_by_role("option", name="food-prepared").click()
    expect(page.locator("#results .caption-label").first).not_to_contain_text("fox")


def test_scores_no_better_than_chance_are_explained(page: Page, tmp_path: Path) -> None:
    noise = tmp_path / "noise.png"
    Image.effect_noise((200, 200), 200).save(noise)
    upload(page, noise)
    expect(page.locator("#explanation")).to_contain_text("No convincing match:")


def draw_box(page: Page, left: float, top: float, right: float, bottom: float) -> None:
    """Draw a box on the query picture with the mouse; the coordinates are fractions of the picture."""
    area = page.locator(".region-layer").bounding_box()
    page.mouse.move(area["x"] + left * area["width"], area["y"] + top * area["height"])
    page.mouse.down()
    page.mouse.move(area["x"] + right * area["width"], area["y"] + bottom * area["height"], steps=5)
    page.mouse.up()


def test_drawn_box_is_searched(page: Page, page_searcher: Searcher, queries: Path) -> None:
    upload(page, queries / "castle.png")
    expect(page.locator("#results .caption-label").first).to_contain_text("castle")
    whole = captions(page)
    draw_box(page, 0.1, 0.5, 0.6, 0.9)
    expect(page.locator("#region")).to_contain_text("Searched: 10 % to 60 % across, 50 % to 90 % down.")
    expect(page.locator("#results .caption-label").first).not_to_have_text(whole[0])
    query = Query(queries / "castle.png", region=(0.1, 0.5, 0.6, 0.9), top_k=12)
    hits = page_searcher.search(query).hits
    assert [caption.rsplit(" · ", 1)[0] for caption in captions(page)] == [f"{hit.rank}. {hit.caption}" for hit in hits]
    page.get_by_role("button", name="Search the whole image").click()
    expect(page.locator("#results .caption-label").first).to_have_text(whole[0])
    assert captions(page) == whole


def test_box_works_when_the_picture_component_loads_late(browser: Browser, address: str, queries: Path) -> None:
    page = browser.new_page()
    page.set_default_timeout(PATIENCE)
    late: list[str] = []

    def delayed(route: Route) -> None:
        late.append(route.request.url)
        page.wait_for_timeout(1000)
        route.continue_()

    page.route(re.compile(r"/ImagePreview-.*\.js"), delayed)
    page.goto(address)
    upload(page, queries / "castle.png")
    expect(page.locator(".region-layer")).to_be_visible()
    assert late
    page.close()


def test_box_can_be_edited_by_keyboard_and_belongs_to_its_picture(
    page: Page, page_searcher: Searcher, queries: Path
) -> None:
    upload(page, queries / "castle.png")
    expect(page.locator("#results .caption-label").first).to_be_visible()
    page.get_by_role("button", name="Search part of the image").press("Enter")
    expect(page.locator(".region-box")).to_be_focused()
    for key in ("ArrowLeft", "ArrowDown", "Shift+ArrowRight", "Shift+ArrowUp"):
        page.keyboard.press(key)
    status = page.locator("#region [role=status]")
    expect(status).to_have_text("Searched: 15 % to 80 % across, 25 % to 80 % down.")
    # The search starts after a pause in the key presses.
    query = Query(queries / "castle.png", region=(0.15, 0.25, 0.8, 0.8), top_k=12)
    found = [re.compile(rf"^{hit.rank}\. {re.escape(hit.caption)} · ") for hit in page_searcher.search(query).hits]
    expect(page.locator("#results .caption-label")).to_have_text(found)
    for _ in range(40):
        page.keyboard.press("ArrowRight")
    expect(status).to_have_text("Searched: 35 % to 100 % across, 25 % to 80 % down.")
    upload(page, queries / "fox.png")  # a new picture is searched as a whole
    expect(page.locator("#results .caption-label").first).to_contain_text("1. fox")
    expect(status).to_have_text("")
    page.get_by_role("button", name="Search part of the image").click()
    page.keyboard.press("Escape")
    expect(status).to_have_text("")
    expect(page.get_by_role("button", name="Search part of the image")).to_be_focused()


def test_near_duplicates_are_hidden_and_counted(page: Page, queries: Path) -> None:
    upload(page, queries / "fox.png")
    expect(page.locator("#results .caption-label")).to_have_count(12)
    assert not any("near-duplicate" in each for each in captions(page))
    page.locator("#more button").first.click()
    page.locator("#alike input[type=number]").fill("0.6")
    page.locator("#alike input[type=number]").blur()
    expect(page.locator("#results", has_text="near-duplicate")).to_be_visible()
    expect(page.locator("#results .caption-label")).to_have_count(12)
    assert any(re.search(r" · \+\d+ near-duplicates?$", each) for each in captions(page))


def test_link_opens_the_same_search_for_another_visitor(page: Page, browser: Browser, queries: Path) -> None:
    upload(page, queries / "pizza.png")
    expect(page.locator("#link")).to_contain_text("The link does not include your uploaded image.")
    assert "id=" not in page.url
    page.locator("#results .thumbnail-item").nth(1).click()
    expect(timings(page)).to_contain_text("decode 0.0 ms")
    expect(page.locator("#link [role=status]")).to_have_text("")
    page.get_by_role("button", name="Search part of the image").click()
    toggle(page, "metric", "l1")
    page.locator("#text input, #text textarea").fill("red & round")
    page.keyboard.press("Enter")
    expect(page.locator("#explanation")).to_contain_text("Score: L1 =")
    expect(page).to_have_url(re.compile("text=red"))
    found = captions(page)
    page.get_by_role("button", name="Copy").click()
    expect(page.locator("#link [role=status]")).to_have_text("Copied.")
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied == page.url
    context = browser.new_context()
    other = context.new_page()
    other.set_default_timeout(PATIENCE)
    other.goto(copied)
    expect(other.locator("#results .caption-label").first).to_have_text(found[0])
    assert captions(other) == found
    expect(other.locator("#text input, #text textarea")).to_have_value("red & round")
    expect(other.locator("#metric input[value=l1]")).to_be_checked()
    expect(other.locator("#region [role=status]")).to_have_text("Searched: 20 % to 80 % across, 20 % to 80 % down.")
    assert other.url == copied
    context.close()


def test_invalid_parts_of_a_link_are_reported_and_the_rest_is_used(page: Page, address: str) -> None:
    page.goto(f"{address}?text=red+fruit&k=5&metric=<b>magic</b>&id=nothing")
    expect(page.locator("#results .caption-label")).to_have_count(5)
    toast = page.locator("[data-testid=toast-body]")
    expect(toast).to_contain_text("has no image 'nothing'")
    expect(toast).to_contain_text("'<b>magic</b>'")
    expect(page.locator("#metric input[value=cosine]")).to_be_checked()


def test_page_stays_usable_after_a_link_with_extreme_values(page: Page, address: str, queries: Path) -> None:
    page.goto(f"{address}?text=cat&alike=0.3&k=9999&balance=0")
    expect(page.locator("#results .caption-label")).to_have_count(60)
    expect(page.locator("[data-testid=toast-body]")).to_have_count(0)
    upload(page, queries / "pizza.png")
    expect(page.locator("#results .caption-label").first).to_contain_text("pizza")


def test_removing_the_picture_shows_the_hint_again(page: Page, queries: Path) -> None:
    upload(page, queries / "fox.png")
    expect(page.locator("#results .caption-label").first).to_be_visible()
    page.locator("#query button[aria-label='Remove Image']").click()
    expect(timings(page)).to_contain_text("Choose an image to start")
    expect(page.locator("#results .caption-label")).to_have_count(0)


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("fake.png", b"this is no picture", "not an image"),
        ("empty.png", b"", "empty"),
        ("cut.png", None, "damaged or cut off"),
    ],
)
def test_bad_upload_is_reported_and_the_page_keeps_working(
    page: Page, queries: Path, tmp_path: Path, name: str, data: bytes | None, words: str
) -> None:
    whole = (queries / "fox.png").read_bytes()
    bad = tmp_path / name
    bad.write_bytes(whole[: len(whole) // 2] if data is None else data)
    upload(page, bad)
    expect(page.locator("[data-testid=toast-body]").first).to_contain_text(words)
    page.locator("#query button[aria-label='Remove Image']").click()
    upload(page, queries / "fox.png")
    expect(page.locator("#results .caption-label").first).to_be_visible()


def test_all_pictures_load_and_have_alt_text(page: Page, queries: Path) -> None:
    upload(page, queries / "turtle.png")
    expect(page.locator("#results .caption-label").first).to_be_visible()
    for picture in page.locator("img").all():
        assert picture.get_attribute("alt"), picture.evaluate("image => image.outerHTML")
    first = page.locator("#results img").first
    assert first.evaluate("image => image.decode().then(() => image.naturalWidth)") > 100


def test_dark_theme_on_a_phone(browser: Browser, address: str, queries: Path) -> None:
    context = browser.new_context(viewport={"width": 390, "height": 844}, color_scheme="dark")
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    page.goto(f"{address}?__theme=dark")
    upload(page, queries / "castle.png")
    expect(page.locator("#results .caption-label").first).to_be_visible(timeout=PATIENCE)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    open_tab(page, "Compare")
    expect(page.locator(".hits .caption-label").first).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert sum(int(part) for part in re.findall(r"\d+", background)[:3]) < 150, background
    context.close()


def test_examples_metrics_and_results_work_by_keyboard(page: Page) -> None:
    page.locator("#examples .thumbnail-item").nth(3).focus()
    page.keyboard.press("Enter")
    expect(page.locator("#results .caption-label").first).to_be_visible()
    page.locator("#metric input[value=cosine]").focus()
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    expect(page.locator("#explanation")).to_contain_text("Score: Correlation")
    page.locator("#results .thumbnail-item").nth(2).focus()
    page.keyboard.press("Enter")
    expect(timings(page)).to_contain_text("decode 0.0 ms")


def test_results_of_two_visitors_do_not_mix(browser: Browser, address: str, queries: Path) -> None:
    with contextlib.ExitStack() as stack:
        visitors = []
        for name in ("fox", "pizza"):
            context = browser.new_context()
            stack.callback(context.close)
            page = context.new_page()
            page.set_default_timeout(PATIENCE)
            page.goto(address)
            upload(page, queries / f"{name}.png")
            visitors.append((name, page))
        for name, page in visitors:
            expect(page.locator("#results .caption-label").first).to_contain_text(f"1. {name}")
