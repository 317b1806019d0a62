"""The Map tab in a real browser: hovering, clicking, keys, and captions that contain code."""

import re
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, FloatRect, Page, expect

from retrieval import index_builder
from retrieval.analysis.explanation import name_of
from retrieval.analysis.gallery_map import (
    COLOURED,
    DARK,
    LIGHT,
    OTHER,
    OTHER_LABELS,
    Plane,
    marks,
    points,
    ranked_labels,
)
from retrieval.search.query import Query
from retrieval.search.searcher import Searcher
from retrieval.storage.catalog import Indexes
from retrieval.storage.projection import Method
from retrieval.storage.reader import GalleryIndex
from retrieval.ui.tabs.map import MapTab
from tests.support.browsing import PATIENCE, details, hits, open_tab, served, settings_of, toggle, upload
from tests.support.waiting import wait_until

pytestmark = pytest.mark.browser

HOSTILE = "${window.hacked=1}{{x}}`<img src=x onerror=window.hacked=1>"


def open_map(page: Page) -> None:
    open_tab(page, "Map")
    expect(page.locator(".map-legend button").first).to_be_visible()
    page.locator(".map-frame").scroll_into_view_if_needed()


def names_on(page: Page) -> dict[str, FloatRect]:
    """The names on the map, and where each stands."""
    names = page.locator(".map-name").all()
    return {each.inner_text(): each.bounding_box() or {"x": 0, "y": 0, "width": 0, "height": 0} for each in names}


def cover(one: FloatRect, other: FloatRect) -> bool:
    """Whether two names overlap by more than their margins."""

    def overlap(at: str, size: str) -> float:
        return (one[size] + other[size]) / 2 - abs(one[at] + one[size] / 2 - other[at] - other[size] / 2)

    return overlap("x", "width") > 4 and overlap("y", "height") > 4


def expected_positions(page: Page, index: GalleryIndex, features: str = "clip") -> np.ndarray:
    """Compute where the map by t-SNE should show each picture, in pixels of its frame, if it is not zoomed in."""
    coordinates = index.map(features, Method.TSNE).coordinates
    box = page.locator(".map-frame").evaluate("frame => [frame.clientWidth, frame.clientHeight]")
    return Plane(coordinates, Method.TSNE).place(coordinates) / 100 * box


def most_isolated(places: np.ndarray, among: np.ndarray | bool = True) -> int:
    """Return the picture that is farthest from its nearest neighbour, so that hovering over it is unambiguous.

    `among` says which pictures may be returned.
    """
    distances = np.linalg.norm(places[:, None] - places, axis=2)
    np.fill_diagonal(distances, np.inf)
    nearest = distances.min(axis=1)
    # Not below the buttons.
    nearest[(places[:, 1] < 60) & (places[:, 0] > places[:, 0].max() - 220)] = 0
    nearest = np.where(among, nearest, 0)
    assert nearest.max() > 4
    return int(nearest.argmax())


def move_to(page: Page, place: np.ndarray) -> None:
    page.locator(".map-frame").hover(position={"x": float(place[0]), "y": float(place[1])})


@pytest.fixture(scope="module")
def icons_index(icons: Path) -> GalleryIndex:
    return Indexes(icons).get()


def search_with_point(page: Page, place: np.ndarray) -> None:
    page.locator(".map-frame").click(position={"x": float(place[0]), "y": float(place[1])})
    page.get_by_role("button", name="Search with this").click()


def test_hovering_shows_a_picture_and_clicking_opens_it(
    page: Page,
    icons_index: GalleryIndex,
) -> None:
    open_map(page)
    expect(page.locator("#map_note")).to_contain_text("1,566 images, CLIP features")
    expect(page.locator("#map_note")).to_contain_text("Choose an image to start")
    places = expected_positions(page, icons_index)
    position = most_isolated(places)
    entry = icons_index.entry(position)
    move_to(page, places[position])
    card = page.locator(".map-card")
    expect(card).to_have_text(f"{name_of(entry)} · {entry.label}")
    expect(card.locator("img")).to_be_visible()
    assert card.locator("img").evaluate("image => image.decode().then(() => image.naturalWidth)") > 100
    search_with_point(page, places[position])
    expect(page.locator("#query img")).to_be_visible()
    expect(page.locator("#map_note")).to_contain_text("◆ Your query.")
    page.mouse.move(0, 0)
    move_to(page, places[position])
    expect(card).to_have_text(f"{name_of(entry)} · {entry.label} · your query")
    open_tab(page, "Search")
    expect(details(page)).to_contain_text("decode 0.0 ms")
    assert f"id={quote(entry.id)}" in page.url


def test_points_have_the_colour_of_their_label(page: Page, icons_index: GalleryIndex) -> None:
    open_map(page)
    places = expected_positions(page, icons_index)
    names = [name for name, _ in ranked_labels(icons_index)]
    # The second half of the coloured labels are rings, which are empty in the middle.
    is_ring = np.array([len(LIGHT) <= names.index(label) < COLOURED for label in icons_index.labels])
    position = most_isolated(places, among=~is_ring)
    place = [name for name, _ in ranked_labels(icons_index)].index(icons_index.entry(position).label)
    expected = bytes.fromhex((LIGHT[place % len(LIGHT)] if place < COLOURED else OTHER[False])[1:])
    script = """([x, y]) => {
        const canvas = document.querySelector("canvas.map"), ratio = canvas.width / canvas.clientWidth;
        return [...canvas.getContext("2d").getImageData(Math.round(x * ratio), Math.round(y * ratio), 1, 1).data];
    }"""

    def is_drawn() -> bool:
        # Looked up each time, since the map takes its final size only after the text above it.
        *seen, alpha = page.evaluate(script, expected_positions(page, icons_index)[position].tolist())
        return alpha > 150 and all(abs(a - b) <= 6 for a, b in zip(seen, expected, strict=True))  # it divides by alpha

    wait_until(is_drawn)
    expect(page.locator(".map-legend button")).to_have_count(COLOURED + 1)
    expect(page.locator(".map-legend button").first).to_have_text(" ".join(map(str, ranked_labels(icons_index)[0])))
    expect(page.locator(".map-legend button").last).to_contain_text(OTHER_LABELS)


def test_picture_can_be_selected_by_keyboard(page: Page, queries: Path) -> None:
    upload(page, queries / "cat.png")
    expect(hits(page).first).to_be_visible()
    open_map(page)
    page.locator("#map_method input, #map_features input").first.focus()
    for _ in range(10):  # at most: radios, then the map
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.matches('.map-frame')"):
            break
    card = page.locator(".map-card")
    expect(card).to_have_text("your query")
    outline = page.locator(".map-frame").evaluate("c => getComputedStyle(c).outlineStyle")
    assert outline == "solid"
    seen = set()
    for key in ("ArrowRight", "ArrowUp", "ArrowLeft", "ArrowDown", "ArrowRight"):
        before = card.inner_text()
        page.keyboard.press(key)
        expect(card).not_to_have_text(before)
        seen.add(card.inner_text())
    assert len(seen) >= 3
    said = page.locator("#map [aria-live]").inner_text()
    assert said == card.inner_text()
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Search with this").press("Enter")
    expect(page).to_have_url(re.compile("id="))

    def query_is_shown() -> bool:
        """Return to the map, which shows the query first, until the new map is there."""
        page.locator(".map-frame").blur()
        page.locator(".map-frame").focus()
        return card.inner_text().endswith(" · your query")

    wait_until(query_is_shown)
    assert card.inner_text().startswith(said.split(" · ")[0])
    page.keyboard.press("Escape")
    expect(card).to_be_hidden()


def test_marks_follow_the_query(page: Page, queries: Path) -> None:
    open_map(page)
    expect(page.locator(".map-legend")).not_to_contain_text("its closest images")
    upload(page, queries / "pizza.png")
    expect(page.locator("#map_note")).to_contain_text("The 12 closest images by L2")
    expect(page.locator(".map-legend")).to_contain_text("your query")
    page.locator("#text input, #text textarea").fill("red fruit")
    page.keyboard.press("Enter")
    expect(page.locator("#map_note")).to_contain_text("Your image without what was added")
    page.locator("#query button[aria-label='Remove Image']").click()
    expect(page.locator("#map_note")).to_contain_text("A text has no place here")
    expect(page.locator(".map-legend")).not_to_contain_text("your query")
    toggle(page, "map_features", "pixels")
    expect(page.locator("#map_note")).to_contain_text("Text search needs CLIP features")
    expect(page.locator("#map_note")).to_contain_text("Raw pixels: each image is a vector of 768 numbers")


def test_closed_map_is_not_redrawn_for_each_query(page: Page, queries: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[str] = []
    draw = MapTab._drawn
    monkeypatch.setattr(MapTab, "_drawn", lambda *args: drawn.append("drawn") or draw(*args))
    upload(page, queries / "lion.png")
    expect(hits(page).first).to_be_visible()
    toggle(page, "metric", "l1")
    expect(details(page)).to_contain_text("Score: L1")
    page.locator("#search").click()
    expect(page.locator(".pending, .generating")).to_have_count(0)
    assert not drawn
    open_map(page)
    expect(page.locator("#map_note")).to_contain_text("The 12 closest")
    assert drawn


def test_zoom_and_label_filter(page: Page, icons_index: GalleryIndex) -> None:
    open_map(page)
    places = expected_positions(page, icons_index)
    position = most_isolated(places)
    card = page.locator(".map-card")
    name = name_of(icons_index.entry(position))
    move_to(page, places[position])
    expect(card).to_contain_text(name)
    page.get_by_role("button", name="Zoom in").click()
    middle = np.array(page.locator(".map-frame").evaluate("c => [c.clientWidth / 2, c.clientHeight / 2]"))
    zoomed = middle + (places[position] - middle) * 1.6
    edge = 60  # px, where the buttons are
    inside = (zoomed > edge).all() and (zoomed < 2 * middle - edge).all()
    if inside:
        move_to(page, zoomed)
        expect(card).to_contain_text(name)
    else:  # it has left the canvas, or is below a button; its old position shows another picture or none
        move_to(page, places[position])
        expect(card).not_to_contain_text(name)
    page.get_by_role("button", name="Show all").click()
    move_to(page, places[position])
    expect(card).to_contain_text(name)
    label = icons_index.entry(position).label
    other = page.locator(".map-legend button").filter(has_not_text=label).first
    other.click()
    expect(other).to_have_attribute("aria-pressed", "true")
    move_to(page, places[position])
    expect(card).not_to_contain_text(name)


def test_names_stand_on_groups_and_thumbnails_appear_when_zoomed_in(page: Page, icons_index: GalleryIndex) -> None:
    open_map(page)
    found = points(icons_index, "clip", Method.TSNE)
    expect(page.locator(".map-name").first).to_have_text(found.labels[found.names[0].label][0])
    boxes = names_on(page)
    covering = [(one, other) for one, other in combinations(boxes.items(), 2) if cover(one[1], other[1])]
    assert not covering
    assert boxes.keys() < {found.labels[each.label][0] for each in found.names}
    expect(page.locator(".map-over img")).to_have_count(0)
    for _ in range(3):
        page.get_by_role("button", name="Zoom in").click()
    expect(page.locator(".map-over img").first).to_be_visible()
    loaded = "images => Promise.all(images.map(each => each.decode().then(() => each.naturalWidth)))"
    widths = page.locator(".map-over img").evaluate_all(loaded)
    assert names_on(page).keys() - boxes.keys(), "there is room for more names"
    assert 0 < len(widths) < 200
    assert min(widths) > 100
    before = page.locator(".map-frame").evaluate("frame => frame.scrollLeft")
    page.locator(".map-frame").hover(position={"x": 300, "y": 200})
    page.mouse.down()
    page.mouse.move(0, 300, steps=5)
    page.mouse.up()
    expect(page.locator("#viewer dialog")).to_be_hidden()  # a drag opens nothing
    assert page.locator(".map-frame").evaluate("frame => frame.scrollLeft") > before
    page.get_by_role("button", name="Show all").click()
    expect(page.locator(".map-over img")).to_have_count(0)


def test_points_move_to_another_layout(page: Page, browser: Browser, address: str, icons_index: GalleryIndex) -> None:
    """Unless the visitor has asked for less motion."""
    script = """() => new Promise(done => {
        const canvas = document.querySelector("canvas.map"), ink = canvas.getContext("2d"), seen = new Set();
        document.querySelector("#map_features input[value=pixels]").click();
        const look = () => {
            const { data } = ink.getImageData(0, 0, canvas.width, canvas.height);
            let sum = 0;
            for (let i = 3; i < data.length; i += 4) if (data[i]) sum = (sum * 31 + i) % 1000000007;
            seen.add(sum);
            const there = document.querySelector("#map_note").textContent.includes("Raw pixels");
            if (there && performance.now() > until) done(seen.size);
            else requestAnimationFrame(look);
        };
        const until = performance.now() + 3000;
        look();
    })"""
    open_map(page)
    assert page.evaluate(script) > 3
    context = browser.new_context(reduced_motion="reduce")
    calm = context.new_page()
    calm.set_default_timeout(PATIENCE)
    calm.goto(address)
    expect(hits(calm).first).to_be_visible()
    open_map(calm)
    assert calm.evaluate(script) <= 3
    context.close()


@pytest.fixture
def hostile_page(tmp_path: Path, browser: Browser, queries: Path) -> Iterator[Page]:
    """A page over a gallery with HTML and templates in its labels and names, and with maps by both methods."""
    for number in range(8):
        folder = tmp_path / "pictures" / (HOSTILE if number % 2 else "tame")
        folder.mkdir(parents=True, exist_ok=True)
        colour = (30 * number, 255 - 30 * number, 90 + 7 * number)
        Image.new("RGB", (50, 50), colour).save(folder / f"{number} {HOSTILE}.png")
    root = tmp_path / "index"
    arguments = ["--index", str(root), "--dataset", str(tmp_path / "pictures"), "--model", "mini", "--map", "tsne"]
    assert index_builder.main(arguments) == 0
    searcher = Searcher(Indexes(root))
    with served(searcher, settings_of(root)) as address:
        context = browser.new_context()
        opened = context.new_page()
        opened.set_default_timeout(PATIENCE)
        opened.goto(address)
        yield opened
        context.close()
    searcher.indexes.close()


def test_names_and_labels_are_rendered_as_text(hostile_page: Page) -> None:
    open_map(hostile_page)
    expect(hostile_page.locator(".map-legend button")).to_have_count(2)
    expect(hostile_page.locator(".map-legend")).to_contain_text(HOSTILE)
    hostile_page.locator(".map-frame").focus()
    hostile_page.keyboard.press("ArrowRight")
    card = hostile_page.locator(".map-card")
    expect(card).to_contain_text(HOSTILE)
    expect(hostile_page.locator("#map [aria-live]")).to_contain_text(HOSTILE)
    hostile_page.keyboard.press("Enter")
    expect(hostile_page.locator("#viewer h2")).to_contain_text(HOSTILE)
    hostile_page.get_by_role("button", name="Search with this").press("Enter")
    expect(hostile_page.locator(".map-legend")).to_contain_text("your query")
    expect(hostile_page.locator("#map_note")).to_contain_text("t-SNE keeps neighbours together")
    toggle(hostile_page, "map_method", "pca")
    expect(hostile_page.locator("#map_note")).to_contain_text("of the variance")
    expect(hostile_page.locator(".map-legend")).to_contain_text("your query")
    assert hostile_page.locator("#map img").count() == 1, "the thumbnail is the only picture"
    assert hostile_page.evaluate("window.hacked") is None


def test_dark_theme_on_a_phone(browser: Browser, address: str, queries: Path, icons_index: GalleryIndex) -> None:
    context = browser.new_context(viewport={"width": 390, "height": 844}, has_touch=True)
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    page.goto(f"{address}?__theme=dark")
    upload(page, queries / "castle.png")
    expect(hits(page).first).to_be_visible()
    open_map(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    expect(page.locator("#map_note")).to_contain_text("◆ Your query")
    seen = page.locator("canvas.map").evaluate(
        """canvas => new Promise(done => requestAnimationFrame(() => {
            const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
            const found = {};
            for (let i = 0; i < data.length; i += 4) if (data[i + 3] > 200)
                found[[data[i], data[i + 1], data[i + 2]]] = (found[[data[i], data[i + 1], data[i + 2]]] || 0) + 1;
            done(Object.entries(found));
        }))"""
    )
    shades = np.array([[int(part) for part in colour.split(",")] for colour, _ in seen])
    for colour in DARK:
        wanted = np.frombuffer(bytes.fromhex(colour[1:]), np.uint8)
        assert np.abs(shades - wanted).max(axis=1).min() <= 6, colour
    page_colour = page.locator(".map-box").evaluate("c => getComputedStyle(c).backgroundColor")
    assert page_colour == "rgb(15, 23, 42)"
    # The first tap shows a picture, the second opens it.
    places = expected_positions(page, icons_index)
    x, y = places[most_isolated(places)].tolist()
    spot = {"x": x, "y": y}
    page.locator(".map-frame").tap(position=spot)
    expect(page.locator(".map-card")).to_be_visible()
    name = page.locator(".map-card").inner_text().split(" · ")[0]
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.locator(".map-frame").tap(position=spot)
    expect(page.locator("#viewer h2")).to_have_text(name)
    context.close()


def test_hovering_over_a_hit_shows_its_rank(page: Page, icons: Path, icons_index: GalleryIndex) -> None:
    open_map(page)
    places = expected_positions(page, icons_index)
    position = most_isolated(places)
    search_with_point(page, places[position])
    expect(page.locator("#map_note")).to_contain_text("◆ Your query.")
    hits = marks(Searcher(Indexes(icons)), icons_index, Query(position=position), Method.PCA).hits[1:]
    distances = np.linalg.norm(places[[hit.position for hit in hits], None] - places, axis=2)
    distances[distances == 0] = np.inf
    hit = hits[int(distances.min(axis=1).argmax())]
    move_to(page, places[hit.position])
    expect(page.locator(".map-card")).to_have_text(f"{name_of(hit)} · {hit.label} · result {hit.rank}")
