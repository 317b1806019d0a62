"""Images on which two feature types disagree: counts against a simple computation, samples, and errors."""

from pathlib import Path

import numpy as np
import pytest

from retrieval.analysis import disagreement
from retrieval.analysis.disagreement import BATCH, PER_CLASS, TOP_K, Disagreements
from retrieval.errors import QueryError
from retrieval.metrics import Metric
from tests.support.published import publish_gallery

SIZE = 60
LABELS = [f"class {number % 3}" for number in range(SIZE)]


def published(folder: Path, labels: list[str]):
    """A gallery whose classes differ by CLIP vectors, except for the first five images, and hardly by pixels."""
    generator = np.random.default_rng(0)
    codes = np.arange(SIZE) % 3
    pixels = generator.random((SIZE, 12)).astype(np.float32)
    clip = generator.normal(size=(SIZE, 8)) + 4 * np.eye(3, 8)[codes]
    clip[:5] = generator.normal(size=(5, 8))
    pixels[:5] = np.eye(3, 12)[codes[:5]] + 0.01
    pixels[30:45] = np.eye(3, 12)[codes[30:45]] + 0.02
    clip = (clip / np.linalg.norm(clip, axis=1, keepdims=True)).astype(np.float32)
    return publish_gallery(folder, pixels, clip, labels)


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory):
    indexes = published(tmp_path_factory.mktemp("disagreement"), LABELS)
    yield indexes.get()
    indexes.close()


def first(index, features: str, position: int) -> list[int]:
    vectors = np.asarray(index.vectors(features), np.float64)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    order = np.argsort(-(vectors @ vectors[position]), kind="stable").tolist()
    return [each for each in order if each != position][:TOP_K]


def test_counts_are_those_of_a_simple_computation(index) -> None:
    both = Disagreements(index, ("pixels", "clip"), Metric.COSINE)
    assert len(list(both.run())) == SIZE / BATCH
    assert [each.position for each in both.found] == list(range(SIZE))
    for each in both.found:
        found = [first(index, name, each.position) for name in both.features]
        assert each.correct == tuple(sum(LABELS[at] == LABELS[each.position] for at in some) for some in found)
        assert each.shared == len(set(found[0]) & set(found[1]))


def test_strongest_come_first_and_from_several_classes(index) -> None:
    both = Disagreements(index, ("pixels", "clip"), Metric.COSINE)
    list(both.run())
    for features in (0, 1):
        gains = [each.correct[features] - each.correct[1 - features] for each in both.better(features)]
        assert gains == sorted(gains, reverse=True)
        assert min(gains) > 0
        shown = both.strongest(features, 100)
        labels = [LABELS[each.position] for each in shown]
        assert max(labels.count(label) for label in labels) <= PER_CLASS
        assert shown[0] == both.better(features)[0]
    assert len(both.better(0)) + len(both.better(1)) <= SIZE
    assert both.better(1)[0].correct[1] == TOP_K


def test_gallery_without_labels_is_compared_by_common_results(tmp_path: Path) -> None:
    indexes = published(tmp_path, [""] * SIZE)
    both = Disagreements(indexes.get(), ("clip", "pixels"), Metric.L1)
    list(both.run())
    assert not both.labelled
    assert both.strongest(0, 5) == []
    assert all(each.correct is None for each in both.found)
    shared = [each.shared for each in both.least_shared(SIZE)]
    assert shared == sorted(shared)
    assert max(shared) < TOP_K
    indexes.close()


def test_sample_is_bounded_and_always_the_same(index, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = [Disagreements(index, ("pixels", "clip"), Metric.L2, 20) for _ in range(2)]
    for each in samples:
        list(each.run())
    assert len(samples[0]) == 20
    assert samples[0].found == samples[1].found
    monkeypatch.setattr(disagreement, "SCANNED_MAX", 30 * SIZE)  # as for a large gallery
    assert len(Disagreements(index, ("pixels", "clip"), Metric.L2)) == 30


@pytest.mark.parametrize("features", [(), ("clip",), ("clip", "clip"), ("clip", "pixels", "color"), ("clip", "color")])
def test_it_needs_two_feature_types_of_the_gallery(index, features: tuple[str, ...]) -> None:
    with pytest.raises(QueryError):
        Disagreements(index, features, Metric.COSINE)
