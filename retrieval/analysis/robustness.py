"""Robustness: compare the rankings of a query image before and after a distortion, for each feature type."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Any

import numpy as np

from retrieval.analysis.agreement import hits_with_moves, kendall_tau, moves, positions, share_found
from retrieval.analysis.explanation import listed
from retrieval.features import FEATURES, default_first
from retrieval.metrics import Metric, score_pairs
from retrieval.pictures.distortion import UNDISTORTED, Distortion
from retrieval.search.embedding import Embedded, QueryPictures
from retrieval.search.query import Query, Ranking
from retrieval.search.searcher import Searcher


class Kind(StrEnum):
    """The parts of a `Distortion`."""

    ROTATION = "rotation"
    CROP = "crop"
    BLUR = "blur"
    GREY = "grey"
    QUALITY = "quality"


SWEEP: Mapping[Kind, tuple[Distortion, ...]] = {
    Kind.ROTATION: tuple(Distortion(rotation=degrees) for degrees in (15, 45, 90, 180)),
    Kind.CROP: tuple(Distortion(crop=share) for share in (0.2, 0.4, 0.6)),
    Kind.BLUR: tuple(Distortion(blur=share) for share in (0.01, 0.03, 0.1)),
    Kind.GREY: tuple(Distortion(grey=share) for share in (0.5, 1)),
    Kind.QUALITY: tuple(Distortion(quality=quality) for quality in (50, 20, 5)),
}
"""The distortions of a sweep: one kind at a time, weaker before stronger."""

NAMES = {
    Kind.ROTATION: "Rotation",
    Kind.CROP: "Crop",
    Kind.BLUR: "Blur",
    Kind.GREY: "Grey",
    Kind.QUALITY: "JPEG quality",
}
# In the table of a sweep: not tried yet, and a feature type that the gallery does not have.
PENDING = "…"

STEPS = sum(map(len, SWEEP.values()))


@dataclass(frozen=True)
class Withstood:
    """The rankings of one feature type before and after a distortion, and their agreement, by `agreement`."""

    undistorted: Ranking
    distorted: Ranking
    overlap: float
    tau: float
    moves: tuple[int | None, ...]
    cosine: float  # between the two query vectors, whatever the metric; 0 if one of them is zero

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form; the move of a hit that only the distorted image has is null."""
        return {
            "features": self.distorted.features,
            "overlap": self.overlap,
            "tau": self.tau,
            "cosine": self.cosine,
            "undistorted": [hit.to_json() for hit in self.undistorted.hits],
            "distorted": hits_with_moves(self.distorted, self.moves),
        }


@dataclass(frozen=True)
class Robustness:
    """The effect of one distortion on a query's rankings, one entry per feature type of the gallery."""

    query: Query
    by_features: tuple[Withstood, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form that the HTTP API and `robustness --json` share."""
        about = _about(self.query, self.by_features[0].undistorted)
        results = [each.to_json() for each in self.by_features]
        return about | {"distortion": asdict(self.query.distortion), "results": results}


@dataclass(frozen=True)
class Step:
    """The effect of one distortion of a sweep, by feature type."""

    kind: Kind
    distortion: Distortion
    withstood: Mapping[str, Withstood]

    @property
    def strength(self) -> float:
        """The value of the distortion's attribute named by `kind`."""
        return float(getattr(self.distortion, self.kind))

    def overlap(self, features: str) -> float:
        """Return the overlap for a feature type."""
        return self.withstood[features].overlap

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form."""
        figures = {
            features: {"overlap": each.overlap, "tau": each.tau, "cosine": each.cosine}
            for features, each in self.withstood.items()
        }
        return {"kind": str(self.kind), "strength": self.strength, **figures}


def measure(searcher: Searcher, query: Query, pictures: QueryPictures | None = None) -> Robustness:
    """Compare the rankings of a query image before and after the query's distortion, by the exact scan.

    Added images are part of both queries, undistorted. The query's text, feature type and engine are ignored. A caller
    that measures the same images repeatedly passes them as `pictures`. Errors are those of `Searcher.search`.
    """
    query, pictures = _prepared(searcher, query, pictures)
    [withstood] = _withstood(searcher, query, pictures, [query.distortion])
    return Robustness(query, tuple(withstood.values()))


def sweep(searcher: Searcher, query: Query, pictures: QueryPictures | None = None) -> Iterator[Step]:
    """Yield the effect of each distortion of `SWEEP` on a query's rankings; the query's own distortion is ignored.

    The image is decoded once, and embedded in one batch per kind of distortion. `pictures` and errors: see `measure`.
    """
    query, pictures = _prepared(searcher, query, pictures)
    for kind, distortions in SWEEP.items():
        found = _withstood(searcher, query, pictures, distortions)
        yield from (Step(kind, *each) for each in zip(distortions, found, strict=True))


def sweep_to_json(query: Query, steps: Sequence[Step]) -> dict[str, Any]:
    """Return the JSON form of a sweep, which is that of `robustness --json` without a distortion."""
    first = next(iter(steps[0].withstood.values()))
    return _about(query, first.undistorted) | {"steps": [step.to_json() for step in steps]}


def mean_overlaps(steps: Sequence[Step]) -> dict[Kind, dict[str, float]]:
    """Return the mean overlap over the strengths of each kind of distortion, by feature type."""
    return {
        kind: {
            features: float(np.mean([step.overlap(features) for step in steps if step.kind is kind]))
            for features in steps[0].withstood
        }
        for kind in dict.fromkeys(step.kind for step in steps)
    }


def _prepared(searcher: Searcher, query: Query, pictures: QueryPictures | None) -> tuple[Query, QueryPictures]:
    """Return the query without text and with the gallery's default engine, and its images."""
    index = pictures.index if pictures else searcher.indexes.get(query.gallery)
    query = replace(query, text="", without="", engine=index.engines[0])
    return query, pictures or QueryPictures(searcher.embedder, index, query, index.features)


def _withstood(
    searcher: Searcher, query: Query, pictures: QueryPictures, distortions: Sequence[Distortion]
) -> list[dict[str, Withstood]]:
    """Return the effect of each distortion, by feature type."""
    index = pictures.index
    found: list[dict[str, Withstood]] = [{} for _ in distortions]
    for features, images in pictures.main.vectors([UNDISTORTED, *distortions]).items():
        asked = replace(query, features=features)
        clean, *distorted = (
            searcher.embedder.mix(index, asked, pictures, Embedded(each)).vector if query.is_mixed else each
            for each in images
        )
        before = searcher.answer(index, replace(asked, distortion=UNDISTORTED), Embedded(clean))
        there = positions(before)
        for each, distortion, vector in zip(found, distortions, distorted, strict=True):
            after = searcher.answer(index, replace(asked, distortion=distortion), Embedded(vector))
            here = positions(after)
            each[features] = Withstood(
                undistorted=before,
                distorted=after,
                overlap=share_found(here, there),
                tau=kendall_tau(here, there),
                moves=moves(here, there),
                cosine=float(score_pairs(Metric.COSINE, clean, vector[None])[0]),
            )
    return found


def _about(query: Query, ranking: Ranking) -> dict[str, Any]:
    return {
        "gallery": ranking.gallery,
        "model": ranking.model.title,
        "pictures": ranking.size,
        "metric": str(ranking.metric),
        "top_k": query.top_k,
    }


def strength(kind: Kind, value: float) -> str:
    """Return the strength of a distortion, with its unit."""
    if kind is Kind.ROTATION:
        return f"{value:g}°"
    return f"{value:g}" if kind is Kind.QUALITY else f"{value * 100:g} %"


def about_distortion(distortion: Distortion) -> str:
    """Return a description of a distorted query image, used as its alternative text."""
    verbs = {
        Kind.ROTATION: "rotated by {}",
        Kind.CROP: "cropped by {}",
        Kind.BLUR: "blurred by {} of its shorter side",
        Kind.GREY: "{} grey",
        Kind.QUALITY: "saved as JPEG of quality {}",
    }
    done = [
        verb.format(strength(kind, getattr(distortion, kind)))
        for kind, verb in verbs.items()
        if getattr(distortion, kind) != getattr(UNDISTORTED, kind)
    ]
    return f"The query image, {', '.join(done) or 'undistorted'}"


def withstood(result: Withstood) -> str:
    """Return the agreement of two rankings as a line of Markdown."""
    k = len(result.undistorted.hits)
    return (
        f"**{FEATURES[result.distorted.features].title}** · {round(result.overlap * k)} of {k} results kept · "
        f"order (τ) {result.tau:.2f} · cosine {result.cosine:.2f}"
    )


def sweep_columns(names: Iterable[str]) -> list[str]:
    """Return the column heads of the table of a sweep with these feature types."""
    return ["Distortion", *(FEATURES[features].title for features in default_first(names))]


def sweep_rows(steps: Sequence[Step], names: Iterable[str]) -> list[list[str]]:
    """Return the table of a sweep; the cells of distortions that are still to come are `PENDING`."""
    done = {(step.kind, step.distortion): step for step in steps}
    return [
        [
            f"{NAMES[kind]} {strength(kind, getattr(distortion, kind))}",
            *(_shown(done.get((kind, distortion)), features) for features in default_first(names)),
        ]
        for kind, distortions in SWEEP.items()
        for distortion in distortions
    ]


def _shown(step: Step | None, features: str) -> str:
    return PENDING if step is None else f"{step.overlap(features):.2f}"


def lesson(steps: Sequence[Step]) -> str:
    """Return a sentence that says which feature types kept most of their hits under which kinds of distortion."""
    k = len(next(iter(steps[0].withstood.values())).undistorted.hits)
    everything = default_first(steps[0].withstood)
    found: dict[tuple[str, ...], list[str]] = {}  # kinds of distortion by the feature types that kept most
    for kind, means in mean_overlaps(steps).items():
        shown = {features: f"{means[features]:.2f}" for features in everything}  # compared as the reader sees them
        top = max(shown.values())
        best = tuple(features for features, mean in shown.items() if mean == top)
        others = listed([mean for mean in shown.values() if mean != top] or [""])
        name = "JPEG" if kind is Kind.QUALITY else NAMES[kind].lower()
        found.setdefault(best, []).append(f"{name} ({top} against {others})" if others else f"{name} ({top})")
    parts = [
        f"{_keepers(best, everything)} under {listed(kinds)}"
        for best, kinds in sorted(found.items(), key=lambda each: (len(each[0]), list(map(everything.index, each[0]))))
    ]
    return f"Mean overlap@{k} for this image: {'; '.join(parts)}."


def _keepers(best: Sequence[str], everything: Sequence[str]) -> str:
    if len(best) == len(everything):
        return f"{'both' if len(best) == 2 else 'all'} keep the same"
    return f"{listed([FEATURES[each].phrase for each in best])} keep {'more' if len(everything) == 2 else 'most'}"
