"""Choose the engine for a search that leaves it open, and say what to know about the one that is used."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from retrieval.engines import AUTO, ENGINES
from retrieval.engines.recall import K, MeasuredRecall
from retrieval.labels import METRICS
from retrieval.metrics import DEFINITIONS, Metric


class Measured(Protocol):
    """The part of an index that an engine is chosen by."""

    @property
    def engines(self) -> Sequence[str]:
        """The names of the engines that can search the gallery, the default one first."""

    def recall(self, engine: str) -> MeasuredRecall | None:
        """Return the measured recall of an engine, or None."""

    def __len__(self) -> int:
        """Return the number of items."""


@dataclass(frozen=True)
class Choice:
    """The engine to use, and a sentence on why, or on what it may miss; empty if there is nothing to say."""

    engine: str
    note: str


def resolve(engine: str, gallery: Measured, by: tuple[str, Metric], allowed: int | None) -> Choice:
    """Return the engine for a search by a feature type and metric among `allowed` items (None: all).

    `auto` is the exact scan where it is about as fast as the other engine was when both were measured, or where that
    one's recall is below its floor. The time of the exact scan grows with the number of items that a filter leaves.
    """
    if engine != AUTO:
        return Choice(engine, distrust(engine, gallery, by))
    first, *others = gallery.engines
    if not ENGINES[first].exact:
        return Choice(first, f"Only {ENGINES[first].title} can search this gallery.")
    reasons = []
    for name in (each for each in others if not ENGINES[each].exact):
        faster, reason = _compared(name, gallery, by, allowed)
        if faster:
            return Choice(name, reason)
        reasons.append(reason)
    return Choice(first, " ".join(reasons))


def _compared(name: str, gallery: Measured, by: tuple[str, Metric], allowed: int | None) -> tuple[bool, str]:
    """Return whether an engine finds enough and is faster than the exact scan, and the reason."""
    title, measured = ENGINES[name].title, gallery.recall(name)
    whole = None if measured is None else measured.of(*by)
    if measured is None or whole is None:
        return False, f"The recall of {title} was not measured in this gallery."
    if note := distrust(name, gallery, by):
        return False, note
    figures = whole if allowed is None else measured.of(*by, filtered=True) or whole
    count = len(gallery) if allowed is None else allowed
    exact_ms = whole.exact_ms * count / measured.images
    return exact_ms > figures.ms, (
        f"Comparing {count:,} images takes about {exact_ms:.1f} ms, {title} about {figures.ms:.1f} ms, with "
        f"recall@{K} {figures}."
    )


def distrust(engine: str, gallery: Measured, by: tuple[str, Metric]) -> str:
    """Return why an engine's results by a feature type and metric cannot be trusted; empty if they can."""
    measured = gallery.recall(engine)
    found = [measured.of(*by, filtered) for filtered in (False, True)] if measured else []
    low = [each for each in found if each and measured and each.recall < measured.floor]
    if not low or not measured:
        return ""
    title, worst = ENGINES[engine].title, min(low, key=lambda each: each.recall)
    filtered = " with a filter by label" if worst.filtered else ""
    return (
        f"{title} cannot be trusted for {by[0]} by {METRICS[by[1]]} in this gallery: recall@{K} is {worst}{filtered}, "
        f"below {measured.floor:g}. {_cause(title, by[1], measured)}"
    )


def _cause(title: str, metric: Metric, measured: MeasuredRecall) -> str:
    native = DEFINITIONS[metric].neighbours
    if native:
        return f"{title} finds candidates by {METRICS[native]}, which the closest by {METRICS[metric]} are not among."
    most = max((each.ef_search for each in measured.curve), default=0)
    return f"Even with ef_search {most:,}, its graph does not lead to them. Vectors without clusters are hard to index."


def summary(gallery: Measured) -> list[str]:
    """Return what was measured of each approximate engine of a gallery, and where it cannot be trusted."""
    lines = []
    for name in gallery.engines:
        if ENGINES[name].exact:
            continue
        title, measured = ENGINES[name].title, gallery.recall(name)
        if measured is None or not measured.figures:
            lines.append(f"{title}: not measured")
            continue
        figures = measured.figures
        low, high = (min(each.recall for each in figures), max(each.recall for each in figures))
        lines.append(
            f"{title}: recall@{K} {low:.3f} to {high:.3f} by feature type, metric and filter (95 % intervals from "
            f"{min(each.low for each in figures):.3f}; floor {measured.floor:g})"
        )
        kinds = dict.fromkeys((each.features, each.metric) for each in measured.below_floor())
        lines += [distrust(name, gallery, by) for by in kinds]
    return lines


def about_recall(engine: str, gallery: Measured, by: tuple[str, Metric]) -> str:
    """Return the recall of an engine in a gallery by a feature type and metric, to show."""
    measured = gallery.recall(engine)
    found = measured.of(*by) if measured else None
    return f"recall@{K} in this gallery: {found or 'not measured'}"
