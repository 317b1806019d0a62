"""The page in a real browser: actions of a visitor, and what the page then shows."""

import ast
import contextlib
import json
import re
import shlex
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, Route, expect

from retrieval.cli import main
from retrieval.features import DEFAULT_SET
from retrieval.metrics import DEFINITIONS, Metric
from retrieval.search.query import Query
from retrieval.search.searcher import Searcher
from tests.support.browsing import (
    PATIENCE,
    captions,
    choose_features,
    details,
    hint,
    hits,
    lane,
    open_advanced,
    open_tab,
    search_with,
    toggle,
    upload,
    wait_until_loaded,
    wait_until_settled,
)
from tests.support.paths import ROOT

pytestmark = pytest.mark.browser


def test_page_opens_with_a_result_in_both_lanes(page: Page, address: str) -> None:
    page.goto(address)
    for features in ("pixels", "clip"):
        expect(hits(page, features)).to_have_count(8)
        expect(lane(page, features).locator(".count")).to_have_text(re.compile(r"\d of 8 correct"))
        marks = lane(page, features).locator(".mark").all_inner_texts()
        assert lane(page, features).locator(".count b").inner_text() == str(marks.count("✓"))
        assert marks.count("✓") + marks.count("✗") == 8


def test_first_result_is_above_the_fold(page: Page, address: str) -> None:
    page.set_viewport_size({"width": 1366, "height": 768})
    page.goto(address)
    wait_until_loaded(page)
    for part in ("#results .count", "#results .hit .score", "#results figure", "#results .lanes-legend"):
        for each in page.locator(part).all():
            expect(each).to_be_in_viewport(ratio=1)


def test_page_shows_a_hint_without_a_picture(page: Page) -> None:
    expect(hint(page)).to_contain_text("Choose an image to start")
    page.locator("#search").click()
    expect(hint(page)).to_contain_text("Choose an image to start")
    expect(page.locator("[data-testid=toast-body]")).to_have_count(0)


def test_upload_toggles_captions_and_clicking_a_result(page: Page, queries: Path) -> None:
    upload(page, queries / "pizza.png")
    expect(hits(page).first).to_be_visible()
    assert len(captions(page)) == 8
    assert captions(page)[0].startswith("1. pizza · 0.")
    seen = {tuple(captions(page))}
    for features in DEFAULT_SET:
        choose_features(page, features)
        for metric in Metric:
            toggle(page, "metric", metric)
            for engine, name in (("chroma", "ChromaDB"), ("exact", "Exact scan")):
                toggle(page, "engine", engine)
                title = DEFINITIONS[metric].title
                model = "mini" if features == "clip" else "no model"
                for part in (name, f"Score: {title} =", model):
                    expect(details(page, features)).to_contain_text(part)
                expect(page.locator("#results .hit")).to_have_count(8)
                found = captions(page, features)
                scores = [float(text.rsplit("· ", 1)[1]) for text in found]
                assert scores == sorted(scores, reverse=not DEFINITIONS[metric].smaller_is_closer)
                seen.add(tuple(found))
    # With CLIP features, cosine and correlation may agree to three decimals.
    assert len(seen) >= 7, "the toggles changed nothing"

    toggle(page, "metric", "cosine")
    expect(details(page)).to_contain_text("Score: Cosine =")
    search_with(page, hits(page).nth(1))
    expect(details(page)).to_contain_text("decode 0.0 ms · features 0.0 ms")
    expect(hits(page)).to_have_count(8)
    assert max(float(caption.rsplit("· ", 1)[1]) for caption in captions(page)) < 1, "the query is its own result"


def test_timings_show_every_part(page: Page, queries: Path) -> None:
    upload(page, queries / "fox.png")
    pattern = r"decode [\d.]+ ms · features [\d.]+ ms · search [\d.]+ ms · total [\d.]+ ms · 1,566 images · "
    expect(details(page)).to_contain_text(re.compile(pattern + r"Exact scan · mini \(\w+\)"))


def test_results_do_not_shift_the_layout(page: Page, address: str, queries: Path) -> None:
    page.goto(address)
    wait_until_loaded(page)
    before = details(page).bounding_box()
    upload(page, queries / "fox.png")
    expect(hits(page).first).to_contain_text("1. fox")
    # Only the line with the number of correct results is gone, which stands beside the title.
    assert abs(details(page).bounding_box()["y"] - before["y"]) < 30


def test_clicking_an_example_searches_it(page: Page) -> None:
    page.locator("#examples .thumbnail-item").nth(2).click()
    expect(hits(page).first).to_contain_text("1. castle")
    expect(lane(page).locator(".count")).to_be_visible()


def test_surprise_me_searches_an_image_of_the_gallery(page: Page) -> None:
    page.locator("#surprise").click()
    expect(page).to_have_url(re.compile("id="))
    expect(hits(page)).to_have_count(8)


def test_number_of_results(page: Page, queries: Path) -> None:
    upload(page, queries / "lion.png")
    expect(hits(page)).to_have_count(8)
    open_advanced(page)
    page.locator("#top_k input[type=number]").fill("3")
    page.locator("#top_k input[type=number]").blur()
    expect(hits(page)).to_have_count(3)


def test_pasted_picture_is_searched(page: Page, queries: Path) -> None:
    png = (queries / "pizza.png").read_bytes()
    page.evaluate(
        """async bytes => navigator.clipboard.write([new ClipboardItem(
            {'image/png': new Blob([new Uint8Array(bytes)], {type: 'image/png'})})])""",
        list(png),
    )
    page.locator("#query button[aria-label='Paste from clipboard']").click()
    expect(hits(page).first).to_contain_text("1. pizza")


def test_webcam_picture_is_searched(page: Page) -> None:
    page.locator("#query button[aria-label='Capture from camera']").click()
    page.locator("#query").get_by_text("Click to Access Webcam").click()
    page.wait_for_function("document.querySelector('#query video')?.readyState >= 3")
    page.locator("#query button[aria-label='capture photo']").click()
    expect(hits(page).first).to_be_visible()


def test_text_search_with_and_without_a_picture(page: Page, queries: Path) -> None:
    page.locator("#text input, #text textarea").fill("something to drink")
    page.keyboard.press("Enter")
    expect(hits(page).first).to_be_visible()
    expect(lane(page, "pixels")).to_contain_text("Text search needs CLIP features")
    drinks = captions(page)
    assert any("mate" in each or "beer" in each or "cup" in each for each in drinks[:3]), drinks
    upload(page, queries / "pizza.png")
    expect(hits(page).first.locator(".name")).not_to_have_text(drinks[0].rsplit(" · ", 1)[0])
    assert captions(page) != drinks


def test_text_field_is_disabled_for_raw_pixels_with_a_reason(page: Page, queries: Path) -> None:
    choose_features(page, "pixels")
    expect(page.locator("#text input, #text textarea")).to_be_disabled()
    expect(page.locator("#text")).to_contain_text("Text search needs CLIP features")
    choose_features(page, "clip")
    expect(page.locator("#text input, #text textarea")).to_be_enabled()


def test_recent_queries_can_be_reopened(page: Page) -> None:
    for example, name in ((0, "pizza"), (2, "castle")):
        page.locator("#examples .thumbnail-item").nth(example).click()
        expect(hits(page).first).to_contain_text(f"1. {name}")
    expect(page.locator("#trail .thumbnail-item")).to_have_count(2)
    page.locator("#trail .thumbnail-item").first.click()
    expect(hits(page).first).to_contain_text("1. pizza")


def test_chroma_shows_its_recall_for_this_query(page: Page, queries: Path) -> None:
    upload(page, queries / "guitar.png")
    expect(hits(page)).to_have_count(8)
    toggle(page, "engine", "chroma")
    expect(details(page)).to_contain_text(re.compile(r"recall@8 [01]\.\d\d \(exact scan: [\d.]+ ms\)"))


def test_filter_by_class(page: Page, queries: Path) -> None:
    upload(page, queries / "fox.png")
    expect(hits(page).first).to_contain_text("fox")
    open_advanced(page)
    page.locator("#labels input").click()
    page.get_by_role("option", name="food-prepared").click()
    expect(hits(page).first).not_to_contain_text("fox")


def test_scores_no_better_than_chance_are_explained(page: Page) -> None:
    upload(page, ROOT / "assets" / "photos" / "queries" / "gorilla.jpg")  # a photo among icons
    expect(lane(page).locator(".verdict")).to_contain_text("No convincing match:")


def draw_box(page: Page, left: float, top: float, right: float, bottom: float) -> None:
    """Draw a box on the query picture with the mouse; the coordinates are fractions of the picture."""
    wait_until_settled(page)  # the image may still change its place
    area = page.locator(".region-layer").bounding_box()
    page.mouse.move(area["x"] + left * area["width"], area["y"] + top * area["height"])
    page.mouse.down()
    page.mouse.move(area["x"] + right * area["width"], area["y"] + bottom * area["height"], steps=5)
    page.mouse.up()


def test_drawn_box_is_searched(page: Page, page_searcher: Searcher, queries: Path) -> None:
    upload(page, queries / "castle.png")
    expect(hits(page).first).to_contain_text("castle")
    whole = captions(page)
    draw_box(page, 0.1, 0.5, 0.6, 0.9)
    expect(page.locator("#region")).to_contain_text("Searched: 10 % to 60 % across, 50 % to 90 % down.")
    expect(hits(page).first.locator(".score")).not_to_have_text(whole[0].rsplit(" · ", 1)[1])
    query = Query(queries / "castle.png", region=(0.1, 0.5, 0.6, 0.9), top_k=8)
    found = page_searcher.search(query).hits
    assert [caption.rsplit(" · ", 1)[0] for caption in captions(page)] == [
        f"{hit.rank}. {hit.caption}" for hit in found
    ]
    page.get_by_role("button", name="Search the whole image").click()
    expect(hits(page).first.locator(".score")).to_have_text(whole[0].rsplit(" · ", 1)[1])
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
    expect(hits(page).first).to_contain_text("1. castle")
    page.get_by_role("button", name="Search part of the image").press("Enter")
    expect(page.locator(".region-box")).to_be_focused()
    for key in ("ArrowLeft", "ArrowDown", "Shift+ArrowRight", "Shift+ArrowUp"):
        page.keyboard.press(key)
    status = page.locator("#region [role=status]")
    expect(status).to_have_text("Searched: 15 % to 80 % across, 25 % to 80 % down.")
    # The search starts after a pause in the key presses.
    query = Query(queries / "castle.png", region=(0.15, 0.25, 0.8, 0.8), top_k=8)
    found = [f"{hit.rank}. {hit.caption}" for hit in page_searcher.search(query).hits]
    expect(hits(page).locator(".name")).to_have_text(found)
    for _ in range(40):
        page.keyboard.press("ArrowRight")
    expect(status).to_have_text("Searched: 35 % to 100 % across, 25 % to 80 % down.")
    upload(page, queries / "fox.png")  # a new picture is searched as a whole
    expect(hits(page).first).to_contain_text("1. fox")
    expect(status).to_have_text("")
    page.get_by_role("button", name="Search part of the image").click()
    page.keyboard.press("Escape")
    expect(status).to_have_text("")
    expect(page.get_by_role("button", name="Search part of the image")).to_be_focused()


def test_near_duplicates_are_hidden_and_counted(page: Page, queries: Path) -> None:
    upload(page, queries / "fox.png")
    expect(hits(page)).to_have_count(8)
    expect(hits(page).locator(".note", has_text="near-duplicate")).to_have_count(0)
    open_advanced(page)
    page.locator("#alike input[type=number]").fill("0.6")
    page.locator("#alike input[type=number]").blur()
    expect(hits(page).locator(".note", has_text=re.compile(r"^\+\d+ near-duplicates?$")).first).to_be_visible()
    expect(hits(page)).to_have_count(8)


def test_link_opens_the_same_search_for_another_visitor(page: Page, browser: Browser, queries: Path) -> None:
    upload(page, queries / "pizza.png")
    expect(page.locator("#link")).to_contain_text("The link does not include your uploaded image.")
    assert "id=" not in page.url
    search_with(page, hits(page).nth(1))
    expect(details(page)).to_contain_text("decode 0.0 ms")
    expect(page.locator("#link [role=status]")).to_have_text("")
    page.get_by_role("button", name="Search part of the image").click()
    toggle(page, "metric", "l1")
    page.locator("#text input, #text textarea").fill("red & round")
    page.keyboard.press("Enter")
    expect(details(page)).to_contain_text("Score: L1 =")
    expect(page).to_have_url(re.compile("text=red"))
    found = captions(page)
    page.get_by_role("button", name="Copy link").click()
    expect(page.locator("#link [role=status]")).to_have_text("Copied.")
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied == page.url
    context = browser.new_context()
    other = context.new_page()
    other.set_default_timeout(PATIENCE)
    other.goto(copied)
    expect(hits(other).first).to_contain_text(found[0].split(" · ")[0])
    assert captions(other) == found
    expect(other.locator("#text input, #text textarea")).to_have_value("red & round")
    expect(other).to_have_url(copied)
    expect(other.locator("#metric input[value=l1]")).to_be_checked()
    expect(other.locator("#region [role=status]")).to_have_text("Searched: 20 % to 80 % across, 20 % to 80 % down.")
    assert other.url == copied
    context.close()


def test_reloading_keeps_an_example(page: Page) -> None:
    page.locator("#examples .thumbnail-item").nth(2).click()
    expect(hits(page).first).to_contain_text("1. castle")
    expect(page).to_have_url(re.compile("example=castle"))
    expect(page.locator("#link [role=status]")).to_have_text("")
    page.reload()
    expect(hits(page).first).to_contain_text("1. castle")


def test_invalid_parts_of_a_link_are_reported_and_the_rest_is_used(page: Page, address: str) -> None:
    page.goto(f"{address}?text=red+fruit&k=5&metric=<b>magic</b>&id=nothing")
    expect(hits(page)).to_have_count(5)
    toast = page.locator("[data-testid=toast-body]")
    expect(toast).to_contain_text("has no image 'nothing'")
    expect(toast).to_contain_text("'<b>magic</b>'")
    expect(page.locator("#metric input[value=cosine]")).to_be_checked()


def test_page_stays_usable_after_a_link_with_extreme_values(page: Page, address: str, queries: Path) -> None:
    page.goto(f"{address}?text=cat&alike=0.3&k=9999&balance=0")
    expect(hits(page)).to_have_count(60)
    expect(page.locator("[data-testid=toast-body]")).to_have_count(0)
    upload(page, queries / "pizza.png")
    expect(hits(page).first).to_contain_text("pizza")


def test_removing_the_picture_shows_the_hint_again(page: Page, queries: Path) -> None:
    upload(page, queries / "fox.png")
    expect(hits(page).first).to_be_visible()
    page.locator("#query button[aria-label='Remove Image']").click()
    expect(hint(page)).to_contain_text("Choose an image to start")
    expect(hits(page)).to_have_count(0)


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        pytest.param("fake.png", b"this is no picture", "not an image", marks=pytest.mark.endurance),
        pytest.param("empty.png", b"", "empty", marks=pytest.mark.endurance),
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
    expect(hint(page)).to_contain_text(words)
    expect(page.locator("[data-testid=toast-body]")).to_have_count(0)  # the message is shown once
    if data is not None:  # a browser shows the part of an image that is there
        expect(page.locator("#query img")).to_be_hidden()
    page.locator("#query button[aria-label='Remove Image']").click()
    upload(page, queries / "fox.png")
    expect(hits(page).first).to_be_visible()


def test_all_pictures_load_and_have_alt_text(page: Page, queries: Path) -> None:
    upload(page, queries / "turtle.png")
    expect(hits(page).first).to_be_visible()
    for picture in page.locator("img").all():
        assert picture.get_attribute("alt"), picture.evaluate("image => image.outerHTML")
    first = hits(page).locator("img").first
    assert first.evaluate("image => image.decode().then(() => image.naturalWidth)") > 100


def test_dark_theme_on_a_phone(browser: Browser, address: str, queries: Path) -> None:
    context = browser.new_context(viewport={"width": 390, "height": 844}, color_scheme="dark")
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    page.goto(f"{address}?__theme=dark")
    upload(page, queries / "castle.png")
    expect(hits(page).first).to_be_visible(timeout=PATIENCE)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    open_tab(page, "Compare")
    expect(page.locator(".hits .caption-label").first).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    expect(page.locator("footer .divider:visible")).to_have_count(0)
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert sum(int(part) for part in re.findall(r"\d+", background)[:3]) < 150, background
    context.close()


def test_examples_metrics_and_results_work_by_keyboard(page: Page) -> None:
    page.locator("#examples .thumbnail-item").nth(2).focus()
    page.keyboard.press("Enter")
    expect(hits(page).first).to_contain_text("1. castle")
    page.locator("#metric input[value=cosine]").focus()
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    expect(details(page)).to_contain_text("Score: Correlation")
    hits(page).nth(2).focus()
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Search with this").press("Enter")
    expect(details(page)).to_contain_text("decode 0.0 ms")


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
            expect(hits(page).first).to_contain_text(f"1. {name}")


def test_verdict_of_text_searches(page: Page) -> None:
    for text, said in (
        ("pizza", "scores higher than random letters"),
        ("qzx vbnwk", "random letters would score about"),
    ):
        page.locator("#text textarea").fill(text)
        page.keyboard.press("Enter")
        expect(lane(page).locator(".verdict")).to_contain_text(said)
    page.locator("#text textarea").fill("кошка")
    page.keyboard.press("Enter")
    unread = lane(page).locator(".verdict", has_text="does not know these words or characters")
    expect(unread).to_be_visible()


def test_cut_off_hides_results(page: Page, queries: Path) -> None:
    upload(page, queries / "pizza.png")
    expect(hits(page)).to_have_count(8)
    scores = [float(text.rsplit("· ", 1)[1]) for text in captions(page)]
    open_advanced(page)
    page.locator("#top_k input[type=number]").fill("60")
    page.locator("#top_k input[type=number]").blur()
    expect(hits(page)).to_have_count(60)
    page.locator("#cutoff input[type=number]").fill("99.5")
    page.locator("#cutoff input[type=number]").blur()
    expect(hits(page)).not_to_have_count(60)
    left = [float(text.rsplit("· ", 1)[1]) for text in captions(page)]
    assert 0 < len(left) < 60
    assert left[:8] == scores[: len(left)]


def test_keys_of_the_page(page: Page, queries: Path) -> None:
    upload(page, queries / "pizza.png")
    expect(hits(page)).to_have_count(8)
    hits(page).first.focus()
    page.keyboard.press("ArrowRight")
    expect(hits(page, "pixels").nth(0)).not_to_be_focused()
    page.keyboard.press("?")
    expect(page.locator("#keys")).to_be_visible()
    expect(page.locator("#keys")).to_contain_text("go to the text field")
    page.keyboard.press("Escape")
    expect(page.locator("#keys")).to_be_hidden()
    page.keyboard.press("/")
    text = page.locator("#text textarea")
    expect(text).to_be_focused()
    page.keyboard.type("a/b?")  # only characters in a text field
    expect(text).to_have_value("a/b?")
    expect(page.locator("#keys")).to_be_hidden()


@pytest.mark.parametrize("way", ["#choose", pytest.param("#query", marks=pytest.mark.endurance)])
def test_file_that_is_no_image_is_reported_once(page: Page, tmp_path: Path, way: str) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("nothing to see")
    page.locator(f"{way} input[type=file]").set_input_files(str(path))
    expect(hint(page)).to_contain_text("not an image that can be read here")
    expect(page.locator("[data-testid=toast-body]")).to_have_count(0)


def test_search_as_command_and_python_gives_the_same_results(
    page: Page, address: str, page_searcher: Searcher, capsys: pytest.CaptureFixture[str]
) -> None:
    page.goto(f"{address}?text=red+%27fruit%27&features=clip&metric=l2&k=5&label=food-fruit&without=%24HOME")
    expect(hits(page)).to_have_count(5)
    page.get_by_role("button", name="Copy as command").click()
    expect(page.locator("#link [role=status]")).to_have_text("Copied.")
    words = shlex.split(page.evaluate("navigator.clipboard.readText()"))
    assert words[:4] == ["python", "-m", "retrieval", "search"]
    assert main([*words[3:], "--json", "--index", str(page_searcher.indexes.root)]) == 0
    found = json.loads(capsys.readouterr().out)
    names = [caption.split(" · ")[0].partition(". ")[2] for caption in captions(page)]
    assert [hit["caption"] for hit in found["hits"]] == names
    page.get_by_role("button", name="Copy as Python").click()
    program = page.evaluate("navigator.clipboard.readText()")
    assert f'Client("{address}/")' in program
    with ThreadPoolExecutor(1) as thread:  # gradio's client waits for events, which the browser's loop here would stop
        thread.submit(exec, program.replace("print(answer)", "print(repr(answer))"), {}).result()
    answer = ast.literal_eval(capsys.readouterr().out.strip().splitlines()[-1])
    assert [hit["caption"] for hit in answer["hits"]] == names


def test_links_to_the_page_show_what_it_is(address: str) -> None:
    text = urllib.request.urlopen(address).read().decode()
    assert "{url}" not in text
    assert re.findall(r'og:title" content="([^"]*)"', text) == ["Lookalike"]
    [image] = re.findall(r'og:image" content="([^"]*)"', text)
    with urllib.request.urlopen(image) as answer:
        assert answer.headers["content-type"] == "image/webp"


def test_query_column_does_not_move_when_text_is_off(page: Page, address: str) -> None:
    page.goto(address)
    wait_until_loaded(page)
    before = page.locator("#examples").bounding_box()
    choose_features(page, "pixels")
    reason = page.locator("#text .info-text")
    expect(reason).to_be_visible()
    assert page.locator("#examples").bounding_box() == before
    inside = reason.bounding_box()
    assert inside["y"] + inside["height"] <= before["y"] + 1
