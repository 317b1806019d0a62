"""The Galleries tab in a real browser: build and search a gallery, cancel and resume, and error messages."""

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Locator, Page, expect

from retrieval.features.encoder import CONVOLVED
from retrieval.indexing.jobs import Builds
from retrieval.search.searcher import Searcher
from retrieval.storage.catalog import Indexes
from retrieval.ui.serving.own_page import address_with_token
from retrieval.ui.tabs.evaluate import EvaluateTab
from retrieval.ui.tabs.galleries import GalleriesTab
from retrieval.ui.tabs.search import SearchTab
from tests.support.browsing import PATIENCE, details, hits, open_advanced, open_tab, served, settings_of, toggle, upload
from tests.support.builds import draw_classes
from tests.support.held import PausableModel
from tests.support.waiting import wait_until

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def held() -> PausableModel:
    """A model that pauses each build after its first batch of 64 pictures."""
    return PausableModel(free_passes=64 // CONVOLVED)


@pytest.fixture(scope="module")
def builds(small: Path, held: PausableModel) -> Builds:
    # With one thread, since several could take the batches in another order, and pause an earlier one.
    return Builds(replace(settings_of(small), workers=1), held.load)


@pytest.fixture(scope="module")
def address(small: Path, builds: Builds, held: PausableModel, queries: Path) -> Iterator[str]:
    """The address of a served page that can build."""
    searcher = Searcher(Indexes(small))
    searcher.warm()
    with served(searcher, builds.base, builds) as address:
        yield address
        held.resume.set()
        builds.close()
    searcher.indexes.close()


@pytest.fixture
def page(context_of: Callable[..., BrowserContext], address: str, held: PausableModel) -> Iterator[Page]:
    """The tab as a new visitor sees it; builds are not paused unless the test clears `held.resume`."""
    held.resume.set()
    page = visit(context_of().new_page(), address)
    yield page
    page.close()


def visit(page: Page, address: str) -> Page:
    page.set_default_timeout(PATIENCE)
    page.goto(address_with_token(address))
    expect(page.locator("#query")).to_be_visible()
    open_tab(page, GalleriesTab.title)
    expect(row(page, "first")).to_be_visible()
    return page


def fill(page: Page, name: str, text: str) -> None:
    page.locator(f"#build_{name} :is(input, textarea)").fill(text)


def state(page: Page) -> Locator:
    return page.locator("#build_state")


def row(page: Page, gallery: str) -> Locator:
    """Return the row of a gallery; the rows that gradio uses only for measuring have no grid cells."""
    return (
        page.locator("#galleries").get_by_role("row").filter(has=page.get_by_role("gridcell", name=gallery, exact=True))
    )


def test_folder_is_built_selected_and_searched(page: Page, tmp_path: Path, small: Path) -> None:
    folder = draw_classes(tmp_path / "holiday", 40)
    (folder / "odd" / "broken.png").write_text("no picture")
    upload(page, folder / "even" / "004.png")
    open_tab(page, SearchTab.title)
    expect(details(page)).to_contain_text(" 6 images ")
    open_tab(page, GalleriesTab.title)
    fill(page, "dataset", str(folder))
    page.keyboard.press("Tab")
    expect(page.locator("#build_found")).to_contain_text("Found.")
    expect(page.locator("#build_gallery :is(input, textarea)")).to_have_attribute("placeholder", "holiday")
    page.locator("#build_start").click()
    expect(state(page).locator("progress")).to_be_visible()
    expect(page.locator("#build_start")).to_be_disabled()
    expect(state(page)).to_contain_text("holiday is ready: 40 images, 1 skipped.")
    expect(page.locator("#gallery input")).to_have_value(re.compile("^holiday "))
    expect(page.locator("#build_start")).to_be_enabled()
    expect(page.locator("#build_cancel")).to_be_disabled()
    expect(row(page, "holiday")).to_contain_text(re.compile(r"40.*1.*mini.*\d{4}-\d\d.*MB", re.DOTALL))
    expect(page.locator("#skipped")).to_contain_text("broken.png")
    expect(page.locator("#skipped")).to_contain_text("not an image")
    open_tab(page, SearchTab.title)
    expect(details(page)).to_contain_text(" 40 images ")
    expect(hits(page).first).to_contain_text(re.compile(r"1\. 004.*(1\.000|0\.99)", re.DOTALL))
    toggle(page, "engine", "chroma")
    expect(details(page)).to_contain_text("ChromaDB")
    open_advanced(page)
    page.locator("#labels input").click()
    page.get_by_role("option", name="odd").click()
    expect(hits(page)).to_have_count(8)
    expect(hits(page).first).not_to_contain_text("004")
    open_tab(page, GalleriesTab.title)
    row(page, "first").get_by_role("gridcell").nth(1).click()
    expect(page.locator("#skipped_note")).to_contain_text("first: no images were skipped")
    expect(page.locator("#skipped")).to_be_hidden()


def test_build_is_cancelled_and_resumed_while_searches_continue(
    page: Page, browser: Browser, address: str, held: PausableModel, builds: Builds, tmp_path: Path
) -> None:
    folder = draw_classes(tmp_path / "long", 200, seed=1000)  # other galleries have embedded none of them
    held.resume.clear()
    fill(page, "dataset", str(folder))
    page.locator("#build_start").click()
    expect(state(page)).to_contain_text(re.compile(r"long: 64 of 200 images · .* images/s · .* left"))
    expect(state(page).locator("progress")).to_have_attribute("value", "64")

    open_tab(page, SearchTab.title)  # the page still works
    upload(page, draw_classes(tmp_path / "same", 4) / "even" / "002.png")
    expect(hits(page).first).to_contain_text("1. 002")

    context = browser.new_context()  # another visitor sees the progress
    other = visit(context.new_page(), address)
    expect(state(other)).to_contain_text("long: 64 of 200 images")
    expect(other.locator("#build_start")).to_be_disabled()

    page.reload()  # the build continues after a reload
    open_tab(page, GalleriesTab.title)
    expect(state(page)).to_contain_text("long: 64 of 200 images")
    page.locator("#build_cancel").click()
    expect(state(page)).to_contain_text("stopping")
    held.resume.set()
    for each in (page, other):
        expect(state(each)).to_contain_text(
            re.compile(r"Stopped after \d+ images. Start the same build again to resume it")
        )
        expect(each.locator("#build_start")).to_be_enabled()
    context.close()

    fill(page, "dataset", str(folder))
    page.locator("#build_start").click()
    expect(state(page)).to_contain_text("long is ready: 200 images.")
    assert builds.last is not None
    assert 64 <= builds.last.outcome().manifest.changes.reused < 200
    expect(page.locator("#gallery input")).to_have_value(re.compile("^long "))


@pytest.mark.endurance
def test_build_that_no_visitor_started_is_followed_but_not_selected(
    page: Page, address: str, held: PausableModel, builds: Builds, tmp_path: Path
) -> None:
    """As that of the icons, which the app builds in the background."""
    selected = page.locator("#gallery input").input_value()
    held.resume.clear()
    folder = draw_classes(tmp_path / "background", 100, seed=2000)
    builds.start(replace(builds.base, dataset=str(folder), model="mini"))
    visit(page, address)
    expect(state(page)).to_contain_text("background: 64 of 100 images")
    held.resume.set()
    expect(state(page)).to_contain_text("background is ready: 100 images.")
    expect(state(page)).not_to_contain_text("selected")
    expect(row(page, "background")).to_be_visible()
    expect(page.locator("#gallery input")).to_have_value(selected)
    page.locator("#gallery input").click()
    expect(page.get_by_role("option", name="background")).to_be_visible()


@pytest.mark.endurance
def test_second_build_is_refused_with_a_message(
    page: Page, browser: Browser, address: str, held: PausableModel, builds: Builds, tmp_path: Path
) -> None:
    """The second page was opened before the first build started, so its button is still enabled."""
    context = browser.new_context()
    other = visit(context.new_page(), address)
    held.resume.clear()
    fill(page, "dataset", str(draw_classes(tmp_path / "one", 70, seed=3000)))
    page.locator("#build_start").click()
    expect(state(page)).to_contain_text("one: 64 of 70")
    fill(other, "dataset", str(draw_classes(tmp_path / "two", 2)))
    other.locator("#build_start").click()
    expect(other.locator("[data-testid=toast-body]")).to_contain_text("'one' is being built, and only one")
    expect(state(other)).to_contain_text("one: 64 of 70")
    held.resume.set()
    expect(state(page)).to_contain_text("one is ready")
    context.close()


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        pytest.param({"dataset": ""}, "Enter a dataset", marks=pytest.mark.endurance),
        pytest.param({"dataset": "/no/such/folder"}, "no such file or folder", marks=pytest.mark.endurance),
        ({"dataset": "https://example.com/<b>x</b>"}, "'https://example.com/<b>x</b>' is a URL"),
        pytest.param(
            {"dataset": "FOLDER", "limit": "0"}, "“Limit”: must be a whole number from 1", marks=pytest.mark.endurance
        ),
        pytest.param(
            {"dataset": "FOLDER", "gallery": "a/b"},
            "“Gallery name”: 'a/b' cannot be the name of a folder",
            marks=pytest.mark.endurance,
        ),
        ({"dataset": "FOLDER", "gallery": "first"}, "Choose another name with “Gallery name”, or replace"),
    ],
)
def test_errors_for_invalid_builds(page: Page, tmp_path: Path, fields: dict[str, str], said: str) -> None:
    folder = draw_classes(tmp_path / "pictures", 1)
    for name, text in fields.items():
        fill(page, name, text.replace("FOLDER", str(folder)))
    page.locator("#build_start").click()
    expect(state(page).locator("[role=alert]")).to_contain_text(said)
    expect(page.locator("#build_start")).to_be_enabled()


@pytest.mark.endurance
def test_replacing_a_gallery_updates_its_results(page: Page, tmp_path: Path, small: Path) -> None:
    for count in (3, 5):
        folder = draw_classes(tmp_path / f"{count}" / "changing", count)
        fill(page, "dataset", str(folder))
        page.locator("#build_replace input").set_checked(count == 5)
        page.locator("#build_start").click()
        expect(state(page)).to_contain_text(f"changing is ready: {count} images.")
        if count == 3:
            upload(page, folder / "even" / "000.png")
        open_tab(page, SearchTab.title)
        expect(hits(page)).to_have_count(count)
        first = hits(page).locator("img").first
        assert first.evaluate("image => image.decode().then(() => image.naturalWidth)") == 50
        open_tab(page, GalleriesTab.title)


def test_build_on_a_phone_by_keyboard(browser: Browser, address: str, held: PausableModel, tmp_path: Path) -> None:
    held.resume.set()
    context = browser.new_context(viewport={"width": 390, "height": 844}, color_scheme="dark")
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    page.goto(address_with_token(f"{address}?__theme=dark"))
    open_tab(page, GalleriesTab.title)
    expect(row(page, "first")).to_be_visible()
    page.locator("#build_dataset :is(input, textarea)").focus()
    page.keyboard.type(str(draw_classes(tmp_path / "keys", 2)))
    for _ in range(20):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == "build_start":
            break
    page.keyboard.press("Enter")
    expect(state(page)).to_contain_text("keys is ready: 2 images.")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    context.close()


def manage(page: Page, gallery: str) -> None:
    """Choose a gallery by its row."""
    row(page, gallery).get_by_role("gridcell").nth(1).click()
    expect(page.locator("#chosen input")).to_have_value(gallery)


def add_gallery(builds: Builds, folder: Path, name: str, count: int = 3) -> None:
    builds.start(replace(builds.base, dataset=str(draw_classes(folder / name, count)), model="mini")).outcome()


def test_gallery_is_opened_renamed_and_deleted(
    page: Page, builds: Builds, tmp_path: Path, small: Path, held: PausableModel
) -> None:
    add_gallery(builds, tmp_path, "trip")
    page.reload()
    open_tab(page, GalleriesTab.title)
    manage(page, "trip")
    page.locator("#gallery_open").click()
    expect(page.locator("#gallery input")).to_have_value(re.compile("^trip "))
    expect(page.get_by_role("tab", name=SearchTab.title)).to_have_attribute("aria-selected", "true")
    expect(hits(page)).to_have_count(3)

    open_tab(page, GalleriesTab.title)
    managed = page.locator("#manage_state")
    for name, said in (("first", "already something named 'first'"), ("../up", "cannot be the name of a folder")):
        page.locator("#gallery_name textarea").fill(name)
        page.locator("#gallery_rename").click()
        expect(managed.get_by_role("alert")).to_contain_text(said)
    page.locator("#gallery_name textarea").fill("madeira")
    page.keyboard.press("Enter")
    expect(managed.get_by_role("status")).to_have_text("trip is now called madeira.")
    expect(row(page, "madeira")).to_be_visible()
    expect(row(page, "trip")).to_have_count(0)
    expect(page.locator("#gallery input")).to_have_value(re.compile("^madeira "))  # the page still shows it
    open_tab(page, SearchTab.title)
    toggle(page, "engine", "chroma")
    expect(details(page)).to_contain_text("ChromaDB")

    open_tab(page, GalleriesTab.title)
    page.locator("#gallery_delete").press("Enter")
    confirm = page.locator("#confirm")
    expect(confirm).to_contain_text(f"in {tmp_path / 'trip'}, are not touched")
    page.locator("#gallery_keep").press("Enter")
    expect(confirm).to_be_hidden()
    page.locator("#gallery_delete").press("Enter")
    page.locator("#gallery_sure").press("Enter")
    expect(managed.get_by_role("status")).to_have_text("madeira was deleted.")
    expect(confirm).to_be_hidden()
    expect(row(page, "madeira")).to_have_count(0)
    expect(page.locator("#gallery input")).not_to_have_value(re.compile("^madeira "))
    wait_until(lambda: not (small / "madeira").exists())
    assert len(list((tmp_path / "trip").rglob("*.png"))) == 3


def test_gallery_that_is_being_built_is_not_deleted(
    page: Page, builds: Builds, held: PausableModel, tmp_path: Path
) -> None:
    add_gallery(builds, tmp_path, "busy")
    held.resume.clear()
    draw_classes(tmp_path / "busy", 100, seed=5000)
    build = builds.start(replace(builds.base, dataset=str(tmp_path / "busy"), model="mini"))
    page.reload()
    open_tab(page, GalleriesTab.title)
    expect(state(page)).to_contain_text("busy: ")
    manage(page, "busy")
    page.locator("#gallery_delete").click()
    page.locator("#gallery_sure").click()
    expect(page.locator("#manage_state").get_by_role("alert")).to_contain_text("'busy' is being built or updated")
    held.resume.set()
    expect(state(page)).to_contain_text("busy is ready: 100 images.")
    assert build.outcome().manifest.pictures == 100


def test_building_an_unchanged_gallery_says_so(page: Page, builds: Builds, tmp_path: Path) -> None:
    add_gallery(builds, tmp_path, "same")
    fill(page, "dataset", str(tmp_path / "same"))
    page.locator("#build_start").click()
    expect(state(page)).to_contain_text("same is up to date: its 3 images have not changed since the last build.")
    draw_classes(tmp_path / "same", 4)
    page.locator("#build_start").click()
    # Other galleries of this index may have embedded the new image.
    expect(state(page)).to_contain_text(re.compile(r"ready: 4 images\. Embedded: [01], reused: [34], removed: 0\."))


def test_visitors_without_the_token_read_only_how_to_get_it(browser: Browser, address: str) -> None:
    """What they could send around the page is refused too: tests/indexing/test_jobs.py."""
    context = browser.new_context()
    other = context.new_page()
    other.set_default_timeout(PATIENCE)
    other.goto(address)
    open_tab(other, GalleriesTab.title)
    expect(other.locator("#galleries_refused")).to_contain_text("To build or change galleries, open")
    expect(other.locator("[data-testid=toast-body]")).to_have_count(0)
    for hidden in ("#galleries", "#gallery_open", "#gallery_rename", "#gallery_delete", "#build_start"):
        expect(other.locator(hidden)).to_be_hidden()
    context.close()


def test_only_gallery_is_kept(browser: Browser, tmp_path: Path) -> None:
    chosen = settings_of(tmp_path / "index")
    builds = Builds(chosen)
    add_gallery(builds, tmp_path, "alone")
    searcher = Searcher(Indexes(chosen.index))
    with served(searcher, chosen, builds) as address:
        context = browser.new_context()
        page = context.new_page()
        page.set_default_timeout(PATIENCE)
        page.goto(address_with_token(address))
        open_tab(page, GalleriesTab.title)
        expect(row(page, "alone")).to_be_visible()
        page.locator("#gallery_delete").click()
        expect(page.locator("#manage_state").get_by_role("alert")).to_contain_text("'alone' is the only gallery")
        context.close()
    searcher.indexes.close()


def test_tab_is_absent_without_builds(browser: Browser, small: Path, queries: Path) -> None:
    searcher = Searcher(Indexes(small))
    with served(searcher, settings_of(small)) as address:
        context = browser.new_context()
        page = context.new_page()
        page.set_default_timeout(PATIENCE)
        page.goto(address)
        expect(page.get_by_role("tab", name=EvaluateTab.title)).to_be_visible()
        expect(page.get_by_role("tab", name=GalleriesTab.title)).to_have_count(0)
        context.close()
    searcher.indexes.close()
