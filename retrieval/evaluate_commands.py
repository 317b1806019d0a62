"""The commands `evaluate` and `compare-results` of `python -m retrieval`."""

import argparse
import json
import sys
from collections.abc import Callable

from tqdm import tqdm

from retrieval.analysis import pareto
from retrieval.analysis import queries as protocol
from retrieval.analysis.evaluation import Evaluation
from retrieval.analysis.export import save
from retrieval.analysis.leaderboard import leaderboard
from retrieval.analysis.measures import Ints
from retrieval.analysis.queries import Queries
from retrieval.analysis.results import classes_to_json, markdown, sentences, shown_measures, to_json
from retrieval.analysis.results_comparison import changes_markdown, compare_results, read_results
from retrieval.analysis.trec import Run, encoded, places_of, ranked, read_ignored, read_qrels, read_run
from retrieval.engines import DEFAULT_ENGINE
from retrieval.errors import QueryError
from retrieval.labels import printable
from retrieval.metrics import Metric
from retrieval.search.searcher import Searcher
from retrieval.search.validation import checked_alike, checked_engine, checked_ks
from retrieval.settings import Settings
from retrieval.storage.catalog import Indexes
from retrieval.storage.reader import GalleryIndex


def evaluate(flags: argparse.Namespace, chosen: Settings) -> None:
    """Evaluate a gallery; print a table or JSON, and write the files that are asked for."""
    engine, ks = checked_engine(flags.engine or DEFAULT_ENGINE), checked_ks(flags.k)
    runs = [(path, read_run(path)) for path in flags.run]
    searcher = Searcher(Indexes(chosen.index, server=chosen.server))
    index = searcher.indexes.get(chosen.gallery or "")
    evaluation = Evaluation(index, _queries(flags, searcher, index), ks)
    total = len(index.features) * len(Metric)
    for _ in tqdm(evaluation.run(engine), total=total, unit=" combinations", file=sys.stderr, leave=False):
        pass
    for path, run in runs:
        evaluation.add_run(printable(path.stem), _lookup(run, evaluation))
    board = leaderboard(evaluation)
    costs = pareto.costs(board, searcher.embedder) if flags.pareto else None
    if flags.save:
        written = save(board, flags.save, flags.save_runs, costs)
        print(f"saved: {', '.join(str(path) for path in written)}", file=sys.stderr)
    if flags.plot:
        from retrieval.analysis.plots import plot_costs, plot_results, save_figure  # imports matplotlib

        save_figure(plot_costs(costs) if costs else plot_results(board), flags.plot)
    if costs:
        print(pareto.to_csv(costs), end="")
        print(pareto.sentence(costs), file=sys.stderr)
        return
    if flags.json:
        print(json.dumps({**to_json(board), "per_class": classes_to_json(evaluation)}, indent=1, ensure_ascii=False))
        return
    manifest = index.manifest
    print(f"{manifest.gallery}: {len(index):,} images, {printable(evaluation.queries.about)}, {manifest.model}\n")
    print(markdown(board, shown_measures(evaluation.names)))
    print("\n".join(sentences(board)))


def _queries(flags: argparse.Namespace, searcher: Searcher, index: GalleryIndex) -> Queries:
    """Return the queries that the flags describe."""
    qrels = read_qrels(flags.qrels) if flags.qrels else None
    queries: Queries | None = None
    if flags.queries:
        queries = protocol.from_folder(index, searcher.embedder, flags.queries, flags.queries_split)
        if qrels is None:
            protocol.check_labels(index, queries, flags.queries)
    elif flags.queries_split:
        raise QueryError("`--queries-split` names a split of the dataset in `--queries`. Name that too.")
    if qrels is not None:
        queries = protocol.judged_by(index, qrels, queries)
    elif queries is None:
        if flags.sample is not None and flags.sample < 0:
            raise QueryError("`--sample` must be 0 (all) or more.")
        queries = protocol.leave_one_out(index, protocol.SAMPLE if flags.sample is None else flags.sample or None)
    if flags.ignore:
        queries = protocol.ignoring(index, queries, read_ignored(flags.ignore))
    if flags.ignore_alike is not None:
        queries = protocol.ignoring_alike(index, queries, checked_alike(flags.ignore_alike))
    return queries


def _lookup(run: Run, evaluation: Evaluation) -> Callable[[int], Ints]:
    """Return a function that gives the ranking of a query by its number; a query that the run lacks finds nothing."""
    places, ids = places_of(protocol.ids_of(evaluation.index)), evaluation.queries.ids
    if not any(id in run or encoded(id) in run for id in ids):
        raise QueryError("A run has no query of this evaluation. Check the ids in its first column.")
    return lambda at: ranked(run.get(ids[at], run.get(encoded(ids[at]), {})), places)


def compare_saved(flags: argparse.Namespace, chosen: Settings) -> None:
    """Compare two `results.json` files; print a table or JSON."""
    changes = compare_results(read_results(flags.a), read_results(flags.b), flags.measure)
    print(json.dumps(changes.to_json(), indent=1, ensure_ascii=False) if flags.json else changes_markdown(changes))
