"""All measures against pytrec-eval-terrier, ir-measures and pytorch-metric-learning."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
from scipy.stats import hypergeom

from retrieval.analysis.evaluation import Evaluation, ExactRanking, ranked_in_order, relevant_in
from retrieval.analysis.measures import Found, Judged, chance, measure, measure_names
from retrieval.analysis.queries import judged_by, label_codes, leave_one_out
from retrieval.metrics import Metric, closeness, score_pairs
from tests.support.oracles import WHOLE_TREC, by_ir_measures, by_trec_eval
from tests.support.published import publish_gallery

KS = (1, 3, 5, 10, 100)
SIZE = 60
TOLERANCE = 1e-9


def found_in(grades: np.ndarray) -> tuple[Found, Judged]:
    """Return what `measure` needs, given the grades by rank, shape (m, n)."""
    queries, ranks = np.nonzero(grades)
    ideal = -np.sort(-grades, axis=1)
    judged = Judged(
        np.count_nonzero(grades, axis=1),
        np.full(len(grades), grades.shape[1]),
        grades.sum(axis=1).astype(float),
        ideal.astype(float),
    )
    return Found(queries, ranks + 1, grades[queries, ranks].astype(np.int16)), judged


def named(grades: np.ndarray) -> tuple[dict[str, dict[str, int]], dict[str, list[str]]]:
    """Return qrels and rankings with ids whose order is not that of the ranking."""
    names = [f"d{(rank * 37) % grades.shape[1]}" for rank in range(grades.shape[1])]
    qrels = {
        f"q{at}": {name: int(grade) for name, grade in zip(names, row, strict=True)} for at, row in enumerate(grades)
    }
    return qrels, dict.fromkeys(qrels, names)


@pytest.fixture(scope="module")
def random_grades() -> np.ndarray:
    """Grades by rank from 0 to 3 of 40 queries: some with one relevant item, some with nearly all relevant."""
    generator = np.random.default_rng(3)
    grades = generator.integers(1, 4, (40, SIZE)) * (generator.random((40, SIZE)) < generator.random((40, 1)) ** 2)
    grades[np.arange(40), generator.integers(0, SIZE, 40)] = 1
    return grades


@pytest.mark.parametrize("name", [name for name in measure_names(KS) if name != "MAP@R"])
def test_random_runs_equal_both_oracles(random_grades: np.ndarray, name: str) -> None:
    ours = measure(*found_in(random_grades), KS)[:, measure_names(KS).index(name)]
    qrels, rankings = named(random_grades)
    np.testing.assert_allclose(ours, by_trec_eval(qrels, rankings, name), atol=TOLERANCE, rtol=0)
    np.testing.assert_allclose(ours, by_ir_measures(qrels, rankings, name), atol=TOLERANCE, rtol=0)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=30).filter(any))
def test_any_ranking_equals_trec_eval(grades: list[int]) -> None:
    table = np.array([grades])
    ours = measure(*found_in(table), KS)[0]
    qrels, rankings = named(table)
    for name, value in zip(measure_names(KS), ours, strict=True):
        if name != "MAP@R":
            assert value == pytest.approx(by_trec_eval(qrels, rankings, name)[0], abs=TOLERANCE)


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    """A gallery with duplicates, so that rankings have ties, and with labels of different sizes."""
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 3, (SIZE, 12)).astype(np.float32) / 2
    clip = generator.normal(size=(SIZE, 8))
    clip = (clip / np.linalg.norm(clip, axis=1, keepdims=True)).astype(np.float32)
    for vectors in (pixels, clip):
        vectors[40:] = vectors[:20]
    labels = [f"class {i}" for i in generator.integers(0, 4, SIZE - 1)] + ["alone"]
    indexes = publish_gallery(tmp_path_factory.mktemp("measures"), pixels, clip, labels)
    yield indexes.get()
    indexes.close()


def ranked_exactly(index, features: str, metric: Metric, vector: np.ndarray, left_out: set[int]) -> list[int]:
    """Return the ranking by the metric's definition in float64, ties in gallery order."""
    near = closeness(metric, score_pairs(metric, vector, index.vectors(features)))
    return [int(at) for at in np.argsort(near, kind="stable") if at not in left_out]


@pytest.mark.parametrize("metric", [Metric.L1, Metric.L2])
def test_leave_one_out_with_ties_equals_trec_eval(index, metric: Metric) -> None:
    evaluation = Evaluation(index, leave_one_out(index), KS)
    results = {(each.by.features, each.by.metric): each for each in evaluation.run()}
    queries = evaluation.queries
    qrels = {
        id: {f"id-{at}": int(index.labels[at] == label and at != own) for at in range(SIZE)}
        for id, label, own in zip(queries.ids, queries.classes, queries.positions, strict=True)
    }
    # Pixels are small multiples of a half, so that scores are exact and equal ones are ties.
    vectors = index.vectors("pixels")
    rankings = {
        id: [f"id-{at}" for at in ranked_exactly(index, "pixels", metric, vectors[own], {int(own)})]
        for id, own in zip(queries.ids, queries.positions, strict=True)
    }
    result = results["pixels", metric]
    for name in evaluation.names:
        if name != "MAP@R":
            expected = by_trec_eval(qrels, rankings, name)
            np.testing.assert_allclose(result.of_queries(name), expected, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("features", ["pixels", "clip"])
@pytest.mark.parametrize("metric", Metric)
def test_equal_vectors_are_ranked_in_gallery_order(index, features: str, metric: Metric) -> None:
    vectors = index.vectors(features)
    order = ExactRanking(index.scan(features), metric, vectors).order(slice(0, SIZE), np.zeros((SIZE, SIZE), bool))
    place = np.argsort(order, axis=1)
    assert (place[:, :20] < place[:, 40:]).all()


def test_graded_qrels_with_junk_equal_trec_eval(index) -> None:
    generator = np.random.default_rng(5)
    qrels = {
        f"id-{query}": {f"id-{at}": int(generator.integers(-1, 4)) for at in generator.choice(SIZE, 25, replace=False)}
        for query in range(0, SIZE, 4)
    }
    queries = judged_by(index, qrels)
    evaluation = Evaluation(index, queries, KS)
    list(evaluation.run())
    result = next(each for each in evaluation.results if each.by.features == "clip" and each.by.metric is Metric.L1)
    vectors, rankings, judged = index.vectors("clip"), {}, {}
    for id, own in zip(evaluation.queries.ids, evaluation.queries.positions, strict=True):
        junk = {int(name.removeprefix("id-")) for name, grade in qrels[id].items() if grade < 0} | {int(own)}
        order = ranked_exactly(index, "clip", Metric.L1, vectors[own], junk)
        rankings[id] = [f"id-{at}" for at in order]
        judged[id] = {name: grade for name, grade in qrels[id].items() if name != id}
    for name in evaluation.names:
        if name != "MAP@R":
            expected = by_trec_eval(judged, rankings, name)
            np.testing.assert_allclose(result.of_queries(name), expected, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("metric", Metric)
@pytest.mark.parametrize("features", ["pixels", "clip"])
def test_map_at_r_equals_pytorch_metric_learning(index, features: str, metric: Metric) -> None:
    evaluation = Evaluation(index, leave_one_out(index))
    results = {(each.by.features, each.by.metric): each for each in evaluation.run()}
    vectors = torch.from_numpy(np.array(index.vectors(features)))
    ranking = ExactRanking(index.scan(features), metric, index.vectors(features))
    # In the evaluation's blocks, since rounding depends on them. The last image is no query: no other has its class.
    parts, itself = [*evaluation.judgements.blocks(), slice(SIZE - 1, SIZE)], np.eye(SIZE, dtype=bool)
    order = np.concatenate([ranking.order(part, itself[part]) for part in parts])  # the query itself comes last

    def nearest(
        query: torch.Tensor, k: int, reference: torch.Tensor, ref_includes_query: bool
    ) -> tuple[None, torch.Tensor]:
        assert ref_includes_query and len(query) == len(reference)
        return None, torch.from_numpy(order[:, :k])

    calculator = AccuracyCalculator(
        include=("mean_average_precision_at_r", "mean_average_precision", "r_precision"),
        k=SIZE - 1,
        device=torch.device("cpu"),
        knn_func=nearest,
    )
    labels = torch.tensor(label_codes(index.labels, index.labels))
    expected = calculator.get_accuracy(vectors, labels, vectors, labels, ref_includes_query=True)
    result = results[features, metric]
    names = {"mean_average_precision_at_r": "MAP@R", "mean_average_precision": "mAP", "r_precision": "R-precision"}
    for theirs, ours in names.items():
        assert result.mean(ours) == pytest.approx(expected[theirs], abs=TOLERANCE)


def test_ranked_in_order_is_a_stable_argsort() -> None:
    generator = np.random.default_rng(0)
    near = generator.integers(-3, 4, (50, 200)).astype(np.float32) / 4
    near[:, ::7] = -0.0
    near[:, 5] = np.inf
    np.testing.assert_array_equal(ranked_in_order(near), np.argsort(near, axis=1, kind="stable"))


@pytest.mark.parametrize("values", [2, 10**6])  # many ties, and hardly any
def test_relevant_items_have_the_ranks_of_a_stable_argsort(values: int) -> None:
    generator = np.random.default_rng(0)
    near = generator.integers(-values, values, (60, 200)).astype(np.float32)
    near[near == 0] = -0.0
    grades = generator.choice(np.array([0, 0, 0, 1, 2], np.int16), near.shape)
    near[:, 3], grades[:, 3] = np.inf, 0  # an ignored item
    order = np.argsort(near, axis=1, kind="stable")
    queries, ranks = np.nonzero(np.take_along_axis(grades, order, axis=1))
    found = relevant_in(near, grades)
    np.testing.assert_array_equal(found.queries, queries)
    np.testing.assert_array_equal(found.ranks, ranks + 1)
    np.testing.assert_array_equal(found.grades, grades[queries, order[queries, ranks]])


@pytest.mark.parametrize("relevant", [1, 3, 9, 12])
def test_chance_equals_simulation_and_scipy(relevant: int) -> None:
    ks, trials = (1, 4, 20), 20_000
    generator = np.random.default_rng(0)
    grades = np.zeros((trials, 12), int)
    grades[:, :relevant] = 1 + np.arange(relevant) % 3
    found, judged = found_in(generator.permuted(grades, axis=1))
    expected = chance(judged, ks)
    values = measure(found, judged, ks)
    error = values.std(axis=0) / np.sqrt(trials)
    np.testing.assert_allclose(values.mean(axis=0), expected, atol=float(5 * error.max()) + 1e-12)
    success = expected[measure_names(ks).index("success@4")]
    assert success == pytest.approx(1 - hypergeom(12, relevant, 4).pmf(0), abs=1e-12)


def test_every_measure_has_an_oracle() -> None:
    whole = {name for name in measure_names(()) if name != "MAP@R"}
    assert whole == set(WHOLE_TREC)
