"""Experiments with vectors: what each change does, and that figures equal those of an evaluation."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.decomposition import PCA

from retrieval.analysis.evaluation import Evaluation
from retrieval.analysis.queries import leave_one_out
from retrieval.analysis.vector_lab import Change, Experiment, Fusion, changed, run
from retrieval.errors import GalleryError, QueryError
from retrieval.metrics import Metric
from tests.support.published import publish_gallery

SIZE = 90


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory):
    generator = np.random.default_rng(0)
    codes = np.arange(SIZE) % 3
    clip = generator.normal(size=(SIZE, 8)) + 1.5 * np.eye(3, 8)[codes]
    clip = (clip / np.linalg.norm(clip, axis=1, keepdims=True)).astype(np.float32)
    # The classes differ in a number that is small next to the others, and all numbers are far from 0.
    pixels = generator.random((SIZE, 12)).astype(np.float32) + 20
    pixels[:, 0] += 1.2 * codes
    indexes = publish_gallery(tmp_path_factory.mktemp("lab"), pixels, clip, [f"class {code}" for code in codes])
    yield indexes.get()
    indexes.close()


@pytest.mark.parametrize("metric", Metric)
def test_unchanged_vectors_have_the_figures_of_an_evaluation(index, metric: Metric) -> None:
    evaluation = Evaluation(index, leave_one_out(index))
    found = next(each for each in evaluation.run() if (each.by.features, each.by.metric) == ("clip", metric))
    outcome = run(index, Experiment("clip", metric=metric))
    assert outcome.before == outcome.after
    assert outcome.overlap == 1
    assert outcome.before["mAP"].value == pytest.approx(found.mean("mAP"), abs=1e-12)
    assert outcome.before["P@5"].value == pytest.approx(found.mean("P@5"), abs=1e-12)


def test_centring_changes_cosines_but_no_distance(index) -> None:
    assert run(index, Experiment("pixels", Change.CENTRED)).overlap < 0.9
    far = run(index, Experiment("pixels", Change.CENTRED, metric=Metric.L2))
    assert far.after["mAP"].value == pytest.approx(far.before["mAP"].value, abs=0.01)
    assert far.overlap > 0.95
    assert "cannot distinguish" in far.sentence


@pytest.mark.parametrize("count", [300, 20])
def test_whitening_equals_scikit_learn(count: int) -> None:
    vectors = np.random.default_rng(1).normal(size=(count, 40)).astype(np.float32) * np.arange(1, 41, dtype=np.float32)
    ours, theirs = changed(vectors, Change.WHITENED, 10), PCA(10, whiten=True).fit_transform(vectors)
    scale = np.sqrt((count - 1) / count)  # scikit-learn divides by n - 1
    np.testing.assert_allclose(np.abs(ours) * scale, np.abs(theirs), atol=2e-3)


def test_changes_do_what_they_say() -> None:
    vectors = np.random.default_rng(0).normal(3, 2, (50, 16)).astype(np.float32)
    np.testing.assert_allclose(changed(vectors, Change.CENTRED).mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(changed(vectors, Change.UNIT), axis=1), 1, rtol=1e-6)
    np.testing.assert_array_equal(changed(vectors, Change.TRUNCATED, 4), vectors[:, :4])
    small = changed(vectors, Change.INT8)
    np.testing.assert_array_equal(small, small.astype(np.int8))
    assert np.abs(small).max() == 127
    np.testing.assert_array_equal(changed(vectors, Change.BINARY), np.sign(vectors - vectors.mean(axis=0)))
    assert changed(np.ones((4, 3), np.float32), Change.WHITENED).shape[0] == 4


def test_bytes_per_image(index) -> None:
    sizes = {change: run(index, Experiment("clip", change)).bytes_after for change in Change}
    assert (sizes[Change.NONE], sizes[Change.INT8], sizes[Change.BINARY]) == (32, 8, 1)
    assert run(index, Experiment("clip", Change.TRUNCATED, 3)).bytes_after == 12


def test_fusion_with_weight_0_or_1_is_one_feature_type(index) -> None:
    alone = {name: run(index, Experiment(name)).before for name in ("clip", "pixels")}
    for fusion in Fusion:
        both = Experiment("clip", other="pixels", fusion=fusion, weight=0)
        for weight, name in ((0, "clip"), (1, "pixels")):
            found = run(index, replace(both, weight=weight)).after["mAP"].value
            assert found == pytest.approx(alone[name]["mAP"].value, abs=1e-4)  # scaling a vector rounds it


def test_early_fusion_is_the_weighted_mean_of_cosines(index) -> None:
    outcome = run(index, Experiment("clip", Change.UNIT, other="pixels", weight=0.3))
    units = [changed(np.asarray(index.vectors(name)), Change.UNIT) for name in ("clip", "pixels")]
    mean = 0.7 * units[0] @ units[0].T + 0.3 * units[1] @ units[1].T
    np.fill_diagonal(mean, -np.inf)
    labels = np.array(index.labels)
    hits = labels[np.argsort(-mean, axis=1)[:, :5]] == labels[:, None]
    assert outcome.after["P@5"].value == pytest.approx(hits.mean())


def test_reciprocal_ranks_are_added(index) -> None:
    outcome = run(index, Experiment("clip", other="pixels", fusion=Fusion.RANKS))
    scores = np.zeros((SIZE, SIZE))
    for name in ("clip", "pixels"):
        unit = changed(np.asarray(index.vectors(name)), Change.UNIT)
        near = unit @ unit.T
        np.fill_diagonal(near, -np.inf)
        scores += 0.5 / (60 + 1 + np.argsort(np.argsort(-near, axis=1), axis=1))
    np.fill_diagonal(scores, -np.inf)
    labels = np.array(index.labels)
    hits = labels[np.argsort(-scores, axis=1, kind="stable")[:, :5]] == labels[:, None]
    assert outcome.after["P@5"].value == pytest.approx(hits.mean(), abs=0.01)  # sums of ranks have ties


def test_errors_for_unknown_features_and_missing_labels(index, tmp_path) -> None:
    with pytest.raises(QueryError, match="has no edges features"):
        run(index, Experiment("edges"))
    indexes = publish_gallery(tmp_path, np.eye(3, 12, dtype=np.float32), np.eye(3, 8, dtype=np.float32), ["a", "b", ""])
    with pytest.raises(GalleryError, match="no label that two images share"):
        run(indexes.get(), Experiment("clip"))
    indexes.close()
