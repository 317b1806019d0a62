"""Read two `results.json` files back, and compare what they say about the same queries."""

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter, ValidationError

from retrieval.analysis.leaderboard import Figure
from retrieval.analysis.results import FORMAT
from retrieval.analysis.statistics import ALPHA, CONFIDENCE, Floats, holm, paired_p, resampled_means
from retrieval.errors import RetrievalError
from retrieval.labels import printable

BYTES_MAX = 512 * 2**20  # of a file
DIFFERENT = ("dataset", "fingerprint", "features", "queries", "packages")  # parts of `reproduce`


@dataclass(frozen=True)
class PerQuery:
    """Values of each query, by the title of the configuration and by measure; None where there is no value."""

    ids: list[str]
    labels: list[str]
    values: dict[str, dict[str, list[float | None]]]


@dataclass(frozen=True)
class Saved:
    """What a comparison needs of a `results.json`; the first result is the best one."""

    format: int
    gallery: str
    pictures: int
    by: str
    results: list[dict[str, Any]]
    reproduce: dict[str, Any]
    per_query: PerQuery

    @property
    def titles(self) -> list[str]:
        """The titles of the configurations, best first."""
        return [str(result["title"]) for result in self.results]


@dataclass(frozen=True)
class Change:
    """A configuration of each file, both means, and the second minus the first with its 95 % interval.

    Attributes:
        p: of the paired randomisation test, adjusted by Holm's method for all changes; None without shared queries.
    """

    title_a: str
    title_b: str
    a: float
    b: float
    difference: Figure
    p: float | None


@dataclass(frozen=True)
class Changes:
    """The comparison of two files by one measure."""

    measure: str
    shared: int
    queries_a: int
    queries_b: int
    changes: tuple[Change, ...]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form."""
        return asdict(self)


def read_results(path: Path) -> Saved:
    """Return a `results.json`; raise RetrievalError if it cannot be used, which says why."""
    try:
        if path.stat().st_size > BYTES_MAX:
            raise RetrievalError(f"`{path}` is too large for a results.json.")
        saved = _adapter().validate_python(json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise RetrievalError(f"`{path}` cannot be read: {error.strerror or error}.") from error
    except (ValueError, RecursionError) as error:  # also UnicodeDecodeError, JSONDecodeError and ValidationError
        why = _first(error) if isinstance(error, ValidationError) else str(error)
        raise RetrievalError(
            f"`{path}` is not a results.json: {printable(why)[:200]}. Write one with `evaluate --save DIR`."
        ) from error
    if saved.format != FORMAT:
        raise RetrievalError(f"`{path}` has format {saved.format}, but this program reads format {FORMAT}.")
    lengths = {len(column) for table in saved.per_query.values.values() for column in table.values()}
    if lengths - {len(saved.per_query.ids)} or not set(saved.titles) <= set(saved.per_query.values):
        raise RetrievalError(f"`{path}` is damaged: its queries and their values do not match. Evaluate again.")
    return saved


@cache
def _adapter() -> TypeAdapter[Saved]:
    return TypeAdapter(Saved)


def _first(error: ValidationError) -> str:
    wrong = error.errors()[0]
    return f"{'.'.join(map(str, wrong['loc']))}: {wrong['msg']}"


def compare_results(a: Saved, b: Saved, name: str | None = None) -> Changes:
    """Return how the configurations that both files have differ by a measure, and how the best ones differ.

    The measure is that of the first file's places unless another is named. Queries with the same id are paired; without
    any, the two files count as independent samples. Raise RetrievalError if a file lacks the measure.
    """
    name = name or a.by
    left, right = _matched(a.per_query.ids, b.per_query.ids)
    pairs = [(title, title) for title in a.titles if title in b.titles]
    if a.titles[:1] != b.titles[:1] and a.titles and b.titles:
        pairs.insert(0, (a.titles[0], b.titles[0]))
    if not pairs:
        raise RetrievalError("A file has no results. Evaluate again with `evaluate --save DIR`.")
    changes = [_change(_column(a, one, name), _column(b, two, name), left, right) for one, two in pairs]
    adjusted = holm(np.array([p for *_, p in changes], float)) if left else [None] * len(changes)
    rows = [
        Change(one, two, *means, difference, None if p is None else float(p))
        for (one, two), (means, difference, _), p in zip(pairs, changes, adjusted, strict=True)
    ]
    return Changes(name, len(left), len(a.per_query.ids), len(b.per_query.ids), tuple(rows), tuple(_notes(a, b, left)))


def _change(
    a: Floats, b: Floats, left: Sequence[int], right: Sequence[int]
) -> tuple[tuple[float, float], Figure, float | None]:
    outside = (1 - CONFIDENCE) / 2
    p = None
    if left:
        a, b = a[list(left)], b[list(right)]
        p = float(paired_p(np.stack([a, b], axis=1))[0, 1])
    # Equal numbers of queries are resampled alike, which must not pair queries that have nothing in common.
    means_a, means_b = resampled_means(a[:, None]), resampled_means(b[:, None], seed=0 if left else 1)
    low, high = np.quantile(means_b - means_a, [outside, 1 - outside])
    means = (float(a.mean()), float(b.mean()))
    return means, Figure(means[1] - means[0], float(low), float(high)), p


def _matched(a: Sequence[str], b: Sequence[str]) -> tuple[list[int], list[int]]:
    """Return the places of the queries that both have; equal ids are matched in their order."""
    places: defaultdict[str, list[int]] = defaultdict(list)
    for at, id in enumerate(b):
        places[id].append(at)
    matched = [(at, places[id].pop(0)) for at, id in enumerate(a) if places.get(id)]
    return [at for at, _ in matched], [at for _, at in matched]


def _column(saved: Saved, title: str, name: str) -> Floats:
    table = saved.per_query.values[title]
    if name not in table:
        raise RetrievalError(
            f"There is no measure {name[:40]!r} in one of the files. Choose one of: {', '.join(table)}."
        )
    column = np.array(table[name], float)
    if np.isnan(column).any() or not len(column):
        raise RetrievalError(f"{title[:80]} has no {name}: its engine ranks only the first images. Name a `--measure`.")
    return column


def _notes(a: Saved, b: Saved, left: Sequence[int]) -> list[str]:
    notes = []
    if not left:
        notes.append("The files share no query, so their figures are compared as independent samples, without a test.")
    elif len(left) < max(len(a.per_query.ids), len(b.per_query.ids)):
        notes.append(f"Only the {len(left):,} queries that both files have are compared.")
    different = [part for part in DIFFERENT if a.reproduce.get(part) != b.reproduce.get(part)]
    if a.pictures != b.pictures:
        different.insert(0, "number of images")
    if different:
        notes.append(f"The files also differ in: {', '.join(different)}.")
    return notes


def changes_markdown(changes: Changes) -> str:
    """Return a comparison as a table in Markdown, followed by its notes."""
    lines = [f"| configuration | {changes.measure}, a | b | difference | p, Holm |", "|---|---|---|---|---|"]
    for each in changes.changes:
        title = each.title_a if each.title_a == each.title_b else f"best: {each.title_a} / {each.title_b}"
        value, low, high = (f"{number:+.3f}" for number in asdict(each.difference).values())
        p = "-" if each.p is None else f"{each.p:.4f}" + (" *" if each.p < ALPHA else "")
        text = printable(title).replace("|", r"\|")
        lines.append(f"| {text} | {each.a:.3f} | {each.b:.3f} | {value} [{low}, {high}] | {p} |")
    about = [f"{changes.shared:,} shared queries (a {changes.queries_a:,}, b {changes.queries_b:,})."]
    return "\n".join([*lines, "", *about, *changes.notes, *([] if not changes.shared else [SIGNIFICANT])])


SIGNIFICANT = f"* significant: adjusted p below {ALPHA}. Differences are b minus a, with 95 % bootstrap intervals."
