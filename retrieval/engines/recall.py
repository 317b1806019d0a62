"""The recall of an approximate engine: the share of the 10 closest items, by the exact scan, that it finds.

Whoever builds an engine's files measures it, and writes the figures next to them.
"""

import json
from dataclasses import asdict, dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from retrieval.files import whole_file
from retrieval.metrics import Metric

if TYPE_CHECKING:
    from pydantic import TypeAdapter

K = 10
FLOOR = 0.99  # below this recall, an engine is not trusted


@dataclass(frozen=True)
class Recall:
    """The mean recall@10 over queries by one feature type and metric, and its 95 % confidence interval.

    `ms` and `exact_ms` are the median times of a search by the engine and by the exact scan, in milliseconds. With
    `filtered`, each query searches among the items with one label.
    """

    features: str
    metric: Metric
    filtered: bool
    queries: int
    recall: float
    low: float
    high: float
    ms: float
    exact_ms: float

    def __str__(self) -> str:
        """Return the recall and its interval to show."""
        return f"{self.recall:.3f} ({self.low:.3f} to {self.high:.3f})"


@dataclass(frozen=True)
class GraphPoint:
    """The recall of one collection, by its own metric, for one `ef_search`; `chosen` marks the one that is in use."""

    features: str
    metric: Metric
    max_neighbors: int
    ef_construction: int
    ef_search: int
    recall: float
    ms: float
    chosen: bool = False


@dataclass(frozen=True)
class MeasuredRecall:
    """What was measured when an engine's files were built or updated; `floor` is the recall that was asked for.

    `changed` is the number of images that were inserted or deleted since the files were built.
    """

    floor: float
    images: int
    figures: tuple[Recall, ...]
    curve: tuple[GraphPoint, ...] = ()
    changed: int = 0

    def of(self, features: str, metric: Metric, filtered: bool = False) -> Recall | None:
        """Return the figures of one combination, or None if it was not measured."""
        return {(each.features, each.metric, each.filtered): each for each in self.figures}.get(
            (features, metric, filtered)
        )

    def below_floor(self) -> list[Recall]:
        """Return the figures that are below the floor."""
        return [each for each in self.figures if each.recall < self.floor]


def write_recall(path: Path, measured: MeasuredRecall) -> None:
    """Write figures as JSON; raise OSError if that fails."""
    with whole_file(path) as file:
        file.write(json.dumps(asdict(measured), indent=1).encode())


def read_recall(path: Path) -> MeasuredRecall | None:
    """Return the figures in a file, or None if there are none that can be read."""
    try:
        return _read(path, path.stat().st_mtime_ns)
    except (OSError, ValueError):  # pydantic raises a ValueError
        return None


@lru_cache(maxsize=64)
def _read(path: Path, mtime_ns: int) -> MeasuredRecall:
    return _measured().validate_json(path.read_bytes(), strict=True)


@cache
def _measured() -> "TypeAdapter[MeasuredRecall]":
    from pydantic import TypeAdapter  # takes a tenth of a second to import

    return TypeAdapter(MeasuredRecall)
