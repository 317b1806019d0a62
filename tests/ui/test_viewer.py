"""The viewer: what it shows of a result, by which ways it opens and closes, and what it refuses to show."""

import base64
import io
import json
import re
import shutil
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Locator, Page, expect

from retrieval import index_builder
from retrieval.analysis.standing import standings
from retrieval.analysis.why import Explainer
from retrieval.indexing.originals import Originals, is_public
from retrieval.metrics import Metric
from retrieval.search.query import Query
from retrieval.search.searcher import Searcher
from retrieval.storage.catalog import Indexes
from retrieval.ui.query_panel import Asked, QueryPanel, gallery_choice
from retrieval.ui.serving.limits import OWN, PUBLIC, Limits
from retrieval.ui.viewer import GONE, ORIGINAL, THUMBNAIL, Viewer
from retrieval.ui.widgets.added_input import AddedImages
from retrieval.ui.widgets.thumbnails import Thumbnails
from tests.support.browsing import hits, open_tab, upload, wait_until_settled


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index folder with the gallery `few`: 6 large images of a local folder."""
    root = tmp_path_factory.mktemp("local")
    random = np.random.default_rng(0)
    for number in range(6):
        path = root / "few" / ("ab"[number % 2]) / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (20, 30, 3), np.uint8)).resize((900, 600)).save(path)
    assert index_builder.main(["--index", str(root / "index"), "--dataset", str(root / "few"), "--model", "mini"]) == 0
    return root


@pytest.fixture
def copied(folder: Path, tmp_path: Path) -> Path:
    """A copy whose images a test may change."""
    shutil.copytree(folder / "few", tmp_path / "few")
    flags = ["--index", str(tmp_path / "index"), "--dataset", str(tmp_path / "few"), "--features", "pixels"]
    assert index_builder.main(flags) == 0
    return tmp_path


def viewer_of(searcher: Searcher, limits: Limits = OWN) -> Viewer:
    with gr.Blocks():
        panel = QueryPanel(searcher, thumbnails := Thumbnails(), gallery_choice(searcher))
        return Viewer(Explainer(searcher), panel, thumbnails, limits)


def asked(gallery: str, **changed: Any) -> dict[str, Any]:
    return vars(Asked(None, AddedImages(None), "", "", 0.5, [], 1, None, gallery)) | changed


def shown(viewer: Viewer, gallery: str, data: object, **changed: Any) -> list[dict[str, Any]]:
    """Return what the viewer shows one after the other."""
    updates = viewer.show(gr.EventData(None, data), **asked(gallery, **changed))
    return [json.loads(update[viewer.dialog]) for update in updates]


def place(index: Any, position: object) -> dict[str, Any]:
    return {"gallery": index.manifest.gallery, "build": index.snapshot.name, "position": position}


def test_owner_sees_the_original_and_strangers_the_thumbnail(folder: Path) -> None:
    searcher = Searcher(Indexes(folder / "index"))
    index = searcher.indexes.get()
    first, last = shown(viewer_of(searcher), "few", place(index, 2))
    assert first["about"] == THUMBNAIL
    assert last["about"] == ORIGINAL
    with Image.open(io.BytesIO(base64.b64decode(last["large"].partition(",")[2]))) as large:
        assert large.size == (900, 600)
    [only] = shown(viewer_of(searcher, PUBLIC), "few", place(index, 2))
    assert only["about"] == THUMBNAIL
    assert "large" not in only
    assert str(folder) not in json.dumps(only)
    searcher.indexes.close()


@pytest.mark.parametrize("change", ["changed", "deleted", "replaced by a link", "cut off"])
def test_original_that_changed_is_not_shown(copied: Path, change: str) -> None:
    index = Indexes(copied / "index").get()
    path = copied / "few" / index.origin(1).path
    assert Originals().read(index, 1) == path.read_bytes()
    other = copied / "few" / index.origin(0).path
    if change == "changed":
        shutil.copy(other, path)
    elif change == "deleted":
        path.unlink()
    elif change == "replaced by a link":
        path.unlink()
        path.symlink_to("/etc/passwd")
    else:
        path.write_bytes(path.read_bytes()[:-1])
    assert Originals().read(index, 1) is None
    index.close()


def test_originals_of_a_bundled_gallery_are_public(few_icons: Path) -> None:
    searcher = Searcher(Indexes(few_icons))
    index = searcher.indexes.get()
    assert is_public(index)
    _, last = shown(viewer_of(searcher, PUBLIC), index.manifest.gallery, place(index, 3))
    assert last["about"] == ORIGINAL
    assert last["lines"][0] == f"Class: {index.entry(3).label}"
    searcher.indexes.close()


@pytest.mark.parametrize("position", [-1, 6, 10**30, 1.0, True, "1", None, [1], {"path": "/etc/passwd"}])
def test_invalid_positions_are_refused(folder: Path, position: object) -> None:
    searcher = Searcher(Indexes(folder / "index"))
    viewer, index = viewer_of(searcher), searcher.indexes.get()
    assert shown(viewer, "few", place(index, position)) == [{"message": GONE, "opens": True}]
    assert acted(viewer, index, position, "search") == gr.skip()
    searcher.indexes.close()


@pytest.mark.parametrize(
    "data",
    [
        None,
        [],
        "x",
        {},
        {"gallery": "../few", "position": 1},
        {"gallery": ["few"], "position": 1},
        {"position": 1, "build": "snapshot-000001-yesterday"},
        {"value": {"image": {"path": "/etc/passwd"}}},
        {"value": {"image": {"path": ["x"]}}},
        {"value": "x"},
    ],
)
def test_malformed_events_are_refused(folder: Path, data: object) -> None:
    searcher = Searcher(Indexes(folder / "index"))
    viewer = viewer_of(searcher)
    assert shown(viewer, "few", data) == [{"message": GONE, "opens": True}]
    assert json.loads(viewer.explain(gr.EventData(None, data), **asked("few"))[viewer.dialog]) == {"message": GONE}
    searcher.indexes.close()


def acted(viewer: Viewer, index: Any, position: object, action: object) -> Any:
    chosen = gr.EventData(None, place(index, position) | {"action": action})
    return viewer.act("few", AddedImages(None), None, chosen)


def test_actions_set_the_query_or_add_to_it(folder: Path) -> None:
    searcher = Searcher(Indexes(folder / "index"))
    viewer, index = viewer_of(searcher), searcher.indexes.get()
    panel = viewer._panel
    assert acted(viewer, index, 4, "search") == {panel.picture: str(index.thumbnail(4))}
    for action, more in (("more", True), ("less", False)):
        [image] = acted(viewer, index, 4, action)[panel.added].images
        assert (image.file, image.more) == (str(index.thumbnail(4)), more)
    assert acted(viewer, index, 4, "delete") == acted(viewer, index, 4, ["search"]) == gr.skip()
    searcher.indexes.close()


def ranks(searcher: Searcher, query: Query, position: int) -> dict[tuple[str, Metric], tuple[float, int]]:
    """Return score and rank of an image by complete searches."""
    index, found = searcher.indexes.get(), {}
    for features in index.features:
        for metric in Metric:
            by = Query(**{**vars(query), "features": features, "metric": metric, "top_k": len(index)})
            hit = next(each for each in searcher.search(by, index).hits if each.position == position)
            found[features, metric] = (hit.score, hit.rank)
    return found


def test_scores_and_ranks_are_those_of_searches(few_icons: Path, queries: Path) -> None:
    searcher = Searcher(Indexes(few_icons))
    for query in (Query(picture=queries / "pizza.png"), Query(position=5)):
        found = {
            (each.features, each.metric): (pytest.approx(each.score), each.rank)
            for each in standings(searcher, query, 20, searcher.indexes.get())
        }
        assert ranks(searcher, query, 20) == found
    text = standings(searcher, Query(text="pizza"), 20, searcher.indexes.get())
    assert {each.features for each in text} == {"clip"}
    searcher.indexes.close()


@pytest.mark.parametrize("features", ["pixels", "color", "clip"])
def test_heat_maps_of_both_images_are_shown(few_icons: Path, queries: Path, features: str) -> None:
    searcher = Searcher(Indexes(few_icons))
    viewer, index = viewer_of(searcher), searcher.indexes.get()
    data = place(index, 4) | {"features": features, "metric": "l2"}
    inputs = asked(index.manifest.gallery, picture=str(queries / "pizza.png"), text="red")
    found = json.loads(viewer.explain(gr.EventData(None, data), **inputs)[viewer.dialog])
    assert found["why"]["features"] == features
    for which in ("query", "result"):
        with Image.open(io.BytesIO(base64.b64decode(found["why"][which].partition(",")[2]))) as drawn:
            assert drawn.width > 50
    with pytest.raises(gr.Error, match="has no edges features"):
        viewer.explain(gr.EventData(None, data | {"features": "edges"}), **inputs)
    searcher.indexes.close()


def dialog(page: Page) -> Locator:
    return page.locator("#viewer dialog")


def title(page: Page) -> str:
    return dialog(page).locator("h2").inner_text()


def settled(page: Page) -> None:
    """Wait until the viewer shows the original, after which nothing changes."""
    expect(dialog(page)).to_contain_text(ORIGINAL)
    wait_until_settled(page)


@pytest.mark.browser
def test_click_opens_the_viewer_and_keeps_the_query(page: Page, queries: Path) -> None:
    upload(page, queries / "pizza.png")
    expect(page).to_have_url(re.compile("k=8"))
    before = page.url
    second = hits(page).nth(1)
    second.click()
    settled(page)
    name = second.locator(".name").inner_text().removeprefix("2. ")
    assert title(page) == name
    row = dialog(page).locator("tbody tr", has_text="CLIP features")
    expect(row.locator("td").nth(2)).to_have_text(f"{second.locator('.score').inner_text()} (#2)")
    page.keyboard.press("ArrowRight")
    third = hits(page).nth(2).locator(".name").inner_text().removeprefix("3. ")
    expect(dialog(page).locator("h2")).to_have_text(third)
    settled(page)
    page.keyboard.press("ArrowLeft")
    expect(dialog(page).locator("h2")).to_have_text(name)
    page.keyboard.press("Escape")
    expect(dialog(page)).to_be_hidden()
    assert page.url == before
    second.click()  # the same again
    expect(dialog(page)).to_be_visible()
    dialog(page).get_by_role("button", name="Close").click()
    expect(dialog(page)).to_be_hidden()


@pytest.mark.browser
def test_focus_stays_in_the_viewer_and_returns(page: Page, queries: Path) -> None:
    upload(page, queries / "pizza.png")
    expect(hits(page)).to_have_count(8)
    hits(page).nth(2).focus()
    page.keyboard.press("Enter")
    settled(page)
    for _ in range(25):
        page.keyboard.press("Tab")
        assert page.evaluate(
            "document.activeElement === document.body || !!document.activeElement.closest('#viewer dialog')"
        )
    page.keyboard.press("Escape")
    expect(hits(page).nth(2)).to_be_focused()


@pytest.mark.browser
def test_heat_map_and_search_with_this(page: Page, queries: Path) -> None:
    upload(page, queries / "pizza.png")
    hits(page).nth(1).click()
    settled(page)
    explain = dialog(page).locator(".why button[data-features=clip]")
    explain.click()
    expect(dialog(page)).to_contain_text("Bright parts make the two images more similar.")
    expect(dialog(page).locator(".pair.explained img")).to_have_count(2)
    expect(explain).to_have_attribute("aria-pressed", "true")
    explain.click()
    settled(page)
    with page.expect_download() as download:
        dialog(page).get_by_role("link", name="Download").click()
    assert re.fullmatch(r"[\w.-]+\.jpg", download.value.suggested_filename)
    dialog(page).get_by_role("button", name="Search with this").click()
    expect(dialog(page)).to_be_hidden()
    expect(page).to_have_url(re.compile("id="))


@pytest.mark.browser
@pytest.mark.parametrize(
    ("tab", "strip"),
    [
        ("Compare", ".comparison .hits >> nth=0"),
        ("Robustness", "#distorted_clip"),
        pytest.param("Robustness", "#undistorted_pixels", marks=pytest.mark.endurance),
    ],
)
def test_strips_of_other_tabs_open_the_viewer(page: Page, queries: Path, tab: str, strip: str) -> None:
    upload(page, queries / "pizza.png")
    expect(hits(page)).to_have_count(8)
    open_tab(page, tab)
    items = page.locator(strip).locator(".thumbnail-item")
    for number in (1, 1, 3):  # the first one twice
        items.nth(number).click()
        expect(dialog(page)).to_be_visible()
        settled(page)
        caption = items.nth(number).locator(".caption-label").inner_text()
        assert f"{number + 1}. {title(page)} · " in caption
        page.keyboard.press("Escape")
        expect(dialog(page)).to_be_hidden()


@pytest.mark.browser
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_viewer_fits_a_phone(browser: Browser, address: str, queries: Path, theme: str) -> None:
    context = browser.new_context(viewport={"width": 390, "height": 844}, has_touch=True)
    page = context.new_page()
    page.goto(f"{address}?__theme={theme}")
    expect(hits(page)).to_have_count(8)
    hits(page).first.tap()
    settled(page)
    box = dialog(page).bounding_box()
    assert box
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= 390
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    context.close()
