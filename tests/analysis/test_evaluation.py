import csv
import io
from dataclasses import replace
from itertools import pairwise, product

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgb
from PIL import Image

from retrieval.analysis.evaluation import Evaluation, evaluate, of_query
from retrieval.analysis.leaderboard import Figure, leaderboard
from retrieval.analysis.measures import WHOLE
from retrieval.analysis.pareto import Cost, front, sentence
from retrieval.analysis.pareto import to_csv as costs_to_csv
from retrieval.analysis.plots import PALETTE, TEXT, plot_costs, plot_results
from retrieval.analysis.queries import Queries, label_codes, leave_one_out
from retrieval.engines.chroma_folder import Collections
from retrieval.errors import GalleryError, PictureError, QueryError
from retrieval.metrics import Metric, closeness, score_pairs
from retrieval.search.embedding import QueryEmbedder
from retrieval.search.query import Combination, Query
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
    ids = tuple(f"query {at}" for at in range(len(names)))
    return Queries(ids, vectors, np.full(len(names), -1), tuple(names), "six queries"), names


def means(result):
    return [result.mean(name) for name in ("P@1", "P@5", "mAP")]


def test_leave_one_out_matches_plain_python(index):
    queries = leave_one_out(index)
    for result in evaluate(index, queries):
        vectors = index.vectors(result.by.features)
        triples = [(vectors[i], LABELS[i], i) for i in range(len(LABELS))]
        expected = figures(index, result.by.features, result.by.metric, triples)
        assert means(result) == pytest.approx(expected, abs=1e-12)


def test_labelled_queries_match_plain_python(index):
    queries, names = outside_queries()
    for result in evaluate(index, queries):
        triples = zip(queries.vectors[result.by.features], names, [None] * len(names), strict=True)
        expected = figures(index, result.by.features, result.by.metric, triples)
        assert means(result) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    "queries", [leave_one_out, lambda index: outside_queries()[0]], ids=["leave-one-out", "labelled"]
)
def test_chroma_has_the_same_precision_on_a_small_gallery(index, queries):
    exact, chroma = (list(evaluate(index, queries(index), engine)) for engine in ("exact", "chroma"))
    for one, other in zip(exact, chroma, strict=True):
        assert means(one)[:2] == pytest.approx(means(other)[:2], abs=1e-12)
        assert all(other.mean(name) is None for name in WHOLE)


def test_leave_one_out_skips_pictures_without_a_match(index):
    asked = [LABELS[i] for i in leave_one_out(index).positions]
    assert asked == [label for label in LABELS if label.startswith("class")]


def test_leave_one_out_samples_without_replacement(index):
    positions = leave_one_out(index, sample=10).positions
    assert len(positions) == 10
    assert np.all(np.diff(positions) > 0)
    np.testing.assert_array_equal(positions, leave_one_out(index, sample=10).positions)


def test_query_is_never_its_own_hit_but_a_copy_is(tmp_path):
    pixels = np.random.default_rng(0).random((6, 12), np.float32)
    clip = np.eye(6, 8, dtype=np.float32)
    pixels[3], clip[3] = pixels[0], clip[0]
    indexes = publish_gallery(tmp_path, pixels, clip, ["a", "b", "b", "a", "c", "c"])
    evaluation = Evaluation(indexes.get(), leave_one_out(indexes.get()), (1,))
    for result in evaluation.run():
        assert result.of_queries("P@1")[[0, 3]].tolist() == [1, 1]
    assert [order[0] for _, order in evaluation.rankings(Combination("pixels"), 2, {0})] == [3]
    for at, order in evaluation.rankings(Combination("pixels"), 6):
        assert len(order) == 5 and at not in order


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
    results = list(of_query(index, QueryEmbedder(), Query(position=position), label).run())
    assert [(each.by.features, each.by.metric) for each in results] == list(product(index.features, Metric))
    for each in results:
        vector = index.vectors(each.by.features)[position]
        expected = figures(index, each.by.features, each.by.metric, [(vector, label, position)])
        assert means(each) == pytest.approx(expected, abs=1e-12)


def test_average_precision_of_a_picture_matches_plain_python(icons_searcher, queries):
    index, query, label = icons_searcher.indexes.get(), Query(queries / "cat.png", top_k=3), "animal-mammal"
    results = list(of_query(index, icons_searcher.embedder, query, label).run())
    for each in results:
        vector = icons_searcher.embedder.embed(index, replace(query, features=each.by.features)).vector
        expected = figures(index, each.by.features, each.by.metric, [(vector, label, None)])
        assert means(each) == pytest.approx(expected, abs=1e-12)
    best = {each.by.features: each.mean("mAP") for each in results if each.by.metric is Metric.COSINE}
    assert best["clip"] > 2 * best["pixels"]


def test_mean_over_items_equals_leave_one_out(index):
    queries = leave_one_out(index, sample=5)
    of_items = [of_query(index, QueryEmbedder(), Query(position=i), LABELS[i]).run() for i in queries.positions]
    for result, *each in zip(evaluate(index, queries), *of_items, strict=True):
        for name in result.names:
            assert np.mean([one.mean(name) for one in each]) == pytest.approx(result.mean(name), abs=1e-12)


def test_average_precision_of_a_text_uses_clip_features_only(icons_searcher):
    index = icons_searcher.indexes.get()
    results = list(of_query(index, icons_searcher.embedder, Query(text="pizza"), "food-prepared").run())
    assert [(each.by.features, each.by.metric) for each in results] == list(product(["clip"], Metric))
    assert results[2].mean("mAP") > index.labels.count("food-prepared") / len(index)  # better than chance


def test_average_precision_ignores_label_filter_and_top_k(index):
    query = Query(position=0)
    narrow = replace(query, labels=(LABELS[1],), metric=Metric.L1, engine="chroma", top_k=1)
    both = [list(of_query(index, QueryEmbedder(), each, LABELS[0]).run()) for each in (query, narrow)]
    for one, other in zip(*both, strict=True):
        np.testing.assert_array_equal(one.values, other.values)


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
        of_query(index, QueryEmbedder(), query, label)


def test_chroma_may_return_fewer_than_five_hits(index, monkeypatch):
    nearest = Collections.nearest

    def few(*arguments):
        found = zip(arguments[2], nearest(*arguments), strict=True)
        return [rows[: 2 + int(vector[0] * 1e3) % 4] for vector, rows in found]

    monkeypatch.setattr(Collections, "nearest", few)
    for result in evaluate(index, leave_one_out(index), "chroma"):
        assert 0 <= result.mean("P@5") <= 1


@pytest.fixture(scope="module")
def board(index):
    evaluation = Evaluation(index, leave_one_out(index))
    list(evaluation.run())
    return leaderboard(evaluation)


def render(board, **options):
    """Return the figure, its visible texts, and its rendered image."""
    figure = plot_results(board, **options)
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


def test_plot_has_a_bar_with_its_interval_for_each_result(board):
    figure, texts, _ = render(board)
    assert [axes.get_title() for axes in figure.axes] == ["P@1", "P@5", "mAP"]
    for axes, name in zip(figure.axes, ("P@1", "P@5", "mAP"), strict=True):
        drawn = [row.figures[name] for row in board.rows]
        assert [bar.get_width() for bar in axes.patches] == pytest.approx([each.value for each in drawn])
        assert [text.get_text() for text in axes.texts] == [f"{each.value:.3f}" for each in drawn]
        [lines] = [each for each in axes.collections if isinstance(each, LineCollection)]
        ends = [segment[:, 0].tolist() for segment in lines.get_segments()]
        assert np.array(ends) == pytest.approx(np.array([[each.low, each.high] for each in drawn]))
    written = [text.get_text() for text in texts]
    assert any(text.endswith("CLIP features · Correlation") for text in written)
    top, bottom = (figure.axes[0].transData.transform((0, row))[1] for row in (0, 7))
    assert top > bottom


def test_plot_text_is_neither_cut_off_nor_overlapping(board):
    figure, texts, image = render(board)
    for box in (text.get_window_extent() for text in texts):
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= image.width and box.y1 <= image.height
    for axes in figure.axes:
        numbers = [text.get_window_extent() for text in axes.texts]
        assert not any(a.overlaps(b) for a, b in pairwise(numbers))
        assert all(box.x1 <= axes.get_window_extent().x1 + 1 for box in numbers)
    assert min(text.get_fontsize() for text in texts) >= 10


def test_plot_omits_empty_panels_and_names_another_engine(index):
    evaluation = Evaluation(index, leave_one_out(index))
    list(evaluation.run("chroma"))
    figure, texts, _ = render(leaderboard(evaluation))
    assert [axes.get_title() for axes in figure.axes] == ["P@1", "P@5"]
    assert any(text.get_text().endswith("CLIP features · L2 · ChromaDB") for text in texts)


def test_costs_are_plotted_with_the_front(index, board):
    table = np.array([[1, 5, 2], [1, 5, 2], [2, 1, 9], [2, 5, 2], [3, 3, 3], [0, 9, 9]])
    assert front(table) == [True, True, True, False, True, True]
    found = [Cost(row, Figure(2.0 + at, 1.5 + at, 3.5 + at), 48, at == 0) for at, row in enumerate(board.rows)]
    figure = plot_costs(found)
    FigureCanvasAgg(figure).draw()
    [axes] = figure.axes
    legend = [text.get_text() for text in axes.get_legend().get_texts()]
    assert set(legend) == {"CLIP features, 48 bytes", "Raw pixels, 48 bytes", "Pareto front"}
    assert sentence(found).startswith(
        f"No other configuration is at once better, faster and smaller than: {board.rows[0].result.title}"
    )
    lines = list(csv.DictReader(io.StringIO(costs_to_csv(found))))
    assert [line["pareto"] for line in lines] == ["1", *["0"] * 7]
    assert float(lines[1]["milliseconds high"]) == 4.5


def luminance(colour):
    """Return the relative luminance as defined by WCAG 2.2."""
    channels = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
    return float(np.dot(channels, [0.2126, 0.7152, 0.0722]))


def contrast(one, other):
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize(("dark", "pages"), [(False, ["white"]), (True, ["#0f172a"]), (None, ["white", "#0f172a"])])
def test_plot_is_transparent_and_legible_on_the_page(board, dark, pages):
    _, texts, image = render(board, dark=dark)
    assert image.mode == "RGBA"
    assert all(image.getpixel((x, y))[3] == 0 for x in (0, image.width - 1) for y in (0, image.height - 1))
    for page in pages:
        assert all(contrast(text.get_color(), page) > (4.2 if dark is None else 7) for text in texts)
        assert all(contrast(colour, page) >= 3 for colour in PALETTE)
    assert {text.get_color() for text in texts} == {TEXT[dark]}
