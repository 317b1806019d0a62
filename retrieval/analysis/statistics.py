"""What the figures of a sample of queries say: bootstrap intervals, paired tests, Holm's correction, and shared places.

`scipy.stats.bootstrap` and `permutation_test` give the same (see the tests), but resample every figure and every pair
on its own, which takes minutes where this takes a second. All figures share the resampled queries here.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

SEED = 0
RESAMPLES = 2_000
FLIPS = 9_999  # so the smallest p is 0.0001
CONFIDENCE = 0.95
ALPHA = 0.05
AT_ONCE = 4_000_000  # random numbers
ROUNDING = 1e-9  # differences of sums that are equal up to rounding


def _rows(count: int, columns: int) -> Iterator[int]:
    """Yield how many of `count` rows of this many columns to compute at once."""
    most = max(1, AT_ONCE // max(1, columns))
    for start in range(0, count, most):
        yield min(most, count - start)


def resampled_means(values: Floats, seed: int = SEED) -> Floats:
    """Return the means of bootstrap samples of the rows of values, shape (n, m): shape (RESAMPLES, m).

    Equal n and seed mean equal samples, so the differences between columns, and between calls, are paired.
    """
    chance, n, parts = np.random.default_rng(seed), len(values), list[Floats]()
    for rows in _rows(RESAMPLES, n):
        drawn = chance.integers(0, n, (rows, n)) + np.arange(rows)[:, None] * n
        counts = np.bincount(drawn.ravel(), minlength=rows * n).reshape(rows, n)
        parts.append(counts @ values / n)
    return np.concatenate(parts)


def intervals(values: Floats) -> Floats:
    """Return the limits of the 95 % intervals of the means of values, shape (n, m): shape (2, m).

    Percentile bootstrap over the rows (Efron and Tibshirani, *An Introduction to the Bootstrap*, 1993, 13.3). One row
    says nothing about others, so its limits are NaN.
    """
    if len(values) < 2:
        return np.full((2, values.shape[1]), np.nan)
    outside = (1 - CONFIDENCE) / 2
    limits: Floats = np.quantile(resampled_means(values), [outside, 1 - outside], axis=0)
    return limits


def paired_p(values: Floats) -> Floats:
    """Return the p-values of the differences between the means of all pairs of columns, shape (n, c): shape (c, c).

    Two-sided paired randomisation test: if there is no difference, the two values of each row can be exchanged
    (Smucker, Allan and Carterette, "A Comparison of Statistical Significance Tests for Information Retrieval
    Evaluation", 2007).
    """
    chance, n = np.random.default_rng(SEED), len(values)
    sums = values.sum(axis=0)
    seen = np.abs(sums[:, None] - sums) - ROUNDING
    extreme = np.ones(seen.shape)  # the data themselves
    for rows in _rows(FLIPS, n):
        signs = chance.integers(0, 2, (rows, n), np.int8) * 2.0 - 1
        flipped = signs @ values
        for column, differences in enumerate(extreme):
            differences += (np.abs(flipped[:, column, None] - flipped) >= seen[column]).sum(axis=0)
    return extreme / (FLIPS + 1)


def holm(p: Floats) -> Floats:
    """Return p-values, shape (n,), adjusted for n tests by Holm's step-down method ("A Simple Sequentially Rejective
    Multiple Test Procedure", 1979).
    """
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(stepped, 1)
    return adjusted


def adjusted_p(values: Floats) -> Floats:
    """Return `paired_p`, adjusted by Holm's method for the number of pairs, shape (c, c), with 1 on the diagonal."""
    p, (above, left) = paired_p(values), np.triu_indices(values.shape[1], 1)
    adjusted = np.ones(p.shape)
    adjusted[above, left] = adjusted[left, above] = holm(p[above, left])
    return adjusted


def places(means: Floats, p: Floats) -> npt.NDArray[np.intp]:
    """Return the place of each of c means, shape (c,), given the adjusted p-values of their differences, shape (c, c).

    A new place begins only where every mean above is significantly larger than every mean below. So two means that
    cannot be distinguished always share a place, though not all that share a place are indistinguishable.
    """
    order = np.argsort(-means, kind="stable")
    found = np.empty(len(means), np.intp)
    place = 0
    for at, column in enumerate(order):
        if np.all(p[np.ix_(order[:at], order[at:])] < ALPHA):
            place = at
        found[column] = place + 1
    return found
