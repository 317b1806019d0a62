"""Intervals, tests and places against scipy, and against what they promise."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from retrieval.analysis.statistics import (
    ALPHA,
    FLIPS,
    RESAMPLES,
    adjusted_p,
    holm,
    intervals,
    paired_p,
    places,
    resampled_means,
)


@pytest.fixture(scope="module")
def values() -> np.ndarray:
    """Values of 80 queries for five configurations: two equal, one slightly better, one worse, one noisy."""
    generator = np.random.default_rng(4)
    base = generator.beta(2, 3, 80)
    return np.stack(
        [base, base, base + 0.02, base - 0.3 * base, np.clip(base + generator.normal(0, 0.3, 80), 0, 1)], axis=1
    )


def test_intervals_equal_scipys_bootstrap(values: np.ndarray) -> None:
    low, high = intervals(values)
    for column, ours in zip(values.T, np.stack([low, high], axis=1), strict=True):
        theirs = stats.bootstrap((column,), np.mean, n_resamples=20_000, method="percentile", rng=1).confidence_interval
        assert ours == pytest.approx([theirs.low, theirs.high], abs=0.08 * (theirs.high - theirs.low))


def test_intervals_contain_the_true_mean_as_often_as_they_say() -> None:
    generator = np.random.default_rng(0)
    inside = 0
    for _ in range(200):
        [low], [high] = intervals(generator.beta(1, 3, (100, 1)))
        inside += low <= 0.25 <= high
    assert stats.binomtest(inside, 200, 0.95).pvalue > 0.001


def test_intervals_are_repeatable_and_one_row_has_none(values: np.ndarray) -> None:
    np.testing.assert_array_equal(intervals(values), intervals(values))
    np.testing.assert_allclose(intervals(values)[:, 0], intervals(values[:, :1])[:, 0], rtol=1e-12)
    assert np.isnan(intervals(values[:1])).all()
    assert resampled_means(values).shape == (RESAMPLES, 5)


def test_resampled_differences_are_paired(values: np.ndarray) -> None:
    means = resampled_means(values)
    np.testing.assert_allclose(means[:, 2] - means[:, 0], 0.02, rtol=1e-9)


def test_paired_p_equals_scipys_permutation_test(values: np.ndarray) -> None:
    p = paired_p(values)
    np.testing.assert_array_equal(p, p.T)
    for left, right in ((0, 4), (2, 4), (3, 4)):
        theirs = stats.permutation_test(
            (values[:, left], values[:, right]),
            lambda a, b, axis: np.mean(a - b, axis=axis),
            permutation_type="samples",
            vectorized=True,
            n_resamples=FLIPS,
            rng=2,
        ).pvalue
        error = 5 * np.sqrt(max(theirs * (1 - theirs), 1e-4) / FLIPS) * np.sqrt(2)
        assert p[left, right] == pytest.approx(theirs, abs=error)


def test_small_samples_equal_all_sign_flips() -> None:
    values = np.array([[0.5, 0.1], [0.7, 0.5], [0.2, 0.3], [0.9, 0.2], [0.6, 0.6], [0.4, 0.1]])
    difference = values[:, 0] - values[:, 1]
    signs = np.array(np.meshgrid(*[[-1, 1]] * 6)).reshape(6, -1)
    exact = (np.abs(difference @ signs) >= abs(difference.sum()) - 1e-9).mean()
    assert paired_p(values)[0, 1] == pytest.approx(exact, abs=0.02)


def test_equal_configurations_have_p_1(values: np.ndarray) -> None:
    assert paired_p(values)[0, 1] == 1
    assert paired_p(values[:1]).min() == 1, "one query proves nothing"


def test_equal_up_to_rounding_is_equal() -> None:
    values = np.random.default_rng(0).random((50, 1))
    assert paired_p(np.concatenate([values, values + 1e-14], axis=1)).min() == 1


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_equals_its_definition(p: list[float]) -> None:
    ours = holm(np.array(p))
    ranked = sorted(p)
    for value, adjusted in zip(p, ours, strict=True):
        at = max(place for place, each in enumerate(ranked) if each == value)
        expected = max(min(1.0, (len(p) - place) * ranked[place]) for place in range(at + 1))
        assert adjusted == pytest.approx(expected)
    assert (ours >= np.array(p)).all()


def test_holm_keeps_false_discoveries_rare() -> None:
    generator = np.random.default_rng(0)
    wrong = sum((adjusted_p(generator.random((40, 4))) < ALPHA).any() for _ in range(100))
    assert wrong <= 14  # expected are at most 5; more than 14 have a probability of 0.0001


@given(st.integers(0, 2**32 - 1), st.integers(1, 7))
def test_only_configurations_that_all_differ_are_in_other_places(seed: int, count: int) -> None:
    generator = np.random.default_rng(seed)
    means, p = generator.permutation(count) / 8, generator.choice([0.01, 0.5], (count, count))
    p = np.minimum(p, p.T)
    np.fill_diagonal(p, 1)
    found = places(means, p)
    assert found.min() == 1
    for one in range(count):
        assert found[one] <= 1 + (means > means[one]).sum()
        for other in range(count):
            if p[one, other] >= ALPHA:
                assert found[one] == found[other], "indistinguishable, but in different places"
            if found[one] < found[other]:
                assert means[one] >= means[other]


def test_places_of_clearly_different_configurations() -> None:
    generator = np.random.default_rng(0)
    base = generator.random((60, 1)) / 2
    values = base + np.array([[0.0, 0.3, 0.3, 0.1]]) + generator.normal(0, 0.01, (60, 4))
    assert places(values.mean(axis=0), adjusted_p(values)).tolist() == [4, 1, 1, 3]
