"""An evaluation as JSON, CSV, Markdown and files; `results.json` has what is needed to repeat and to compare it."""

import csv
import io
import platform
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from retrieval.analysis.evaluation import Evaluation, Result
from retrieval.analysis.leaderboard import Figure, Leaderboard, by_class
from retrieval.analysis.statistics import ALPHA, CONFIDENCE, FLIPS, RESAMPLES, SEED
from retrieval.engines import ENGINES
from retrieval.features import FEATURES
from retrieval.labels import METRICS, printable, without_formula

FORMAT = 1
PACKAGES = ("numpy", "torch", "transformers", "timm", "chromadb", "datasets", "pillow", "scikit-image")
DIGITS = 6  # of values of single queries

Json = dict[str, Any]


def shown_measures(names: Sequence[str]) -> list[str]:
    """Return the measures of a short table: P@1 and P@5, or else the first P@k, and mAP."""
    precision = [name for name in ("P@1", "P@5") if name in names] or list(names[:1])
    return [*precision, "mAP"]


def to_json(board: Leaderboard) -> Json:
    """Return the JSON form that the HTTP API and `evaluate --json` share."""
    evaluation = board.evaluation
    manifest = evaluation.index.manifest
    return {
        "gallery": manifest.gallery,
        "pictures": len(evaluation.index),
        "model": manifest.model.title,
        "dtype": manifest.model.dtype,
        "method": evaluation.queries.about,
        "queries": len(evaluation.queries),
        "classes": len(board.classes),
        "by": board.main,
        "verdict": board.verdict,
        "about": list(board.about),
        "warnings": list(board.warnings),
        "chance": board.chance,
        "results": [
            {
                "place": row.place,
                **_named(row.result),
                "better_than": row.better_than,
                "measures": {name: asdict(figure) for name, figure in row.figures.items()},
            }
            for row in board.rows
        ],
    }


def _named(result: Result) -> Json:
    """Return the title and, unless it is a run that was made elsewhere, the three names of a configuration."""
    nothing = dict.fromkeys(("features", "metric", "engine"))
    return {"title": result.title, **(nothing if result.by is None else result.by.to_json())}


def classes_to_json(evaluation: Evaluation) -> list[Json]:
    """Return the figures per class, by the title of the configuration."""
    return [asdict(row) for row in by_class(evaluation)]


def results_json(board: Leaderboard) -> Json:
    """Return the content of `results.json`: the figures, those per class and per query, and how to repeat them."""
    evaluation = board.evaluation
    queries = evaluation.queries
    values = {
        result.title: {
            name: [None if np.isnan(each) else round(each, DIGITS) for each in result.of_queries(name).tolist()]
            for name in evaluation.names
        }
        for result in evaluation.results
    }
    return {
        "format": FORMAT,
        **to_json(board),
        "per_class": classes_to_json(evaluation),
        "reproduce": reproduce(evaluation),
        "per_query": {"ids": list(queries.ids), "labels": list(queries.classes), "values": values},
    }


def reproduce(evaluation: Evaluation) -> Json:
    """Return what determines the figures; paths of this machine are reduced to their last part."""
    manifest = evaluation.index.manifest
    source = asdict(manifest.source)
    source["dataset"] = manifest.source.slug if manifest.source.path else manifest.source.dataset
    features = {name: asdict(each) | {"name": each.title} for name, each in manifest.known.items()}
    return {
        "dataset": source,
        "fingerprint": manifest.fingerprint,
        "matrices": {name: digest for name, digest in manifest.digests.items() if name.endswith(".npy")},
        "created": manifest.created,
        "features": features,
        "queries": dict(evaluation.queries.settings),
        "k": list(evaluation.ks),
        "statistics": {
            "seed": SEED,
            "resamples": RESAMPLES,
            "flips": FLIPS,
            "confidence": CONFIDENCE,
            "alpha": ALPHA,
        },
        "python": platform.python_version(),
        "packages": dict(_versions()),
    }


def _versions() -> Iterator[tuple[str, str]]:
    for name in PACKAGES:
        try:
            yield name, version(name)
        except PackageNotFoundError:
            continue  # timm is optional


def to_csv(board: Leaderboard) -> str:
    """Return one line per configuration, with each measure and the limits of its interval."""
    return csv_text(
        {"place": row.place, **_named(row.result), "better_than": row.better_than, **cells(row.figures)}
        for row in board.rows
    )


def classes_to_csv(evaluation: Evaluation) -> str:
    """Return one line per class and configuration."""
    return csv_text(
        {"label": row.label, "queries": row.queries, "title": title, **cells(figures)}
        for row in by_class(evaluation)
        for title, figures in row.figures.items()
    )


def queries_to_csv(evaluation: Evaluation) -> str:
    """Return one line per query and configuration."""
    queries = evaluation.queries

    def lines() -> Iterator[Json]:
        for result in evaluation.results:
            for id, label, values in zip(queries.ids, queries.classes, result.values.tolist(), strict=True):
                measured = {
                    name: "" if np.isnan(value) else value for name, value in zip(result.names, values, strict=True)
                }
                yield {"query": id, "label": label, **_named(result), **measured}

    return csv_text(lines())


def cells(figures: Mapping[str, Figure]) -> Json:
    """Return figures and the limits of their intervals as cells of a CSV file."""
    return {
        key: "" if value is None else value
        for name, figure in figures.items()
        for key, value in ((name, figure.value), (f"{name} low", figure.low), (f"{name} high", figure.high))
    }


def csv_text(lines: Iterable[Mapping[str, Any]]) -> str:
    """Return lines as CSV with a header; texts of a dataset can be opened in a spreadsheet."""
    text, writer = io.StringIO(), None
    for line in lines:
        writer = writer or csv.DictWriter(text, list(line), lineterminator="\n")
        if not text.tell():
            writer.writeheader()
        writer.writerow(
            {key: without_formula(printable(value)) if isinstance(value, str) else value for key, value in line.items()}
        )
    return text.getvalue()


def markdown(board: Leaderboard, names: Sequence[str]) -> str:
    """Return a table of some measures, with intervals, as Markdown."""
    head = ["place", "features", "metric", "engine", *names]
    lines = [
        head,
        ["---"] * len(head),
        *([str(row.place), *_titles(row.result), *(str(row.figures[name]) for name in names)] for row in board.rows),
        ["", "random order", "", "", *(f"{board.chance[name]:.3f}" for name in names)],
    ]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _titles(result: Result) -> list[str]:
    if result.by is None:
        return [printable(result.title).replace("|", r"\|"), "", ""]
    return [FEATURES[result.by.features].title, METRICS[result.by.metric], ENGINES[result.by.engine].title]


def sentences(board: Leaderboard) -> list[str]:
    """Return the sentences of an evaluation, for one line each."""
    return [printable(each) for each in (board.verdict, *board.about, *board.warnings) if each]


def full_markdown(board: Leaderboard) -> str:
    """Return what describes an evaluation, with all measures, as Markdown."""
    evaluation = board.evaluation
    manifest = evaluation.index.manifest
    about = f"{manifest.gallery}: {len(evaluation.index):,} images, {evaluation.queries.about}, {manifest.model}."
    short = shown_measures(evaluation.names)
    others = [name for name in evaluation.names if name not in short]
    parts = [f"# Evaluation of {printable(manifest.gallery)}", printable(about), markdown(board, short).strip()]
    parts += ["\n".join(f"- {each}" for each in sentences(board)), "## Other measures", markdown(board, others).strip()]
    return "\n\n".join(parts) + "\n"
