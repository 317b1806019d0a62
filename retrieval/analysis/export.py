"""Write an evaluation's files into a folder: `results.json`, CSV, Markdown, the report, and TREC's formats."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

import numpy as np

from retrieval.analysis import pareto
from retrieval.analysis.evaluation import Evaluation
from retrieval.analysis.leaderboard import Leaderboard
from retrieval.analysis.queries import ids_of
from retrieval.analysis.report import report
from retrieval.analysis.results import classes_to_csv, full_markdown, queries_to_csv, results_json, to_csv
from retrieval.analysis.trec import encoded, write_qrels, write_run
from retrieval.errors import RetrievalError
from retrieval.search.query import Combination


def save(
    board: Leaderboard, folder: Path, run_depth: int = 0, costs: Sequence[pareto.Cost] | None = None
) -> list[Path]:
    """Write an evaluation's files into a folder, and return them.

    With `run_depth`, write qrels and, for each configuration, a TREC run of that many results per query. With `costs`,
    write them and their plot. Raise RetrievalError if the files cannot be written.
    """
    evaluation = board.evaluation
    texts = {
        "results.json": json.dumps(results_json(board), indent=1, ensure_ascii=False),
        "leaderboard.csv": to_csv(board),
        "leaderboard.md": full_markdown(board),
        "per-class.csv": classes_to_csv(evaluation),
        "per-query.csv": queries_to_csv(evaluation),
        "report.html": report(board),
    }
    if costs:
        texts["pareto.csv"] = pareto.to_csv(costs)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            (folder / name).write_text(text, encoding="utf-8")
        written = [folder / name for name in texts]
        if costs:
            from retrieval.analysis.plots import plot_costs, save_figure  # imports matplotlib

            save_figure(plot_costs(costs), folder / "pareto.png")
            written.append(folder / "pareto.png")
        return [*written, *_save_runs(evaluation, folder, run_depth)] if run_depth else written
    except OSError as error:
        raise RetrievalError(
            f"The results cannot be written to `{folder}`: {error.strerror or error}. Choose another folder."
        ) from error


def _save_runs(evaluation: Evaluation, folder: Path, depth: int) -> Iterator[Path]:
    ids = [encoded(id) for id in ids_of(evaluation.index)]
    with (folder / "qrels.txt").open("w", encoding="utf-8") as file:
        write_qrels(file, _qrels(evaluation, ids))
    yield folder / "qrels.txt"
    for result in evaluation.results:
        if result.by is not None:
            path = folder / f"{_tag(result.by)}.run"
            with path.open("w", encoding="utf-8") as file:
                _write_rankings(evaluation, result.by, ids, depth, file)
            yield path


def _tag(by: Combination) -> str:
    return "-".join(by.to_json().values())


def _write_rankings(evaluation: Evaluation, by: Combination, ids: Sequence[str], depth: int, file: IO[str]) -> None:
    tag = _tag(by)
    for at, order in evaluation.rankings(by, depth):
        write_run(file, encoded(evaluation.queries.ids[at]), [ids[each] for each in order], len(ids), tag)


def _qrels(evaluation: Evaluation, ids: Sequence[str]) -> Iterator[tuple[str, str, int]]:
    for part in evaluation.judgements.blocks():
        grades, _ = evaluation.judgements.grades(part)
        for query, row in zip(evaluation.queries.ids[part], grades, strict=True):
            for at in np.flatnonzero(row):
                yield encoded(query), ids[int(at)], int(row[at])
