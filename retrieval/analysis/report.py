"""A report on an evaluation as one HTML file, with its images inside."""

import base64
import io
import json
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from string import Template

import numpy as np

from retrieval.analysis.evaluation import Evaluation, Result
from retrieval.analysis.explanation import name_of
from retrieval.analysis.leaderboard import Leaderboard, by_class
from retrieval.analysis.results import reproduce, sentences, shown_measures
from retrieval.labels import printable
from retrieval.search.query import Combination

TEMPLATE = Path(__file__).with_name("report.html")
QUERIES = 5  # best, and as many worst
HITS = 8
CLASSES = 200  # listed


def report(board: Leaderboard) -> str:
    """Return the report as HTML. Texts of the dataset are escaped, and the file loads nothing."""
    from retrieval.analysis.plots import as_picture, plot_results  # imports matplotlib

    evaluation = board.evaluation
    manifest = evaluation.index.manifest
    best = next(row.result for row in board.rows if row.result.by is not None)
    buffer = io.BytesIO()
    as_picture(plot_results(board, dark=False)).save(buffer, "png")
    order = np.argsort(-_precision(best), kind="stable")
    first = order[:QUERIES]
    last = order[::-1][: min(QUERIES, len(order) - len(first))]
    return Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        title=_text(f"Evaluation of {manifest.gallery}"),
        about=_text(f"{len(evaluation.index):,} images, {evaluation.queries.about}, {manifest.model}."),
        sentences="".join(f"<li>{_text(each)}" for each in sentences(board)),
        table=_leaderboard(board),
        verdict=_text(board.verdict),
        plot=_data("image/png", buffer.getvalue()),
        best=_text(best.title),
        classes=_classes(evaluation, best),
        best_queries=_rows(evaluation, best, first),
        worst_queries=_rows(evaluation, best, last) or "<p>The others are above.</p>",
        reproduce=_text(json.dumps(reproduce(evaluation), indent=1, ensure_ascii=False), lines=True),
    )


def _precision(result: Result) -> np.ndarray:
    """Return the average precision of each query, or P@k of an engine that does not rank the whole gallery."""
    names = shown_measures(result.names)
    return result.of_queries(names[-1] if result.mean(names[-1]) is not None else names[-2])


def _text(text: str, lines: bool = False) -> str:
    return "\n".join(escape(printable(line)) for line in text.split("\n")) if lines else escape(printable(text))


def _data(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    titles = "".join(f"<th>{_text(each)}" for each in head)
    return (
        f"<table><tr>{titles}"
        + "".join(f"<tr>{''.join(f'<td>{_text(each)}' for each in row)}" for row in rows)
        + "</table>"
    )


def _leaderboard(board: Leaderboard) -> str:
    names = shown_measures(board.evaluation.names)
    rows = [[str(row.place), row.result.title, *(str(row.figures[name]) for name in names)] for row in board.rows]
    return _table(
        ["Place", "Configuration", *names], [*rows, ["", "Random order", *(f"{board.chance[n]:.3f}" for n in names)]]
    )


def _classes(evaluation: Evaluation, best: Result) -> str:
    names = shown_measures(evaluation.names)
    rows = [
        [row.label, f"{row.queries:,}", *(str(row.figures[best.title][name]) for name in names)]
        for row in by_class(evaluation)
    ]
    more = f"<p>{len(rows) - CLASSES:,} more classes are in per-class.csv.</p>" if len(rows) > CLASSES else ""
    return _table(["Class", "Queries", *names], rows[:CLASSES]) + more


def _rows(evaluation: Evaluation, best: Result, chosen: np.ndarray) -> str:
    """Return a row of images for each of some queries: the query, then its first results."""
    by, found = best.by or Combination(), dict[int, str]()
    precision = _precision(best)
    for at, order in evaluation.rankings(by, HITS, set(chosen.tolist())):
        grades, _ = evaluation.judgements.grades(slice(at, at + 1))
        hits = [_hit(evaluation, int(place), int(grades[0, place])) for place in order]
        found[at] = f'<div class="query">{_query(evaluation, at, float(precision[at]))}{"".join(hits)}</div>'
    return "".join(found[at] for at in chosen.tolist())


def _query(evaluation: Evaluation, at: int, precision: float) -> str:
    queries = evaluation.queries
    position = int(queries.positions[at])
    if position >= 0:
        image = _image(evaluation.index.thumbnail(position).read_bytes(), "query")
    else:
        image = _image(queries.pictures[at], "query") if queries.pictures else '<span class="none"></span>'
    label = f"{queries.classes[at]}, " if queries.classes[at] else ""
    about = _text(f"{queries.ids[at]} ({label}{precision:.3f})")
    return f"<figure>{image}<figcaption><b>Query</b> {about}</figcaption></figure>"


def _hit(evaluation: Evaluation, position: int, grade: int) -> str:
    entry = evaluation.index.entry(position)
    kind = "right" if grade > 0 else "wrong"
    image = _image(evaluation.index.thumbnail(position).read_bytes(), name_of(entry))
    about = _text(f"{'✓' if grade > 0 else '✗'} {name_of(entry)} ({entry.label})")
    return f'<figure class="{kind}">{image}<figcaption>{about}</figcaption></figure>'


def _image(content: bytes, alt: str) -> str:
    return f'<img alt="{_text(alt)}" src="{_data("image/jpeg", content)}">'
