"""The page serves the thumbnail files that the builder wrote."""

import urllib.request
from pathlib import Path
from urllib.parse import unquote, urljoin

import pytest
from gradio.utils import get_upload_folder
from PIL import Image
from playwright.sync_api import Page, expect

from retrieval.search.searcher import Searcher
from tests.support.browsing import captions, choose_features, details, hits, toggle, upload
from tests.support.waiting import PATIENCE

pytestmark = pytest.mark.browser


def uploaded_files() -> set[Path]:
    return {path for path in Path(get_upload_folder()).rglob("*") if path.is_file()}


def test_results_are_served_from_the_index_without_encoding_pictures(
    page: Page, address: str, page_searcher: Searcher, queries: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded, save, before = [], Image.Image.save, uploaded_files()
    monkeypatch.setattr(
        Image.Image, "save", lambda self, *args, **named: encoded.append(args) or save(self, *args, **named)
    )
    upload(page, queries / "pizza.png")
    expect(hits(page).first).to_contain_text("1. pizza")
    first = captions(page)
    toggle(page, "metric", "l1")
    toggle(page, "engine", "chroma")
    choose_features(page, "pixels", "clip")
    expect(details(page, "pixels")).to_contain_text("Score: L1 =")
    expect(details(page, "pixels")).to_contain_text("ChromaDB")
    assert captions(page, "pixels") != first
    index = page_searcher.indexes.get()
    for image in page.locator("#results .hit img").all():
        source = urljoin(address, image.get_attribute("src"))
        assert str(index.snapshot.parent) not in unquote(source), "reveals the location of the index"
        path = index.thumbnails.joinpath(*source.rsplit("/", 2)[1:])
        assert index.at_thumbnail(path) is not None, source
        with urllib.request.urlopen(source, timeout=PATIENCE) as answer:
            assert answer.read() == path.read_bytes()
            assert "max-age=86400" in answer.headers["Cache-Control"]
    assert not encoded
    assert {path.name for path in uploaded_files() - before} <= {"pizza.png"}, "only the upload is stored"
