"""Measures of rankings with judged items, and what a random ranking would score.

For a query with R relevant items among N ranked ones, where r_i is 1 if the item at rank i is relevant, and g_i is its
grade:

    P@k           hits among the first k, divided by k
    R@k           hits among the first k, divided by R
    nDCG@k        sum of g_i / log2(i + 1) over the first k ranks, divided by that of the ideal order
    success@k     1 if there is a hit among the first k, otherwise 0
    R-precision   P@R
    MAP@R         sum of r_i P@i over the first R ranks, divided by R
    mAP           the same sum over all ranks, divided by R: average precision, whose mean over queries is mAP
    MRR           1 / rank of the first hit: reciprocal rank, whose mean over queries is MRR

Sources: Manning, Raghavan and Schütze, *Introduction to Information Retrieval*, 8.4 (P, R, R-precision, mAP); Järvelin
and Kekäläinen, "Cumulated gain-based evaluation of IR techniques", 2002 (nDCG, here with the discount of trec_eval);
Musgrave, Belongie and Lim, "A Metric Learning Reality Check", 2020 (MAP@R); Voorhees, "The TREC-8 Question Answering
Track Report", 1999 (MRR).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.intp]

AT_K = ("P@{}", "R@{}", "nDCG@{}", "success@{}")
WHOLE = ("R-precision", "MAP@R", "mAP", "MRR")  # these need the ranks of all relevant items


@dataclass(frozen=True)
class Judged:
    """What is known about m queries before anything is ranked.

    Attributes:
        relevant: the number of relevant items of each query, at least 1, shape (m,).
        candidates: the number of items that can be ranked, without those that a query ignores, shape (m,).
        gains: the sum of the grades, shape (m,).
        ideal: the highest grades, descending, then zeros, shape (m, the largest k).
    """

    relevant: Ints
    candidates: Ints
    gains: Floats
    ideal: Floats


@dataclass(frozen=True)
class Found:
    """The relevant items in the rankings of m queries, sorted by query and then by rank; three arrays of shape (t,)."""

    queries: Ints
    ranks: Ints  # from 1
    grades: npt.NDArray[np.int16]


def measure_names(ks: Sequence[int]) -> tuple[str, ...]:
    """Return the names of all measures, in the order of their columns."""
    return (*(name.format(k) for k in ks for name in AT_K), *WHOLE)


def measure(found: Found, judged: Judged, ks: Sequence[int]) -> Floats:
    """Return all measures of each query, shape (m, measures), in the order of `measure_names`."""
    queries, ranks, relevant = found.queries, found.ranks, judged.relevant
    count = len(relevant)

    def total(values: npt.NDArray[np.bool_] | Floats) -> Floats:
        return np.bincount(queries, values, count).astype(np.float64)

    columns: list[Floats] = []
    gains = found.grades / np.log2(ranks + 1)
    for k in ks:
        hits = total(ranks <= k)
        gained = total(gains * (ranks <= k))
        columns += [hits / k, hits / relevant, gained / _ideal_gain(judged, k), (hits > 0).astype(float)]
    firsts = np.searchsorted(queries, np.arange(count))  # the place of each query's first hit
    hit = np.arange(len(queries)) - firsts[queries] + 1
    precision, within = hit / ranks, ranks <= relevant[queries]
    columns += [total(within) / relevant, total(precision * within) / relevant, total(precision) / relevant]
    return np.stack([*columns, total((hit == 1) / ranks)], axis=1)


def _ideal_gain(judged: Judged, k: int) -> Floats:
    gain: Floats = judged.ideal[:, :k] @ _discounts(min(k, judged.ideal.shape[1]))
    return gain


def _discounts(k: int) -> Floats:
    discounts: Floats = 1 / np.log2(np.arange(2, k + 2))
    return discounts


def chance(judged: Judged, ks: Sequence[int]) -> Floats:
    """Return the expected value of each measure for a ranking in random order, its mean over queries.

    The expectation of average precision is that of Bestgen, "Exact Expected Average Precision of the Random Baseline
    for System Evaluation", 2015; the others follow from sampling without replacement.
    """
    relevant, size = judged.relevant, judged.candidates
    columns: list[Floats] = []
    reciprocal, success = _first_hit(judged, ks)
    for k, found in zip(ks, success, strict=True):
        ranked = np.minimum(k, size)
        discounted = np.concatenate([[0], np.cumsum(_discounts(k))])[ranked]
        gain = judged.gains / size * discounted / _ideal_gain(judged, k)
        columns += [ranked * relevant / size / k, ranked / size, gain, found]
    harmonic = np.concatenate([[0], np.cumsum(1 / np.arange(1, int(size.max()) + 1))])
    others = (relevant - 1) / np.maximum(size - 1, 1)

    def average(depth: Ints) -> Floats:
        value: Floats = (harmonic[depth] + (depth - harmonic[depth]) * others) / size
        return value

    columns += [relevant / size, average(relevant), average(size), reciprocal]
    means: Floats = np.stack(columns, axis=1).mean(axis=0)
    return means


def _first_hit(judged: Judged, ks: Sequence[int]) -> tuple[Floats, Floats]:
    """Return the expected reciprocal rank of the first hit in random order, shape (m,), and success@k, shape (k, m)."""
    pairs, places = np.unique(np.stack([judged.candidates, judged.relevant]), axis=1, return_inverse=True)
    reciprocal, success = np.empty(pairs.shape[1]), np.empty((len(ks), pairs.shape[1]))
    for at, (size, relevant) in enumerate(pairs.T):
        before = np.arange(size - relevant)
        missed = np.concatenate([[1.0], np.cumprod((size - relevant - before) / (size - before))])  # in the first i
        ranks = np.arange(1, len(missed) + 1)
        reciprocal[at] = (missed * relevant / (size - ranks + 1) / ranks).sum()
        success[:, at] = [1 - missed[k] if k < len(missed) else 1.0 for k in ks]
    return reciprocal[places], success[:, places]
