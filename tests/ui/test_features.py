"""Galleries with different feature types, on one page."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from retrieval import index_builder
from retrieval.search.searcher import Searcher
from retrieval.storage.catalog import Indexes
from tests.features.test_vision import make
from tests.support.browsing import (
    PATIENCE,
    choose_features,
    details,
    hits,
    open_tab,
    served,
    settings_of,
    upload,
    wait_until_loaded,
)
from tests.support.builds import draw_classes

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A page with the gallery `a` of pixels and CLIP features, and the gallery `b` of colours and a DINOv2 model."""
    folder = tmp_path_factory.mktemp("two")
    model = make("dinov2", folder / "model")
    for name, features in (("a", "pixels,clip"), ("b", f"color,dino={model}")):
        flags = ["--dataset", str(draw_classes(folder / name, 6)), "--model", "mini", "--features", features]
        assert index_builder.main(["--index", str(folder / "index"), *flags]) == 0
    searcher = Searcher(Indexes(folder / "index"))
    with served(searcher, settings_of(folder / "index", "--no-build")) as address:
        yield address
    searcher.indexes.close()


@pytest.fixture
def page(context_of: Callable[..., BrowserContext], address: str) -> Iterator[Page]:
    page = context_of().new_page()
    page.set_default_timeout(PATIENCE)
    page.goto(address)
    wait_until_loaded(page)
    yield page
    page.close()


def choose(page: Page, gallery: str) -> None:
    page.locator("#gallery input").click()
    page.get_by_role("option", name=f"{gallery} (").click()


def test_page_offers_the_feature_types_of_the_gallery(page: Page, queries: Path) -> None:
    upload(page, queries / "fox.png")
    expect(page.locator("#features label")).to_have_text(["Raw pixels", "CLIP features"])
    expect(page.locator("#text textarea")).to_be_enabled()
    expect(details(page)).to_contain_text("mini")
    choose(page, "b")
    expect(page.locator("#features label")).to_have_text(["Colours", "dino features"])
    expect(page.locator("#features input[name=color]")).to_be_checked()
    expect(details(page, "color")).to_contain_text("no model")
    expect(page.locator("#text textarea")).to_be_disabled()
    expect(page.locator("#text")).to_contain_text("Off: No feature type of this gallery supports text.")
    choose_features(page, "dino")
    expect(details(page, "color")).to_have_count(0)
    expect(details(page, "dino")).to_contain_text("model (")
    expect(hits(page, "dino")).to_have_count(6)

    open_tab(page, "Compare")
    expect(page.locator(".comparison:visible")).to_have_count(6)
    expect(page.locator(".comparison:visible .strip.hits").first.locator(".thumbnail-item")).to_have_count(6)
    expect(page.locator("#baseline input")).to_have_value("Colours · Cosine = L2")
    open_tab(page, "Robustness")
    expect(page.locator("#withstood_dino")).to_contain_text("results kept")
    expect(page.locator("#withstood_color")).to_contain_text("results kept")
    expect(page.locator("#withstood_clip")).to_have_count(0)
    open_tab(page, "Map")
    expect(page.locator("#map_features label")).to_have_text(["Colours", "dino features"])
    choose(page, "a")
    expect(page.locator("#map_features label")).to_have_text(["CLIP features", "Raw pixels"])
    open_tab(page, "Search")
    expect(page.locator("#text textarea")).to_be_enabled()


def test_link_to_a_gallery_with_other_feature_types(page: Page, address: str) -> None:
    page.goto(f"{address}/?gallery=b&features=dino&id=even%2F000.png")
    expect(page.locator("#features input[name=dino]")).to_be_checked()
    expect(page.locator("#features input[name=color]")).not_to_be_checked()
    expect(details(page, "dino")).to_contain_text("model (")
    page.goto(f"{address}/?gallery=b&features=clip&id=even%2F000.png")
    expect(page.locator("[data-testid=toast-body]")).to_contain_text("has no clip features; it has color, dino")
    expect(page.locator("#features input[name=color]")).to_be_checked()
