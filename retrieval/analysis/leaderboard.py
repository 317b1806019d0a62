"""Summarise an evaluation: intervals, places that ties share, the chance level, and warnings about the protocol."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from retrieval.analysis.evaluation import Evaluation, Result
from retrieval.analysis.explanation import listed
from retrieval.analysis.measures import Ints, chance
from retrieval.analysis.queries import NEAR, nearly_copied
from retrieval.analysis.statistics import ALPHA, Floats, adjusted_p, intervals, places
from retrieval.features import FEATURES
from retrieval.features.models import BUNDLED

LISTED = 4  # configurations in a sentence
UNEVEN = 2  # a class this many times larger than the median one is worth a warning
REACHABLE = 0.99  # below this, a warning says what the best possible P@k is
FEW = 5  # queries of a class; fewer leave its figures open
IMAGENET = re.compile(r"imagenet|in1k|in12k|in2[12]k", re.IGNORECASE)  # in the name of a model


@dataclass(frozen=True)
class Figure:
    """The mean of a measure and its 95 % interval; None where there are too few results or queries."""

    value: float | None
    low: float | None
    high: float | None

    def __str__(self) -> str:
        """Return the figure for a table."""
        if self.value is None:
            return "-"
        return f"{self.value:.3f}" + ("" if self.low is None else f" [{self.low:.3f}, {self.high:.3f}]")


@dataclass(frozen=True)
class Row:
    """A configuration: its place, its figures by measure, and how many others are significantly worse."""

    place: int
    result: Result
    figures: dict[str, Figure]
    better_than: int


@dataclass(frozen=True)
class ClassRow:
    """The figures of the queries of one class, by the title of the configuration and by measure."""

    label: str
    queries: int
    figures: dict[str, dict[str, Figure]]


@dataclass(frozen=True)
class Leaderboard:
    """An evaluation in figures and sentences.

    Attributes:
        rows: the configurations, best first by `main`.
        chance: what a random ranking would score, by measure.
        about: sentences on queries, chance level and undetermined differences.
        verdict: a sentence on the first place.
        warnings: sentences on what inflates or distorts the figures.
    """

    evaluation: Evaluation
    main: str
    rows: tuple[Row, ...]
    chance: dict[str, float]
    about: tuple[str, ...]
    verdict: str
    warnings: tuple[str, ...]

    @property
    def classes(self) -> list[str]:
        """The labels of the queries, sorted."""
        return sorted(set(self.evaluation.queries.classes) - {""})


def leaderboard(evaluation: Evaluation) -> Leaderboard:
    """Return the summary of all results of an evaluation."""
    results, main = evaluation.results, evaluation.main
    means = np.array([result.mean(main) for result in results], float)
    p = adjusted_p(np.stack([result.of_queries(main) for result in results], axis=1))
    found, figures = places(means, p), figures_of(results)
    better = ((p < ALPHA) & (means[:, None] > means)).sum(axis=1)
    order = np.argsort(-means, kind="stable")
    rows = tuple(Row(int(found[at]), results[at], figures[at], int(better[at])) for at in order)
    expected = chance(evaluation.judgements.judged, evaluation.ks)
    by_chance = dict(zip(evaluation.names, expected.tolist(), strict=True))
    return Leaderboard(
        evaluation,
        main,
        rows,
        by_chance,
        tuple(_about(evaluation, by_chance, rows)),
        _verdict(rows, main, p[np.ix_(order, order)]),
        tuple(_warnings(evaluation)),
    )


def figures_of(results: Sequence[Result], kept: Ints | None = None) -> list[dict[str, Figure]]:
    """Return the figures of each result by measure, over all queries or the `kept` ones."""
    names = results[0].names if results else ()
    values = np.concatenate([each.values if kept is None else each.values[kept] for each in results], axis=1)
    known = ~np.isnan(values).any(axis=0)
    low, high = np.full((2, values.shape[1]), np.nan)
    low[known], high[known] = intervals(values[:, known])
    table = np.stack([values.mean(axis=0), low, high], axis=1).reshape(len(results), len(names), 3)
    return [dict(zip(names, map(_figure, rows), strict=True)) for rows in table]


def _figure(row: Floats) -> Figure:
    value, low, high = (None if np.isnan(each) else float(each) for each in row)
    return Figure(value, low, high)


def by_class(evaluation: Evaluation) -> list[ClassRow]:
    """Return the figures of each class of queries, sorted by label."""
    labels = np.array(evaluation.queries.classes, object)
    titles = [result.title for result in evaluation.results]
    rows = []
    for label in sorted(set(labels.tolist()) - {""}):
        kept = np.flatnonzero(labels == label)
        figures = figures_of(evaluation.results, kept)
        rows.append(ClassRow(label, len(kept), dict(zip(titles, figures, strict=True))))
    return rows


def _about(evaluation: Evaluation, by_chance: dict[str, float], rows: Sequence[Row]) -> list[str]:
    queries = evaluation.queries
    counts = Counter(label for label in queries.classes if label)
    classes = f" of {_many(len(counts), 'class', 'classes')}" if counts else ""
    left_out = evaluation.judgements.left_out
    dropped = f" {_many(left_out, 'query', 'queries')} without a relevant image left out." if left_out else ""
    shown = [name for name in ("P@5", "mAP") if name in by_chance] or list(by_chance)[:1]
    random = " and ".join(f"{name} {by_chance[name]:.3f}" for name in shown)
    sentences = [
        f"{_many(len(queries), 'query', 'queries')}{classes}.{dropped} A random ranking would have {random}.",
        *queries.notes,
    ]
    return [*sentences, *_undetermined(evaluation, counts, rows)]


def _undetermined(evaluation: Evaluation, counts: Counter[str], rows: Sequence[Row]) -> list[str]:
    queries, main = evaluation.queries, evaluation.main
    widths = [
        (f.high - f.low) / 2 for f in (row.figures[main] for row in rows) if f.high is not None and f.low is not None
    ]
    if not widths:
        return ["One query has no interval: it says nothing about others."]
    if queries.sampled_from:
        missing = len(evaluation.index.classes) - len(counts)
        absent = f" {_many(missing, 'class', 'classes')} of the gallery are not among the queries." if missing else ""
        drawn = (
            f"The queries are a random sample of {queries.sampled_from:,}: the figures of all of them probably lie "
            f"within the 95 % intervals; the sample cannot show smaller differences.{absent}"
        )
    else:
        drawn = "The 95 % intervals say how far the figures would change with other queries of this kind."
    sentences = [f"{drawn} For {main}, they extend up to {max(widths):.3f} to either side."]
    few = sum(count < FEW for count in counts.values())
    if few:
        sentences.append(
            f"{_many(few, 'class has', 'classes have')} fewer than {FEW} queries: their own figures say little."
        )
    return sentences


def _verdict(rows: Sequence[Row], main: str, p: Floats) -> str:
    """Return a sentence on the first place, given the adjusted p-values in the order of the rows."""
    if len(rows) < 2:
        return ""
    first = [row for row in rows if row.place == 1]
    value = f"{main} {rows[0].figures[main].value:.3f}"
    if len(first) == 1:
        return f"{first[0].result.title} is best ({value}): its {main} is significantly higher than that of all others."
    names = [row.result.title for row in first]
    shown = listed(names) if len(names) <= LISTED else f"{', '.join(names[:LISTED])} and {len(names) - LISTED} more"
    apart = int((p[: len(first), : len(first)] < ALPHA).sum()) // 2
    linked = (
        f" {_many(apart, 'pair', 'pairs')} of them can be told apart, but not from those between them." if apart else ""
    )
    return (
        f"{shown} share the first place (highest {value}): they cannot be distinguished by {main} on these queries."
        f"{linked}"
    )


def _warnings(evaluation: Evaluation) -> list[str]:
    return [*_about_copies(evaluation), *_about_sizes(evaluation), *_about_training(evaluation)]


def _about_copies(evaluation: Evaluation) -> list[str]:
    index, queries = evaluation.index, evaluation.queries
    if index.default_features not in queries.vectors:
        return []
    count = nearly_copied(index, queries)
    if not count:
        return []
    phrase = FEATURES[index.default_features].phrase
    return [
        f"{count:,} of {len(queries):,} queries have a near-duplicate in the gallery (cosine of {phrase} at least "
        f"{NEAR}), which is easy to find and raises the figures. `--ignore-alike {NEAR}` leaves near-duplicates out."
    ]


def _about_sizes(evaluation: Evaluation) -> list[str]:
    judged, sentences = evaluation.judgements.judged, list[str]()
    counts = Counter(label for label in evaluation.queries.classes if label).most_common()
    sizes = [count for _, count in counts]
    if len(sizes) > 1 and sizes[0] > UNEVEN * np.median(sizes):
        share = sizes[0] / len(evaluation.queries)
        sentences.append(
            f"Classes have between {sizes[-1]:,} and {sizes[0]:,} queries, and {counts[0][0]!r} has {share:.0%} of "
            "them: means over queries follow the large classes. See the figures per class."
        )
    for k in evaluation.ks:
        best = np.minimum(judged.relevant, k).mean() / k
        if best < REACHABLE:
            few = int((judged.relevant < k).sum())
            many = _many(few, "query has", "queries have")
            sentences.append(f"{many} fewer than {k} relevant images, so P@{k} cannot exceed {best:.3f}.")
    return sentences


def _about_training(evaluation: Evaluation) -> list[str]:
    index, sentences = evaluation.index, list[str]()
    used = [name for name in evaluation.queries.vectors if name in index.manifest.models]
    bundled = [FEATURES[name].title for name in used if index.manifest.features[name].name == BUNDLED]
    others = [FEATURES[name].title for name in used if IMAGENET.search(index.manifest.features[name].name)]
    if bundled and index.manifest.source.bundled == "icons":
        sentences.append(
            f"The bundled model ({listed(bundled)}) was trained with the names and subgroups of these icons, so its "
            "figures are higher here than on images that it does not know."
        )
    elif bundled:
        sentences.append(
            f"The bundled model ({listed(bundled)}) was trained on the classes of ImageNet, so labels among them, or "
            "close to them, are easier for it than others."
        )
    if others:
        sentences.append(
            f"{listed(others)}: the model was trained on ImageNet, so labels among its classes are easier."
        )
    return sentences


def _many(count: int, one: str, several: str) -> str:
    return f"{count:,} {one if count == 1 else several}"
