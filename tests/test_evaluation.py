import numpy as np
import pytest
from published import publish

from retrieval.errors import GalleryError
from retrieval.evaluation import Labelled, average_precision, evaluate, label_codes, leave_one_out, relevance
from retrieval.features import Features
from retrieval.metrics import Metric, Scan, closeness, score_pairs
from retrieval.query import Engine

# Four classes, one picture that is alone in its class, and five without a label.
LABELS = [f"class {i}" for i in np.random.default_rng(1).integers(0, 4, 40)] + ["alone"] + [""] * 5


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    chance = np.random.default_rng(0)
    pixels = chance.random((len(LABELS), 12), np.float32)
    clip = chance.normal(size=(len(LABELS), 8))
    clip = (clip / np.linalg.norm(clip, axis=1, keepdims=True)).astype(np.float32)
    indexes = publish(tmp_path_factory.mktemp("evaluation"), pixels, clip, LABELS)
    yield indexes.get()
    indexes.close()


def figures(index, features, metric, queries):
    """P@1, P@5 and mAP in plain Python; queries are triples of vector, label and own position or None."""
    first, five, average = [], [], []
    for vector, label, own in queries:
        near = closeness(metric, score_pairs(metric, vector, index.vectors(features)))
        ranking = [i for i in sorted(range(len(near)), key=lambda i: near[i]) if i != own]
        hits = [LABELS[i] == label for i in ranking]
        if label == "" or not any(hits):
            continue
        ranks = [rank for rank, hit in enumerate(hits, start=1) if hit]
        first.append(hits[0])
        five.append(sum(hits[:5]) / 5)
        average.append(sum(count / rank for count, rank in enumerate(ranks, start=1)) / len(ranks))
    return [sum(part) / len(part) for part in (first, five, average)]


def strangers():
    """Queries that are not in the gallery: known labels, an unknown one, and none."""
    chance, names = np.random.default_rng(2), ["class 0", "class 3", "alone", "unheard of", "", "class 1"]
    vectors = {
        Features.PIXELS: chance.random((len(names), 12), np.float32),
        Features.CLIP: chance.normal(size=(len(names), 8)).astype(np.float32),
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
def test_average_precision_by_hand(hits, expected):
    assert average_precision(np.array([hits], bool))[0] == pytest.approx(expected, abs=1e-15)


def test_average_precision_of_nothing_is_not_a_number():
    assert np.isnan(average_precision(np.zeros((1, 4), bool))[0])


def test_leave_one_out_equals_plain_python(index):
    queries = leave_one_out(index)
    for result in evaluate(index, queries):
        vectors = index.vectors(result.features)
        triples = [(vectors[i], LABELS[i], i) for i in range(len(LABELS))]
        expected = figures(index, result.features, result.metric, triples)
        assert [result.p_at_1, result.p_at_5, result.map] == pytest.approx(expected, abs=1e-12)


def test_labelled_queries_equal_plain_python(index):
    queries, names = strangers()
    for result in evaluate(index, queries):
        triples = zip(queries.vectors[result.features], names, [None] * len(names), strict=True)
        expected = figures(index, result.features, result.metric, triples)
        assert [result.p_at_1, result.p_at_5, result.map] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("queries", [leave_one_out, lambda index: strangers()[0]], ids=["leave-one-out", "labelled"])
def test_chroma_has_the_same_precision_on_a_small_gallery(index, queries):
    exact, chroma = (list(evaluate(index, queries(index), engine)) for engine in (Engine.EXACT, Engine.CHROMA))
    for one, other in zip(exact, chroma, strict=True):
        assert (one.p_at_1, one.p_at_5) == pytest.approx((other.p_at_1, other.p_at_5), abs=1e-12)
        assert other.map is None


def test_leave_one_out_asks_only_what_can_be_answered(index):
    asked = [LABELS[i] for i in leave_one_out(index).positions]
    assert asked == [label for label in LABELS if label.startswith("class")]


def test_leave_one_out_samples_without_repeating(index):
    positions = leave_one_out(index, sample=10).positions
    assert len(positions) == 10
    assert np.all(np.diff(positions) > 0)
    np.testing.assert_array_equal(positions, leave_one_out(index, sample=10).positions)


@pytest.mark.parametrize("metric", Metric)
def test_a_query_never_counts_as_its_own_hit(metric):
    gallery = np.random.default_rng(0).random((6, 9), np.float32)
    different = np.arange(6)
    hits = next(relevance(Scan(gallery), metric, gallery, different, different, different))
    assert not hits.any()


def test_a_copy_of_the_query_does_count():
    gallery = np.random.default_rng(0).random((4, 9), np.float32)
    gallery[3] = gallery[0]
    labels = np.array([7, 1, 2, 7])
    hits = next(relevance(Scan(gallery), Metric.L1, gallery[:1], np.array([0]), labels[:1], labels))
    np.testing.assert_array_equal(hits, [[True, False, False, False]])


def test_no_label_is_no_class():
    assert label_codes(["b", "", "unknown", "a"], ["a", "b", "", "b"]).tolist() == [1, -1, -1, 0]


def test_a_gallery_without_shared_labels_says_what_to_do(tmp_path):
    pixels, clip = np.eye(3, 12, dtype=np.float32), np.eye(3, 8, dtype=np.float32)
    indexes = publish(tmp_path, pixels, clip, ["a", "b", ""])
    with pytest.raises(GalleryError, match=r"no labels that two pictures share.*--queries"):
        leave_one_out(indexes.get())
