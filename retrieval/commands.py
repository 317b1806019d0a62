"""The commands of `python -m retrieval`, which print text or JSON."""

import argparse
import csv
import json
import os
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tqdm import tqdm

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
from retrieval.analysis.why import ABOUT, Explainer
from retrieval.engines import ENGINES
from retrieval.engines.choice import summary
from retrieval.errors import QueryError, RetrievalError
from retrieval.evaluate_commands import compare_saved, evaluate
from retrieval.features import FEATURES
from retrieval.installation import BUILDER
from retrieval.labels import METRICS, printable, without_formula
from retrieval.metrics import Metric
from retrieval.pictures.loading import read_bytes
from retrieval.search.query import Query, rankings_to_json
from retrieval.search.searcher import Searcher
from retrieval.search.validation import (
    added_to,
    checked_distortion,
    checked_features,
    checked_min_score,
    checked_names,
    checked_query,
    checked_top_k,
    one_of,
)
from retrieval.settings import Settings
from retrieval.storage.catalog import Indexes
from retrieval.storage.projection import Method
from retrieval.storage.reader import GalleryIndex

FIGURES = "recall_figures"  # only in the JSON of `info`
MAPS_WAIT = 600.0  # seconds for another process that computes the same maps
PACKAGES = ("gradio", "transformers", "torch", "chromadb", "datasets", "pillow")


def _indexes(chosen: Settings) -> Indexes:
    return Indexes(chosen.index, server=chosen.server)


def _print_json(value: Mapping[str, Any]) -> None:
    print(json.dumps(value, indent=1, ensure_ascii=False))


def _asked(flags: argparse.Namespace, chosen: Settings, **toggles: Any) -> tuple[Searcher, GalleryIndex, Query]:
    """Return the query that the flags describe, and its gallery.

    Its image is read before anything is loaded, so that a missing file is reported at once.
    """
    image = _image(flags)
    searcher = Searcher(_indexes(chosen), chosen.templates)
    index = searcher.indexes.get(chosen.gallery or "")
    names = ("text", "without", "balance", "region", "alike", "top_k")
    given = {name: getattr(flags, name) for name in names} | {"engine": index.engines[0]}
    given |= {name: value for name, value in toggles.items() if value is not None}
    query = checked_query(picture=image, labels=flags.label, gallery=index.manifest.gallery, **given)
    more, less = ([path if (path := Path(each)).is_file() else each for each in of] for of in (flags.more, flags.less))
    return searcher, index, replace(query, added=added_to(index, more, less))


def _image(flags: argparse.Namespace) -> bytes | None:
    return None if flags.image is None else read_bytes(flags.image)


def _search(flags: argparse.Namespace, chosen: Settings) -> None:
    searcher, index, query = _asked(flags, chosen, metric=flags.metric, engine=flags.engine)
    names = checked_names(flags.by or index.default_features)
    if flags.plot and len(names) > 1:
        raise QueryError("`--plot` draws the results of one feature type. Name one with `--features`.")
    query = replace(query, min_score=checked_min_score(flags.min_score))
    for name in names:  # loaded first, so that the timings are those of the search
        searcher.embedder.feature_set(index, name)
    rankings = searcher.search_each(query, names, index)
    if flags.plot:
        from retrieval.analysis.plots import plot_ranking  # imports matplotlib

        plot_ranking(query, rankings[0], index, flags.plot)
    if flags.json:
        return _print_json(rankings_to_json(rankings))
    for ranking in rankings:
        if len(names) > 1:
            print(f"\n{FEATURES[ranking.features].title}")
        for hit in ranking.hits:
            name, label = printable(name_of(hit)), printable(hit.label)
            print(f"{hit.rank:4}  {number(hit.score):>8}  {name:30.30}  {label:20.20}  {printable(hit.id)}")
        print(f"\n{timings(ranking)}\n{explain(replace(query, **vars(ranking.combination)))}")
        if ranking.engine_note:
            print(ranking.engine_note)
        _print_notes(ranking.notes)
    if flags.plot:
        print(f"plot: {flags.plot}")


def _print_notes(notes: Sequence[str]) -> None:
    for note in notes:
        print(f"note: {note}")


def _compare(flags: argparse.Namespace, chosen: Settings) -> None:
    searcher, index, query = _asked(flags, chosen)
    engines = [name for name, engine in ENGINES.items() if engine.exact] if flags.exact_only else None
    comparison = compare(searcher, query, engines=engines, index=index)
    if flags.json:
        return _print_json(comparison.to_json())
    base, overlap, recall = comparison.baseline.ranking, f"overlap@{query.top_k}", f"recall@{query.top_k}"
    print(f"{base.gallery}: {base.size:,} images, {base.model}\n")
    print(f"{'features':13}  {'metric':11}  {'engine':10}  {overlap}    tau  {recall}  closest")
    for cell in comparison.cells:
        by = cell.combination
        found = "-" if cell.recall is None else f"{cell.recall:.2f}"
        names = ", ".join(f"{printable(name_of(hit)):.16}" for hit in cell.ranking.hits[:3])
        print(
            f"{FEATURES[by.features].title:13}  {METRICS[by.metric]:11}  {ENGINES[by.engine].title:10}  "
            f"{cell.overlap:{len(overlap)}.2f}  {cell.tau:5.2f}  {found:>{len(recall)}}  {names}"
        )
    by = comparison.baseline.combination
    print(
        f"\noverlap and tau (Kendall's tau-b, 1 is the same order): against {FEATURES[by.features].title}, "
        f"{METRICS[by.metric]}, {ENGINES[by.engine].title}; recall: against the exact scan"
    )
    _print_notes(comparison.notes)


def _robustness(flags: argparse.Namespace, chosen: Settings) -> None:
    given = {str(kind): value for kind in Kind if (value := getattr(flags, kind)) is not None}
    query = Query(
        picture=_image(flags),
        distortion=checked_distortion(**given),
        metric=one_of(Metric, flags.metric),
        top_k=checked_top_k(flags.top_k),
        gallery=chosen.gallery or "",
    )
    searcher = Searcher(_indexes(chosen))
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
    names = list(steps[0].withstood)
    heads = sweep_columns(names)[1:]
    print(f"overlap@{query.top_k:<12}  " + "  ".join(heads))
    for name, *shares in sweep_rows(steps, names):
        columns = zip(shares, heads, strict=True)
        print(f"{name:20}  " + "  ".join(f"{share:>{len(column)}}" for share, column in columns))
    print(f"\n{lesson(steps)}")


def _why(flags: argparse.Namespace, chosen: Settings) -> None:
    searcher = Searcher(_indexes(chosen))
    index = searcher.indexes.get(chosen.gallery or "")
    features, metric = checked_features(flags.by or index.default_features), one_of(Metric, flags.metric)
    query = Query(picture=_image(flags), features=features, metric=metric, gallery=index.manifest.gallery)
    position = index.position(flags.id)
    found, picture = Explainer(searcher).why(query, position, index)
    if flags.save and picture:
        from retrieval.analysis.plots import plot_why  # imports matplotlib

        plot_why(found, picture, index.picture(position), flags.save)
    if flags.json:
        return _print_json(found.to_json())
    print(f"{FEATURES[features].title}, {METRICS[metric]}: {number(found.score)}; {ABOUT[found.method]}")
    for title, heat in (("query", found.query), ("result", found.result)):
        if heat:
            rows, columns = heat.contributions.shape
            print(f"\n{title}: share of the brightest cell in %, {rows} x {columns} cells")
            print("\n".join(" ".join(f"{value:3.0f}" for value in row) for row in heat.brightness(metric) * 100))
    if flags.save:
        print(f"plot: {flags.save}")


def _map(flags: argparse.Namespace, chosen: Settings) -> None:
    index = _indexes(chosen).get(chosen.gallery or "")
    features, method = checked_features(flags.by or index.default_features), one_of(Method, flags.method)
    if (features, method) not in index.maps:
        from retrieval.indexing.fit_projection import add_maps

        print("Computing the map ...", file=sys.stderr)
        add_maps(index.snapshot.parent, method, wait=MAPS_WAIT)
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


def _about(name: str, index: GalleryIndex) -> dict[str, object]:
    manifest = index.manifest
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
        "features": {name: FEATURES[name].describe(each) for name, each in manifest.known.items()},
        "created": manifest.created,
        "changes": asdict(manifest.changes),
        "recall": summary(index),
        FIGURES: [asdict(each) for engine in index.engines if (each := index.recall(engine))],
    }


def _info(flags: argparse.Namespace, chosen: Settings) -> None:
    galleries, indexes = list[dict[str, object]](), _indexes(chosen)
    for name in indexes.names():
        try:
            galleries.append(_about(name, indexes.get(name)))
        except RetrievalError as error:
            galleries.append({"name": name, "error": str(error)})
    facts: dict[str, Any] = {
        "index": str(chosen.index),
        "galleries": galleries,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
    }
    if flags.json:
        return _print_json(facts)
    print(f"index: {chosen.index}" + ("" if galleries else f"  (no finished gallery; build one: {BUILDER})"))
    for gallery in galleries:
        print(f"\n{gallery['name']}")
        for key, value in gallery.items():
            if key not in ("name", FIGURES) and value is not None:
                print("\n".join(f"  {key:15} {each}" for each in (value if isinstance(value, list) else [value])))
    print(f"\n{facts['cores']} cores, Python {facts['python']}")
    print(", ".join(f"{name} {found}" for name, found in facts["packages"].items()))


COMMANDS: dict[str, Callable[[argparse.Namespace, Settings], None]] = {
    "search": _search,
    "compare": _compare,
    "robustness": _robustness,
    "why": _why,
    "evaluate": evaluate,
    "compare-results": compare_saved,
    "map": _map,
    "info": _info,
}
