"""Why an image is a result: contributions add up to the score, and what is highlighted matters to it."""

import json

import numpy as np
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image, ImageDraw

from retrieval.analysis import why
from retrieval.analysis.why import GRID, SUMMED, Explainer, HeatMap, Method, _pixels, covered, highlighted
from retrieval.cli import main
from retrieval.errors import PictureError, QueryError
from retrieval.metrics import Metric, score_pairs
from retrieval.search.query import Query
from retrieval.search.searcher import Searcher
from retrieval.storage.catalog import Indexes
from tests.support.cache import copy_index
from tests.support.formulas import reference
from tests.support.forwards import ForwardCounter
from tests.support.nearly import nearly
from tests.support.paths import ROOT

QUERIES = ROOT / "assets" / "photos" / "queries"
FEATURES = "pixels,color,edges,cnn,clip"
SHARES = (0.1, 0.2, 0.3)  # of the cells, which are removed


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An index folder with the bundled photos and all built-in feature types."""
    flags = ("--model", "mini", "--dataset", "photos", "--features", FEATURES)
    return copy_index(tmp_path_factory.mktemp("bundled"), *flags)


@pytest.fixture(scope="module")
def searcher(folder):
    searcher = Searcher(Indexes(folder))
    yield searcher
    searcher.indexes.close()


@pytest.fixture(scope="module")
def explainer(searcher):
    return Explainer(searcher)


def squared(metric, score):
    return score**2 if metric is Metric.L2 else score


@pytest.mark.parametrize("metric", sorted(SUMMED))
@pytest.mark.parametrize("side", [1, 5, 16, 100])
def test_pixels_add_up_to_the_score(metric, side):
    a, b = np.random.default_rng(side).random((2, side * side * 3), np.float32)
    pixels = _pixels(metric, a, b, side)
    assert pixels.shape == (min(side, 64),) * 2
    assert pixels.sum() == pytest.approx(squared(metric, reference(metric, a[None], b[None])[0, 0]), rel=1e-6)


@pytest.mark.parametrize("metric", sorted(SUMMED))
def test_black_and_white_images_have_finite_contributions(metric):
    black, white = np.zeros(12, np.float32), np.ones(12, np.float32)
    assert np.isfinite(_pixels(metric, black, white, 2)).all()


@pytest.mark.parametrize("metric", sorted(SUMMED))
def test_map_of_raw_pixels_is_exact_for_a_search(searcher, explainer, metric):
    query = Query(picture=QUERIES / "horses.jpg", features="pixels", metric=metric, top_k=3)
    for hit in searcher.search(query).hits:
        found, _ = explainer.why(query, hit.position)
        assert found.method is Method.PIXELS
        assert found.score == pytest.approx(hit.score, rel=1e-6)
        assert found.query.total == pytest.approx(squared(metric, hit.score), rel=1e-6)


@pytest.mark.parametrize("metric", sorted(SUMMED))
@pytest.mark.parametrize("features", ["clip", "cnn"])
def test_places_add_up_to_the_score_of_their_mean(searcher, explainer, features, metric):
    query = Query(picture=QUERIES / "horses.jpg", features=features, metric=metric, top_k=1)
    [hit] = searcher.search(query).hits
    found, picture = explainer.why(query, hit.position)
    assert found.method is Method.PLACES
    index = searcher.indexes.get()
    feature_set = searcher.embedder.feature_set(index, features)
    places = feature_set.places(picture).astype(np.float64)
    mean = places.mean(axis=(0, 1))
    vector = mean / np.linalg.norm(mean)
    # The model computes in bfloat16 on some processors.
    assert vector @ feature_set.embed([picture])[0] == pytest.approx(1, abs=1e-3)
    score = score_pairs(metric, vector, index.vectors(features)[hit.position][None])[0]
    assert found.query.total == pytest.approx(squared(metric, score), rel=1e-6)
    assert found.query.contributions.shape == found.result.contributions.shape == places.shape[:2]


def test_map_of_a_long_image_covers_what_the_model_sees(searcher):
    feature_set = searcher.embedder.feature_set(searcher.indexes.get(), "clip")
    assert feature_set.seen(Image.new("RGB", (400, 200))) == pytest.approx((0.25, 0, 0.75, 1))
    assert feature_set.seen(Image.new("RGB", (100, 1000))) == pytest.approx((0, 0.45, 1, 0.55))
    picture = Image.new("RGB", (400, 200), "white")
    shown = highlighted(picture, HeatMap(np.array([[0.0, 1.0]]), (0.25, 0, 0.75, 1)), Metric.COSINE)
    lines = np.asarray(shown)[100, :, 0]
    assert shown.size == picture.size
    assert lines[:100].max() == lines[300:].max() < 100 < lines[290]


@pytest.mark.parametrize("features", ["pixels", "clip"])
def test_parts_are_covered_for_a_metric_that_is_not_a_sum_over_them(explainer, features, monkeypatch):
    monkeypatch.setattr(why, "SUMMED", frozenset({Metric.COSINE}))
    found, _ = explainer.why(Query(picture=QUERIES / "horses.jpg", features=features, metric=Metric.L1), 0)
    assert found.method is Method.COVERING
    assert found.query.contributions.any()


def test_covering_an_empty_part_changes_nothing(searcher, explainer, tmp_path):
    """Only one quarter of the query image has any edges."""
    index = searcher.indexes.get()
    query = Image.new("RGB", (280, 280), "white")
    draw = ImageDraw.Draw(query)
    for x in range(0, 140, 20):
        draw.line((x, 140, x, 280), "black", 4)
    path = tmp_path / "query.png"
    query.save(path)
    asked = Query(picture=path, features="edges")
    hit = searcher.search(asked).hits[0]
    found, _ = explainer.why(asked, hit.position, index)
    assert found.method is Method.COVERING
    cells = found.query.contributions
    assert cells.shape == (GRID, GRID)
    assert not cells[0].any()  # farther away than the blur reaches
    assert not cells[:, -1].any()
    assert np.abs(cells[4:, :3]).max() > 0.01


def test_covered_copies_differ_in_one_cell_each():
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 75, 3), np.uint8))
    changed = [np.asarray(copy) != np.asarray(picture) for copy in covered(picture)]
    assert len(changed) == GRID * GRID
    union = np.sum([each.any(axis=2) for each in changed], axis=0)
    assert union.max() == 1  # no pixel is covered twice
    assert union.mean() > 0.95


def test_distances_highlight_what_is_alike():
    heat = HeatMap(np.array([[0.0, 1.0], [2.0, 3.0]]))
    assert heat.brightness(Metric.L1).argmax() == 0
    assert heat.brightness(Metric.COSINE).argmax() == 3
    assert not HeatMap(np.ones((3, 3))).brightness(Metric.L1).any()


def test_text_has_a_map_of_the_result_only(searcher, explainer):
    query = Query(text="castle", features="clip")
    hit = searcher.search(query).hits[0]
    found, picture = explainer.why(query, hit.position)
    assert (found.query, picture) == (None, None)
    assert found.score == pytest.approx(hit.score)
    assert found.result.total == pytest.approx(hit.score, abs=0.01)  # of the thumbnail


def test_image_of_the_gallery_can_be_the_query(searcher, explainer):
    query = Query(position=3, features="pixels")
    hit = searcher.search(query).hits[0]
    assert explainer.why(query, hit.position)[0].query.total == pytest.approx(hit.score, rel=1e-6)


def test_another_metric_runs_no_model(searcher, explainer):
    feature_set = searcher.embedder.feature_set(searcher.indexes.get(), "clip")
    query = Query(picture=QUERIES / "the-sun.jpg", features="clip")
    explainer.why(query, 5)
    counter = ForwardCounter()
    hook = feature_set._model.vision_model.register_forward_pre_hook(counter, with_kwargs=True)
    try:
        explainer.why(Query(picture=QUERIES / "the-sun.jpg", features="clip", metric=Metric.L1), 5)
        assert counter.pictures == []
        explainer.why(query, 6)
        assert counter.pictures == [1]  # only the other result
    finally:
        hook.remove()


def test_check_stops_a_job(searcher, explainer):
    def check():
        raise QueryError("late")

    with pytest.raises(QueryError, match="late"):
        explainer.why(Query(picture=QUERIES / "gorilla.jpg", features="color"), 0, check=check)


def removed(picture, heat, cells):
    """Return a copy in which some cells of the map have the mean colour of the image."""
    left, top, right, bottom = heat.region
    rows, columns = heat.contributions.shape
    ys = np.linspace(top, bottom, rows + 1) * picture.height
    xs = np.linspace(left, right, columns + 1) * picture.width
    pixels = np.array(picture)
    mean = pixels.mean(axis=(0, 1))
    for cell in cells:
        row, column = divmod(int(cell), columns)
        pixels[round(ys[row]) : round(ys[row + 1]), round(xs[column]) : round(xs[column + 1])] = mean
    return Image.fromarray(pixels)


def losses(searcher, explainer, features, pairs):
    """Return the mean share of the score lost by removing cells by the map, at random, and from the centre: (n, 3)."""
    index, random = searcher.indexes.get(), np.random.default_rng(0)
    feature_set = searcher.embedder.feature_set(index, features)
    paths = sorted(QUERIES.glob("*.jpg"))
    found = []
    for number in range(pairs):
        query = Query(picture=paths[number % len(paths)], features=features, top_k=1 + number // len(paths))
        hit = searcher.search(query, index).hits[-1]
        why, picture = explainer.why(query, hit.position, index)
        rows, columns = why.query.contributions.shape
        row, column = np.indices((rows, columns))
        far = np.hypot(row - (rows - 1) / 2, column - (columns - 1) / 2)
        orders = [
            np.argsort(-why.query.contributions, axis=None),
            random.permutation(rows * columns),
            np.argsort(far, axis=None, kind="stable"),
        ]
        copies = [
            removed(picture, why.query, order[: round(share * len(order))]) for order in orders for share in SHARES
        ]
        vectors = feature_set.embed_query([picture, *copies])
        whole, *scores = score_pairs(Metric.COSINE, index.vectors(features)[hit.position], vectors)
        found.append(1 - np.reshape(scores, (len(orders), len(SHARES))).mean(axis=1) / whole)
    return np.array(found)


@pytest.mark.parametrize("features", ["clip"])
def test_highlighted_parts_matter_more_than_others(searcher, explainer, features):
    by_map, at_random, central = losses(searcher, explainer, features, 10).mean(axis=0)
    assert by_map > max(at_random, central)


@pytest.mark.endurance
@pytest.mark.parametrize("features", ["clip"])
def test_highlighted_parts_matter_more_than_others_in_100_pairs(searcher, explainer, features):
    """The 95% intervals of map and random cells do not overlap, and that of map minus centre is above 0.

    The images of a gallery show their subject in the middle, so the centre is a strong rival: against it, only the
    interval of the paired differences is narrow enough.
    """
    found = losses(searcher, explainer, features, 100)
    found = np.column_stack([found, found[:, 0] - found[:, 2]])
    means, halves = found.mean(axis=0), 1.96 * found.std(axis=0, ddof=1) / np.sqrt(len(found))
    print(f"{features}: {np.round(means, 3)} +- {np.round(halves, 3)}")
    low, high = means - halves, means + halves
    assert low[0] > high[1]
    assert low[3] > 0


def test_command_prints_and_draws_both_maps(folder, searcher, capsys, tmp_path):
    path, plot = QUERIES / "scissors.jpg", tmp_path / "map.png"
    hit = searcher.search(Query(picture=path, features="pixels")).hits[0]
    assert main(["why", str(path), hit.id, "--features", "pixels", "--save", str(plot), "--index", str(folder)]) == 0
    said = capsys.readouterr().out
    assert "exact contribution of each pixel" in said
    assert said.count("16 x 16 cells") == 2
    with Image.open(plot) as drawn:
        assert drawn.width > 600
    assert main(["why", str(path), "nothing", "--index", str(folder)]) == 2
    assert "has no image 'nothing'" in capsys.readouterr().err


@pytest.fixture(scope="module")
def client(address):  # the fixture
    return Client(address, verbose=False)


def test_endpoint_returns_the_same_as_the_command(client, page_searcher, capsys, icons, queries):
    path = queries / "lion.png"
    hit = page_searcher.search(Query(picture=path)).hits[0]
    answer = client.predict(image=handle_file(str(path)), id=hit.id, metric="l2", api_name="/why")
    assert main(["why", str(path), hit.id, "--metric", "l2", "--json", "--index", str(icons)]) == 0
    assert answer == nearly(json.loads(capsys.readouterr().out))
    assert answer["method"] == "places"


def test_endpoint_explains_a_text_and_reports_unknown_images(client, page_searcher):
    hit = page_searcher.search(Query(text="pizza")).hits[0]
    answer = client.predict(text="pizza", id=hit.id, api_name="/why")
    assert answer["query"] is None
    assert np.sum(answer["result"]["contributions"]) == pytest.approx(hit.score, abs=0.02)
    with pytest.raises(AppError, match="has no image"):
        client.predict(text="pizza", id="../../etc/passwd", api_name="/why")
    with pytest.raises(AppError, match="image is missing"):
        client.predict(id=hit.id, api_name="/why")


def test_damaged_image_is_reported(explainer, tmp_path):
    path = tmp_path / "broken.jpg"
    path.write_bytes((QUERIES / "horses.jpg").read_bytes()[:2000])
    with pytest.raises(PictureError, match="damaged"):
        explainer.why(Query(picture=path, features="pixels"), 0)
