"""The Map tab in a real browser: hovering, clicking, keys, and captions that contain code."""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect

import index_builder
from retrieval.analysis.explanation import name_of
from retrieval.analysis.gallery_map import COLOURED, DARK, LIGHT, OTHER, OTHER_LABELS, marks, ranked_labels
from retrieval.search.query import Query
from retrieval.search.searcher import Searcher
from retrieval.storage.catalog import Indexes
from retrieval.storage.projection import Method
from retrieval.storage.reader import GalleryIndex
from retrieval.ui.tabs.map import MapTab
from tests.support.browsing import PATIENCE, open_tab, served, settings_of, toggle, upload

pytestmark = pytest.mark.browser

MARGIN = 28  # px around the whole map, as in map.js
HOSTILE = "${window.hacked=1}{{x}}`<img src=x onerror=window.hacked=1>"


def open_map(page: Page) -> None:
    open_tab(page, "Map")
    expect(page.locator(".map-legend button").first).to_be_visible()
    page.locator("canvas.map").scroll_into_view_if_needed()


def canvas_positions(page: Page, index: GalleryIndex, features: str = "clip") -> np.ndarray:
    """Compute the expected canvas position of each picture without a query: fitted, y upwards, equal scales."""
    places = index.map(features, Method.PCA).coordinates.astype(np.float64)
    box = page.locator("canvas.map").evaluate("c => [c.clientWidth, c.clientHeight]")
    low, high = places.min(axis=0), places.max(axis=0)
    scale = ((np.array(box) - 2 * MARGIN) / (high - low)).min()
    return np.array(box) / 2 + (places - (low + high) / 2) * scale * [1, -1]


def most_isolated(places: np.ndarray) -> int:
    """Return the picture that is farthest from its nearest neighbour, so that hovering over it is unambiguous."""
    distances = np.linalg.norm(places[:, None] - places, axis=2)
    np.fill_diagonal(distances, np.inf)
    nearest = distances.min(axis=1)
    assert nearest.max() > 8
    return int(nearest.argmax())


def move_to(page: Page, place: np.ndarray) -> None:
    page.locator("canvas.map").hover(position={"x": float(place[0]), "y": float(place[1])})


@pytest.fixture(scope="module")
def icons_index(icons: Path) -> GalleryIndex:
    return Indexes(icons).get()


def test_hovering_shows_a_picture_and_clicking_makes_it_the_query(
    page: Page,
    icons_index: GalleryIndex,
) -> None:
    open_map(page)
    expect(page.locator("#map_note")).to_contain_text(re.compile(r"1,566 images, CLIP features.*% of the variance"))
    expect(page.locator("#map_note")).to_contain_text("Choose an image to start")
    places = canvas_positions(page, icons_index)
    position = most_isolated(places)
    entry = icons_index.entry(position)
    move_to(page, places[position])
    card = page.locator(".map-card")
    expect(card).to_have_text(f"{name_of(entry)} · {entry.label}")
    expect(card.locator("img")).to_be_visible()
    assert card.locator("img").evaluate("image => image.decode().then(() => image.naturalWidth)") > 100
    page.locator("canvas.map").click(position={"x": float(places[position][0]), "y": float(places[position][1])})
    expect(page.locator("#query img")).to_be_visible()
    expect(page.locator("#map_note")).to_contain_text("◆ Your query.")
    expect(card).to_have_text(f"{name_of(entry)} · {entry.label} · your query")
    open_tab(page, "Search")
    expect(page.locator("#results .caption-label").first).to_contain_text(f"1. {name_of(entry)} · 1.000")


def test_points_have_the_colour_of_their_label(page: Page, icons_index: GalleryIndex) -> None:
    open_map(page)
    places = canvas_positions(page, icons_index)
    position = most_isolated(places)
    place = [name for name, _ in ranked_labels(icons_index)].index(icons_index.entry(position).label)
    expected = bytes.fromhex((LIGHT[place % len(LIGHT)] if place < COLOURED else OTHER[False])[1:])
    page.wait_for_function(
        """([x, y, colour]) => {
            const canvas = document.querySelector("canvas.map"), ratio = canvas.width / canvas.clientWidth;
            const seen = canvas.getContext("2d").getImageData(Math.round(x * ratio), Math.round(y * ratio), 1, 1).data;
            // The browser divides by alpha, so values may be off by a few.
            return seen[3] > 150 && colour.every((value, i) => Math.abs(value - seen[i]) <= 6);
        }""",
        arg=[*places[position].tolist(), list(expected)],
    )
    expect(page.locator(".map-legend button")).to_have_count(COLOURED + 1)
    expect(page.locator(".map-legend button").first).to_have_text(" ".join(map(str, ranked_labels(icons_index)[0])))
    expect(page.locator(".map-legend button").last).to_contain_text(OTHER_LABELS)


def test_picture_can_be_selected_by_keyboard(page: Page, queries: Path) -> None:
    upload(page, queries / "cat.png")
    expect(page.locator("#results .caption-label").first).to_be_visible()
    open_map(page)
    page.locator("#map_method input, #map_features input").first.focus()
    for _ in range(4):  # at most: radios, then the canvas
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.matches('canvas.map')"):
            break
    card = page.locator(".map-card")
    expect(card).to_have_text("your query")
    outline = page.locator("canvas.map").evaluate("c => getComputedStyle(c).outlineStyle")
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
    expect(card).to_have_text(re.compile(r" · your query$"))
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
    expect(page.locator("#map_note")).to_contain_text("Your image without the text")
    page.locator("#query button[aria-label='Remove Image']").click()
    expect(page.locator("#map_note")).to_contain_text("A text has no place here")
    expect(page.locator(".map-legend")).not_to_contain_text("your query")
    toggle(page, "map_features", "pixels")
    expect(page.locator("#map_note")).to_contain_text("Text search needs CLIP features")
    expect(page.locator("#map_note")).to_contain_text("Raw pixels: each image is 768 numbers")


def test_closed_map_is_not_redrawn_for_each_query(page: Page, queries: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[str] = []
    draw = MapTab._drawn
    monkeypatch.setattr(MapTab, "_drawn", lambda *args: drawn.append("drawn") or draw(*args))
    upload(page, queries / "lion.png")
    expect(page.locator("#results .caption-label").first).to_be_visible()
    toggle(page, "metric", "l1")
    expect(page.locator("#explanation")).to_contain_text("Score: L1")
    page.locator("#search").click()
    expect(page.locator(".pending, .generating")).to_have_count(0)
    assert not drawn
    open_map(page)
    expect(page.locator("#map_note")).to_contain_text("The 12 closest")
    assert drawn


def test_zoom_and_label_filter(page: Page, icons_index: GalleryIndex) -> None:
    open_map(page)
    places = canvas_positions(page, icons_index)
    position = most_isolated(places)
    card = page.locator(".map-card")
    name = name_of(icons_index.entry(position))
    move_to(page, places[position])
    expect(card).to_contain_text(name)
    page.get_by_role("button", name="Zoom in").click()
    middle = np.array(page.locator("canvas.map").evaluate("c => [c.clientWidth / 2, c.clientHeight / 2]"))
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
    with served(searcher, settings_of(root), queries) as address:
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
    canvas = hostile_page.locator("canvas.map")
    canvas.focus()
    hostile_page.keyboard.press("ArrowRight")
    card = hostile_page.locator(".map-card")
    expect(card).to_contain_text(HOSTILE)
    expect(hostile_page.locator("#map [aria-live]")).to_contain_text(HOSTILE)
    hostile_page.keyboard.press("Enter")
    expect(card).to_contain_text("your query")
    toggle(hostile_page, "map_method", "tsne")
    expect(hostile_page.locator("#map_note")).to_contain_text("t-SNE keeps neighbours together")
    expect(hostile_page.locator(".map-legend")).to_contain_text("your query")
    assert hostile_page.locator("#map img").count() == 1, "the thumbnail is the only picture"
    assert hostile_page.evaluate("window.hacked") is None


def test_dark_theme_on_a_phone(browser: Browser, address: str, queries: Path) -> None:
    context = browser.new_context(viewport={"width": 390, "height": 844}, has_touch=True)
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    page.goto(f"{address}?__theme=dark")
    upload(page, queries / "castle.png")
    expect(page.locator("#results .caption-label").first).to_be_visible()
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
    page_colour = page.locator("canvas.map").evaluate("c => getComputedStyle(c).backgroundColor")
    assert page_colour == "rgb(15, 23, 42)"
    # The first tap shows a picture, the second selects it.
    centre = page.locator("canvas.map").evaluate("c => [c.clientWidth / 2, c.clientHeight / 2]")
    spot = {"x": centre[0], "y": centre[1]}
    page.locator("canvas.map").tap(position=spot)
    expect(page.locator(".map-card")).to_be_visible()
    name = page.locator(".map-card").inner_text().split(" · ")[0]
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.locator("canvas.map").tap(position=spot)
    expect(page.locator(".map-card")).to_have_text(re.compile(re.escape(name) + ".* · your query"))
    context.close()


def test_hovering_over_a_hit_shows_its_rank(page: Page, icons: Path, icons_index: GalleryIndex) -> None:
    open_map(page)
    places = canvas_positions(page, icons_index)
    position = most_isolated(places)
    page.locator("canvas.map").click(position={"x": float(places[position][0]), "y": float(places[position][1])})
    expect(page.locator("#map_note")).to_contain_text("◆ Your query.")
    hits = marks(Searcher(Indexes(icons)), icons_index, Query(position=position), Method.PCA).hits[1:]
    distances = np.linalg.norm(places[[hit.position for hit in hits], None] - places, axis=2)
    distances[distances == 0] = np.inf
    hit = hits[int(distances.min(axis=1).argmax())]
    move_to(page, places[hit.position])
    expect(page.locator(".map-card")).to_have_text(f"{name_of(hit)} · {hit.label} · result {hit.rank}")
