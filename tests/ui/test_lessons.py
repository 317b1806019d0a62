"""The guided lessons on the bundled photos."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import gradio as gr
import numpy as np
import pytest
from playwright.sync_api import Browser, expect

from retrieval.metrics import Metric
from retrieval.pictures.loading import load_picture
from retrieval.search.query import Query
from retrieval.search.searcher import Searcher
from retrieval.storage.catalog import Indexes
from retrieval.ui.lessons import LESSONS, TURNED, Classroom
from retrieval.ui.page import build_page
from retrieval.ui.tabs.lessons import PREDICT, LessonsTab
from retrieval.ui.widgets.thumbnails import Thumbnails
from tests.support.browsing import PATIENCE, open_tab, served, settings_of
from tests.support.cache import copy_index
from tests.support.paths import ROOT

CASTLE = ROOT / "assets" / "photos" / "queries" / "chateau-de-chenonceau.jpg"
RIGHT = {"photos": 1, "copies": 0, "metrics": 0, "rotation": 1, "engines": 0, "words": 1}


@pytest.fixture(scope="module")
def searcher(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Searcher]:
    """A searcher over the bundled photos."""
    searcher = Searcher(Indexes(copy_index(tmp_path_factory.mktemp("bundled-photos"), "--model", "mini")))
    yield searcher
    searcher.indexes.close()


@pytest.fixture(scope="module")
def room(searcher: Searcher) -> Classroom:
    return Classroom(searcher, Thumbnails())


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda lesson: lesson.name)
def test_each_lesson_finds_its_answer(room: Classroom, lesson):
    answer = lesson.answer(room)
    assert answer.right == RIGHT[lesson.name]
    assert len(answer.lanes) >= 2 and all(lane["message"] or lane["hits"] for lane in answer.lanes)
    picture = lesson.picture(room)
    assert (picture is None) == (not lesson.about)


def test_figures_in_the_text_are_those_of_the_searches(room: Classroom, searcher: Searcher):
    index = room.index
    texts = {lesson.name: lesson.answer(room).text for lesson in LESSONS}
    label = room.example().label
    labels, found = np.array(index.labels), {}
    for name in ("clip", "pixels"):
        for metric in (Metric.COSINE, Metric.L2):
            [vector] = searcher.embedder.feature_set(index, name).embed_query([load_picture(CASTLE)])
            matrix = index.vectors(name)
            if metric is Metric.COSINE:
                scores = matrix @ vector / np.linalg.norm(matrix, axis=1)
            else:
                scores = -np.linalg.norm(matrix - vector, axis=1)
            found[name, metric] = np.argsort(-scores, kind="stable")[:8]
    right = {name: int((labels[found[name, Metric.COSINE]] == label).sum()) for name in ("clip", "pixels")}
    assert f"CLIP features find {right['clip']} of 8, raw pixels {right['pixels']}." in texts["photos"]
    same = len({*found["pixels", Metric.COSINE].tolist()} & {*found["pixels", Metric.L2].tolist()})
    assert f"there, {same} of 8 results are the same" in texts["metrics"]
    kept = []
    for name in ("clip", "pixels"):
        turned = searcher.search(Query(CASTLE, distortion=TURNED, features=name, top_k=8), index)
        kept.append(len({hit.position for hit in turned.hits} & {*found[name, Metric.COSINE].tolist()}))
    assert "CLIP features keep {} of their 8 results, raw pixels {}.".format(*kept) in texts["rotation"]


@pytest.fixture(scope="module")
def tab(searcher: Searcher) -> LessonsTab:
    """The tab as the page makes it."""
    page = build_page(searcher, "about")
    return next(fn.fn.__self__ for fn in page.fns.values() if isinstance(getattr(fn.fn, "__self__", None), LessonsTab))


def test_an_answer_needs_one_of_the_predictions(tab: LessonsTab):
    for prediction in (None, "", "something else", ["Both"]):
        assert tab.show("copies", prediction) == {tab.answer: PREDICT}
    right, wrong = LESSONS[1].choices[:2]
    shown = tab.show("copies", right)
    assert shown[tab.answer].startswith(f"### ✓ You were right: {right}")
    lanes = json.loads(shown[tab.results])["lanes"]
    assert [hit["note"] for hit in lanes[0]["hits"] if hit["correct"]] == ["the original"]
    said = tab.show("copies", wrong)[tab.answer]
    assert said.startswith(f"### ✗ Not quite. You said: {wrong}. The answer is: {right}")


def test_unknown_lessons_stand_for_the_first_one(tab: LessonsTab):
    assert tab.ask("no such lesson", "")[tab.question] == LESSONS[0].question
    assert tab.ask("photos", "photos") == gr.skip()  # the answer that is shown stays


def test_tab_is_only_offered_with_the_bundled_photos(few_icons: Path):
    searcher = Searcher(Indexes(few_icons))
    page = build_page(searcher, "about")
    searcher.indexes.close()
    assert "Lessons" not in [block.label for block in page.blocks.values() if isinstance(block, gr.Tab)]


@pytest.mark.browser
def test_link_opens_a_lesson_and_the_address_follows_it(browser: Browser, searcher: Searcher) -> None:
    with served(searcher, settings_of(searcher.indexes.root)) as address:
        page = browser.new_page(viewport={"width": 390, "height": 844})
        page.set_default_timeout(PATIENCE)
        page.goto(f"{address}?lesson=copies")
        choices = page.locator("#lesson_prediction label")
        expect(choices).to_have_text(list(LESSONS[1].choices))
        expect(page.locator("#lesson_image img")).to_have_attribute("alt", LESSONS[1].about)
        expect(page.locator("#lesson_reveal")).to_be_disabled()
        choices.first.click()
        page.locator("#lesson_reveal").click()
        expect(page.locator("#lesson_answer")).to_contain_text("You were right: ")
        expect(page.locator("#lesson_results .lane")).to_have_count(2)
        expect(page.locator("#lesson_results .hit.correct")).to_have_count(1)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        page.locator("#lesson_next").click()
        expect(page.locator("#lesson_question")).to_have_text(re.sub(r"[*`]", "", LESSONS[2].question))
        expect(page.locator("#lesson_next")).to_be_hidden()
        page.locator("#lesson label").nth(3).click()
        expect(page.locator("#lesson_question")).to_contain_text("rotated by 15 degrees")
        expect(page.locator("#lesson_results .lane")).to_have_count(0)
        expect(page).to_have_url(re.compile(r"[?&]lesson=rotation(&|$)"))
        open_tab(page, "Search")
        expect(page).not_to_have_url(re.compile("lesson="))
        open_tab(page, "Lessons")
        expect(page).to_have_url(re.compile(r"[?&]lesson=rotation(&|$)"))
        page.close()
