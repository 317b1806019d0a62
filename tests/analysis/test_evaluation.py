import csv
import io
from dataclasses import replace
from itertools import pairwise, product

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from PIL import Image

from retrieval.analysis.evaluation import (
    Labelled,
    Result,
    average_precision,
    average_precision_of,
    evaluate,
    label_codes,
    leave_one_out,
    relevance,
    to_csv,
)
from retrieval.analysis.plots import PALETTE, TEXT, colour_of, plot_results
from retrieval.engines.chroma_folder import Collections
from retrieval.engines.exact import Scan
from retrieval.errors import GalleryError, PictureError, QueryError
from retrieval.features import FEATURES
from retrieval.metrics import Metric, closeness, score_pairs
from retrieval.search.embedding import QueryEmbedder
from retrieval.search.query import Query
from retrieval.ui.tabs.evaluate import best
from tests.support.published import publish_gallery

# Four classes, one picture that is the only one of its class, and five without a label.
LABELS = [f"class {i}" for i in np.random.default_rng(1).integers(0, 4, 40)] + ["alone"] + [""] * 5


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    chance = np.random.default_rng(0)
    pixels = chance.random((len(LABELS), 12), np.float32)
    clip = chance.normal(size=(len(LABELS), 8))
    clip = (clip / np.linalg.norm(clip, axis=1, keepdims=True)).astype(np.float32)
    indexes = publish_gallery(tmp_path_factory.mktemp("evaluation"), pixels, clip, LABELS)
    yield indexes.get()
    indexes.close()


def figures(index, features, metric, queries):
    """Compute P@1, P@5 and mAP in plain Python; each query has a vector, a label and its own position or None."""
    first, five, average = [], [], []
    labels = index.labels
    for vector, label, own in queries:
        near = closeness(metric, score_pairs(metric, vector, index.vectors(features)))
        ranking = [i for i in sorted(range(len(near)), key=lambda i: near[i]) if i != own]
        hits = [labels[i] == label for i in ranking]
        if label == "" or not any(hits):
            continue
        ranks = [rank for rank, hit in enumerate(hits, start=1) if hit]
        first.append(hits[0])
        five.append(sum(hits[:5]) / 5)
        average.append(sum(count / rank for count, rank in enumerate(ranks, start=1)) / len(ranks))
    return [sum(part) / len(part) for part in (first, five, average)]


def outside_queries():
    """Queries that are not in the gallery: with known labels, an unknown label, and no label."""
    chance, names = np.random.default_rng(2), ["class 0", "class 3", "alone", "unheard of", "", "class 1"]
    vectors = {
        "pixels": chance.random((len(names), 12), np.float32),
        "clip": chance.normal(size=(len(names), 8)).astype(np.float32),
    }
    return Labelled(vectors, label_codes(names, LABELS), np.full(len(names), -1)), names


@pytest.mark.parametrize(
    ("hits", "expected"),
    [
        ([1, 0, 0], 1),
        ([0, 0, 1], 1 / 3),
        ([1, 0, 1, 0, 0, 1], (1 + 2 / 3 + 3 / 6) / 3),
        ([1, 1, 1], 1),
        ([0, 1, 1, 0], (1 / 2 + 2 / 3) / 2),
    ],
)
def test_average_precision_of_known_hits(hits, expected):
    assert average_precision(np.array([hits], bool))[0] == pytest.approx(expected, abs=1e-15)


def test_average_precision_without_hits_is_nan():
    assert np.isnan(average_precision(np.zeros((1, 4), bool))[0])


def test_leave_one_out_matches_plain_python(index):
    queries = leave_one_out(index)
    for result in evaluate(index, queries):
        vectors = index.vectors(result.features)
        triples = [(vectors[i], LABELS[i], i) for i in range(len(LABELS))]
        expected = figures(index, result.features, result.metric, triples)
        assert [result.p_at_1, result.p_at_5, result.map] == pytest.approx(expected, abs=1e-12)


def test_labelled_queries_match_plain_python(index):
    queries, names = outside_queries()
    for result in evaluate(index, queries):
        triples = zip(queries.vectors[result.features], names, [None] * len(names), strict=True)
        expected = figures(index, result.features, result.metric, triples)
        assert [result.p_at_1, result.p_at_5, result.map] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    "queries", [leave_one_out, lambda index: outside_queries()[0]], ids=["leave-one-out", "labelled"]
)
def test_chroma_has_the_same_precision_on_a_small_gallery(index, queries):
    exact, chroma = (list(evaluate(index, queries(index), engine)) for engine in ("exact", "chroma"))
    for one, other in zip(exact, chroma, strict=True):
        assert (one.p_at_1, one.p_at_5) == pytest.approx((other.p_at_1, other.p_at_5), abs=1e-12)
        assert other.map is None


def test_leave_one_out_skips_pictures_without_a_match(index):
    asked = [LABELS[i] for i in leave_one_out(index).positions]
    assert asked == [label for label in LABELS if label.startswith("class")]


def test_leave_one_out_samples_without_replacement(index):
    positions = leave_one_out(index, sample=10).positions
    assert len(positions) == 10
    assert np.all(np.diff(positions) > 0)
    np.testing.assert_array_equal(positions, leave_one_out(index, sample=10).positions)


@pytest.mark.parametrize("metric", Metric)
def test_query_is_never_its_own_hit(metric):
    gallery = np.random.default_rng(0).random((6, 9), np.float32)
    different = np.arange(6)
    hits = next(relevance(Scan(gallery), metric, gallery, different, different, different))
    assert not hits.any()


def test_copy_of_the_query_is_a_hit():
    gallery = np.random.default_rng(0).random((4, 9), np.float32)
    gallery[3] = gallery[0]
    labels = np.array([7, 1, 2, 7])
    hits = next(relevance(Scan(gallery), Metric.L1, gallery[:1], np.array([0]), labels[:1], labels))
    np.testing.assert_array_equal(hits, [[True, False, False, False]])


def test_empty_and_unknown_labels_have_no_code():
    assert label_codes(["b", "", "unknown", "a"], ["a", "b", "", "b"]).tolist() == [1, -1, -1, 0]


def test_error_for_a_gallery_without_shared_labels(tmp_path):
    pixels, clip = np.eye(3, 12, dtype=np.float32), np.eye(3, 8, dtype=np.float32)
    indexes = publish_gallery(tmp_path, pixels, clip, ["a", "b", ""])
    with pytest.raises(GalleryError, match=r"no label that two images share.*--queries"):
        leave_one_out(indexes.get())


@pytest.mark.parametrize("position", [0, 7, 39])
def test_average_precision_of_an_item_matches_plain_python(index, position):
    label = LABELS[position]
    results = list(average_precision_of(index, QueryEmbedder(), Query(position=position), label))
    assert [(each.features, each.metric) for each in results] == list(product(FEATURES, Metric))
    for each in results:
        expected = figures(
            index, each.features, each.metric, [(index.vectors(each.features)[position], label, position)]
        )
        assert [each.p_at_1, each.p_at_5, each.map] == pytest.approx(expected, abs=1e-12)


def test_average_precision_of_a_picture_matches_plain_python(icons_searcher, queries):
    index, query, label = icons_searcher.indexes.get(), Query(queries / "cat.png", top_k=3), "animal-mammal"
    results = list(average_precision_of(index, icons_searcher.embedder, query, label))
    for each in results:
        vector = icons_searcher.embedder.embed(index, replace(query, features=each.features)).vector
        expected = figures(index, each.features, each.metric, [(vector, label, None)])
        assert [each.p_at_1, each.p_at_5, each.map] == pytest.approx(expected, abs=1e-12)
    best = {each.features: each.map for each in results if each.metric is Metric.COSINE}
    assert best["clip"] > 2 * best["pixels"]


def test_mean_over_items_equals_leave_one_out(index):
    queries = leave_one_out(index, sample=5)
    of_items = [average_precision_of(index, QueryEmbedder(), Query(position=i), LABELS[i]) for i in queries.positions]
    for result, *each in zip(evaluate(index, queries), *of_items, strict=True):
        for figure in ("p_at_1", "p_at_5", "map"):
            mean = np.mean([getattr(one, figure) for one in each])
            assert mean == pytest.approx(getattr(result, figure), abs=1e-12)


def test_average_precision_of_a_text_uses_clip_features_only(icons_searcher):
    index = icons_searcher.indexes.get()
    results = list(average_precision_of(index, icons_searcher.embedder, Query(text="pizza"), "food-prepared"))
    assert [(each.features, each.metric) for each in results] == list(product(["clip"], Metric))
    assert results[2].map > index.labels.count("food-prepared") / len(index)  # better than chance


def test_average_precision_ignores_label_filter_and_top_k(index):
    query = Query(position=0)
    narrow = replace(query, labels=(LABELS[1],), metric=Metric.L1, engine="chroma", top_k=1)
    both = [list(average_precision_of(index, QueryEmbedder(), each, LABELS[0])) for each in (query, narrow)]
    assert both[0] == both[1]


@pytest.mark.parametrize(
    ("query", "label", "error", "said"),
    [
        (Query(position=LABELS.index("alone")), "alone", QueryError, "No other image has the label 'alone'"),
        (Query(position=0), "ships", QueryError, "No image has the label 'ships'. Available labels: alone, class 0"),
        (Query(position=0), "", QueryError, "No image has the label ''"),
        (Query(position=10**6), "class 0", QueryError, "no item 1000000"),
        (Query(), "class 0", PictureError, "no query image"),
    ],
)
def test_error_when_average_precision_is_undefined(index, query, label, error, said):
    with pytest.raises(error, match=said):
        list(average_precision_of(index, QueryEmbedder(), query, label))


def test_chroma_may_return_fewer_than_five_hits(index, monkeypatch):
    nearest = Collections.nearest
    monkeypatch.setattr(Collections, "nearest", lambda *a: nearest(*a)[: 2 + int(a[2][0] * 1e3) % 4])
    for result in evaluate(index, leave_one_out(index), "chroma"):
        assert 0 <= result.p_at_5 <= 1


def test_csv_round_trip(index):
    results = [*evaluate(index, leave_one_out(index)), *evaluate(index, leave_one_out(index), "chroma")]
    rows = list(csv.DictReader(io.StringIO(to_csv(results))))
    back = [
        Result(
            row["features"],
            Metric(row["metric"]),
            row["engine"],
            float(row["p@1"]),
            float(row["p@5"]),
            float(row["map"]) if row["map"] else None,
        )
        for row in rows
    ]
    assert back == results


def test_csv_without_results_is_empty():
    assert to_csv([]).strip() == ""


@pytest.fixture
def some_results():
    """Eight results, the first perfect and the last with no hits."""
    figures = iter(np.linspace(1, 0, 24).reshape(8, 3).tolist())
    return [Result(features, metric, "exact", *next(figures)) for features, metric in product(FEATURES, Metric)]


def render(results, **options):
    """Return the figure, its visible texts, and its rendered image."""
    figure = plot_results(results, **options)
    file = io.BytesIO()
    figure.savefig(file, format="png")
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    texts = [
        text
        for axes in figure.axes
        for text in (axes.title, *axes.texts, *axes.get_xticklabels(), *axes.get_yticklabels())
        if text.get_text() and text.get_visible()
    ]
    return figure, texts, Image.open(file)


def test_plot_has_a_labelled_bar_for_each_result(some_results):
    figure, texts, _ = render(some_results)
    assert [axes.get_title() for axes in figure.axes] == ["P@1", "P@5", "mAP"]
    for axes, field in zip(figure.axes, ("p_at_1", "p_at_5", "map"), strict=True):
        values = [getattr(each, field) for each in some_results]
        assert [bar.get_width() for bar in axes.patches] == pytest.approx(values)
        assert [text.get_text() for text in axes.texts] == [f"{value:.3f}" for value in values]
    written = [text.get_text() for text in texts]
    assert {"Raw pixels · L1", "CLIP features · Correlation"} <= set(written)
    top, bottom = (figure.axes[0].transData.transform((0, row))[1] for row in (0, 7))
    assert top > bottom


def test_plot_text_is_neither_cut_off_nor_overlapping(some_results):
    figure, texts, image = render(some_results)
    for box in (text.get_window_extent() for text in texts):
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= image.width and box.y1 <= image.height
    for axes in figure.axes:
        numbers = [text.get_window_extent() for text in axes.texts]
        assert not any(a.overlaps(b) for a, b in pairwise(numbers))
        assert all(box.x1 <= axes.get_window_extent().x1 + 1 for box in numbers)
    assert min(text.get_fontsize() for text in texts) >= 10


def test_plot_omits_empty_panels_and_names_engines_if_several(some_results):
    chroma = [replace(each, engine="chroma", map=None) for each in some_results]
    assert [axes.get_title() for axes in plot_results(chroma).axes] == ["P@1", "P@5"]
    figure, texts, _ = render([*some_results, *chroma], average="AP")
    assert [axes.get_title() for axes in figure.axes] == ["P@1", "P@5", "AP"]
    assert "CLIP features · L2 · ChromaDB" in {text.get_text() for text in texts}
    assert not plot_results([]).axes


def test_sentence_names_the_best_metrics_after_rounding(some_results):
    assert best(some_results, "mAP") == "Highest mAP: 0.913 by raw pixels with L1; 0.391 by CLIP features with L1."
    equal = [replace(each, map=0.5 + 1e-5 * place) for place, each in enumerate(some_results[6:])]
    assert best(equal, "AP") == "Highest AP: 0.500 by CLIP features with Cosine and Correlation."
    assert best([replace(each, map=None) for each in some_results], "mAP") == ""


def luminance(colour):
    """Return the relative luminance as defined by WCAG 2.2."""
    channels = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
    return float(np.dot(channels, [0.2126, 0.7152, 0.0722]))


def contrast(one, other):
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize(("dark", "pages"), [(False, ["white"]), (True, ["#0f172a"]), (None, ["white", "#0f172a"])])
def test_plot_is_transparent_and_legible_on_the_page(some_results, dark, pages):
    _, texts, image = render(some_results, dark=dark)
    assert image.mode == "RGBA"
    assert all(image.getpixel((x, y))[3] == 0 for x in (0, image.width - 1) for y in (0, image.height - 1))
    for page in pages:
        assert all(contrast(text.get_color(), page) > (4.2 if dark is None else 7) for text in texts)
        assert all(contrast(colour, page) >= 3 for colour in (*PALETTE, *map(colour_of, FEATURES)))
    assert {text.get_color() for text in texts} == {TEXT[dark]}
