"""The commands of `python -m retrieval`, which print text or JSON."""

import argparse
import csv
import json
import platform
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

from tqdm import tqdm

from retrieval.analysis import evaluation
from retrieval.analysis.agreement import move
from retrieval.analysis.comparison import compare
from retrieval.analysis.explanation import caption, explain, name_of, number, timings
from retrieval.analysis.gallery_map import as_rows, map_title
from retrieval.analysis.robustness import (
    STEPS,
    Kind,
    about_distortion,
    lesson,
    measure,
    sweep,
    sweep_columns,
    sweep_rows,
    sweep_to_json,
    withstood,
)
from retrieval.engines import ENGINES
from retrieval.errors import QueryError, RetrievalError
from retrieval.features import FEATURES
from retrieval.labels import METRICS, printable, without_formula
from retrieval.metrics import Metric
from retrieval.search.query import Query
from retrieval.search.searcher import Searcher
from retrieval.search.validation import (
    checked_distortion,
    checked_engine,
    checked_features,
    checked_query,
    checked_top_k,
    one_of,
)
from retrieval.settings import Settings
from retrieval.storage.catalog import Indexes
from retrieval.storage.manifest import Manifest
from retrieval.storage.projection import Method

PACKAGES = ("gradio", "transformers", "torch", "chromadb", "datasets", "pillow")


def _print_json(value: Mapping[str, Any]) -> None:
    print(json.dumps(value, indent=1, ensure_ascii=False))


def _asked(flags: argparse.Namespace, chosen: Settings) -> dict[str, Any]:
    names = ("text", "without", "balance", "region", "alike")
    given = {name: getattr(flags, name) for name in names}
    return given | {"picture": flags.image, "labels": flags.label, "gallery": chosen.gallery or ""}


def _search(flags: argparse.Namespace, chosen: Settings) -> None:
    searcher = Searcher(Indexes(chosen.index), chosen.templates)
    by = {"features": flags.features, "metric": flags.metric, "engine": flags.engine}
    query = checked_query(**_asked(flags, chosen), **by, top_k=flags.top_k)
    # Loaded first, so that the timings are those of the search.
    searcher.embedder.feature_set(searcher.indexes.get(query.gallery), query.features)
    ranking = searcher.search(query)
    if flags.plot:
        from retrieval.analysis.plots import plot_ranking  # imports matplotlib

        plot_ranking(query, ranking, searcher.indexes.get(ranking.gallery), flags.plot)
    if flags.json:
        return _print_json(ranking.to_json())
    for hit in ranking.hits:
        name, label = printable(name_of(hit)), printable(hit.label)
        print(f"{hit.rank:4}  {number(hit.score):>8}  {name:30.30}  {label:20.20}  {printable(hit.id)}")
    print(f"\n{timings(ranking)}\n{explain(query)}")
    if flags.plot:
        print(f"plot: {flags.plot}")


def _compare(flags: argparse.Namespace, chosen: Settings) -> None:
    query = checked_query(**_asked(flags, chosen), top_k=flags.top_k)
    engines = [name for name, engine in ENGINES.items() if engine.exact or not flags.exact_only]
    comparison = compare(Searcher(Indexes(chosen.index), chosen.templates), query, engines=engines)
    if flags.json:
        return _print_json(comparison.to_json())
    base, overlap, recall = comparison.baseline.ranking, f"overlap@{query.top_k}", f"recall@{query.top_k}"
    print(f"{base.gallery}: {base.size:,} images, {base.model}\n")
    print(f"{'features':13}  {'metric':11}  {'engine':10}  {overlap}    tau  {recall}  closest")
    for cell in comparison.cells:
        by = cell.combination
        found = "-" if cell.recall is None else f"{cell.recall:.2f}"
        names = ", ".join(f"{printable(name_of(hit)):.20}" for hit in cell.ranking.hits[:3])
        print(
            f"{FEATURES[by.features].title:13}  {METRICS[by.metric]:11}  {ENGINES[by.engine].title:10}  "
            f"{cell.overlap:{len(overlap)}.2f}  {cell.tau:5.2f}  {found:>{len(recall)}}  {names}"
        )
    by = comparison.baseline.combination
    print(
        f"\noverlap and tau (Kendall's tau-b, 1 is the same order): against {FEATURES[by.features].title}, "
        f"{METRICS[by.metric]}, {ENGINES[by.engine].title}; recall: against the exact scan"
    )


def _robustness(flags: argparse.Namespace, chosen: Settings) -> None:
    given = {str(kind): value for kind in Kind if (value := getattr(flags, kind)) is not None}
    query = Query(
        picture=flags.image,
        distortion=checked_distortion(**given),
        metric=one_of(Metric, flags.metric),
        top_k=checked_top_k(flags.top_k),
        gallery=chosen.gallery or "",
    )
    searcher = Searcher(Indexes(chosen.index))
    if given:
        _one_distortion(searcher, query, flags.json)
    else:
        _every_distortion(searcher, query, flags.json)


def _one_distortion(searcher: Searcher, query: Query, as_json: bool) -> None:
    result = measure(searcher, query)
    if as_json:
        return _print_json(result.to_json())
    print(f"{about_distortion(query.distortion)}\n")
    for each in result.by_features:
        print(withstood(each).replace("**", ""))
        for before, after, moved in zip(each.undistorted.hits, each.distorted.hits, each.moves, strict=True):
            left, right = (printable(caption(hit)) for hit in (before, after))
            print(f"  {left:36.36}  {right:36.36}  {move(moved)}".rstrip())
        print()


def _every_distortion(searcher: Searcher, query: Query, as_json: bool) -> None:
    steps = list(tqdm(sweep(searcher, query), total=STEPS, unit=" distortions", file=sys.stderr, leave=False))
    if as_json:
        return _print_json(sweep_to_json(query, steps))
    ranking = next(iter(steps[0].withstood.values())).undistorted
    print(f"{ranking.gallery}: {ranking.size:,} images, {ranking.model}, {METRICS[ranking.metric]}\n")
    print(f"overlap@{query.top_k:<12}  " + "  ".join(sweep_columns()[1:]))
    for name, *shares in sweep_rows(steps):
        columns = zip(shares, sweep_columns()[1:], strict=True)
        print(f"{name:20}  " + "  ".join(f"{share:>{len(column)}}" for share, column in columns))
    print(f"\n{lesson(steps)}")


def _evaluate(flags: argparse.Namespace, chosen: Settings) -> None:
    engine = checked_engine(flags.engine)
    searcher = Searcher(Indexes(chosen.index))
    index = searcher.indexes.get(chosen.gallery or "")
    if flags.queries:
        queries = evaluation.from_folder(index, searcher.embedder, flags.queries)
        counted = queries.counted
        method = f"{len(queries.labels):,} queries from {flags.queries}"
        if counted < len(queries.labels):
            method += f", of which {counted:,} count: no image of the gallery has the label of the others"
    else:
        if flags.sample is not None and flags.sample < 0:
            raise QueryError("`--sample` must be 0 (all) or more.")
        sample = evaluation.SAMPLE if flags.sample is None else flags.sample or None
        queries = evaluation.leave_one_out(index, sample)
        method = f"leave-one-out over {len(queries.labels):,} images"
    total = len(index.features) * len(Metric)
    found = evaluation.evaluate(index, queries, engine)
    results = list(tqdm(found, total=total, unit=" combinations", file=sys.stderr, leave=False))
    manifest = index.manifest
    if flags.json:
        about = {"gallery": manifest.gallery, "model": manifest.model.name, "dtype": manifest.model.dtype}
        rows = [result.to_json() for result in results]
        return _print_json({**about, "method": method, "pictures": len(index), "results": rows})
    print(f"{manifest.gallery}: {len(index):,} images, {method}, {manifest.model}\n")
    print("| features | metric | engine | P@1 | P@5 | mAP |\n|---|---|---|---|---|---|")
    for r in results:
        mean = "-" if r.map is None else f"{r.map:.3f}"
        names = f"{FEATURES[r.features].title} | {METRICS[r.metric]} | {ENGINES[r.engine].title}"
        print(f"| {names} | {r.p_at_1:.3f} | {r.p_at_5:.3f} | {mean} |")


def _map(flags: argparse.Namespace, chosen: Settings) -> None:
    index = Indexes(chosen.index).get(chosen.gallery or "")
    features, method = checked_features(flags.features), one_of(Method, flags.method)
    rows = as_rows(index, features, method)
    if flags.plot:
        from retrieval.analysis.plots import plot_map  # imports matplotlib

        plot_map(index, features, method, flags.plot)
    if flags.json:
        about = {"gallery": index.manifest.gallery, "features": features, "method": method}
        return _print_json({**about, "variance_kept": index.map(features, method).kept, "pictures": rows})
    writer = csv.DictWriter(sys.stdout, ["id", "label", "x", "y"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(row | {name: without_formula(printable(row[name])) for name in ("id", "label")} for row in rows)
    print(map_title(index, features, method), file=sys.stderr)  # not into the table, which may go into a file


def _about(name: str, manifest: Manifest) -> dict[str, object]:
    return {
        "name": name,
        "pictures": manifest.pictures,
        "skipped": manifest.skipped,
        "ignored": sum(manifest.ignored.values()),
        "dataset": manifest.source.dataset,
        "split": manifest.source.split,
        "model": manifest.model.name,
        "model_revision": manifest.model.revision,
        "dtype": manifest.model.dtype,
        "dimensions": manifest.model.dimensions,
        "features": {name: identity.preprocessing for name, identity in manifest.features.items()},
        "created": manifest.created,
        "changes": asdict(manifest.changes),
    }


def _info(flags: argparse.Namespace, chosen: Settings) -> None:
    import torch

    from retrieval.features.encoder import best_device, best_dtype

    device, galleries, indexes = best_device(), list[dict[str, object]](), Indexes(chosen.index)
    for name in indexes.names():
        try:
            galleries.append(_about(name, indexes.get(name).manifest))
        except RetrievalError as error:
            galleries.append({"name": name, "error": str(error)})
    facts: dict[str, Any] = {
        "index": str(chosen.index),
        "galleries": galleries,
        "device": device,
        "dtype": best_dtype(device),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
    }
    if flags.json:
        return _print_json(facts)
    print(
        f"index: {chosen.index}" + ("" if galleries else "  (no finished gallery; build one: python index_builder.py)")
    )
    for gallery in galleries:
        print(f"\n{gallery['name']}")
        print("\n".join(f"  {key:15} {value}" for key, value in gallery.items() if key != "name" and value is not None))
    print(f"\ndevice {device}, dtype {facts['dtype']}, {facts['threads']} threads, Python {facts['python']}")
    print(", ".join(f"{name} {found}" for name, found in facts["packages"].items()))


COMMANDS: dict[str, Callable[[argparse.Namespace, Settings], None]] = {
    "search": _search,
    "compare": _compare,
    "robustness": _robustness,
    "evaluate": _evaluate,
    "map": _map,
    "info": _info,
}
