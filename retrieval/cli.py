"""The command line: `python -m retrieval search | compare | robustness | evaluate | map | info`."""

import argparse
import csv
import json
import logging
import platform
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from retrieval import hub, settings
from retrieval.errors import QueryError, RetrievalError

EXAMPLES = """examples:
  python -m retrieval search cat.jpg --top-k 5
  python -m retrieval search cat.jpg --features pixels --metric l1 --engine chroma --plot hits.png
  python -m retrieval search --text "red fruit" --label food-drink
  python -m retrieval search cat.jpg --text black --balance 0.4 --without dog
  python -m retrieval search street.jpg --region 0.5,0.2,1,0.9 --alike 0.95
  python -m retrieval search cat.jpg --json | jq .hits
  python -m retrieval compare cat.jpg --top-k 5       every features x metric x engine, side by side
  python -m retrieval robustness cat.jpg              which features withstand which distortions
  python -m retrieval robustness cat.jpg --rotation 30 --quality 20
  python -m retrieval evaluate                        leave-one-out over the gallery's labels
  python -m retrieval evaluate --queries test_photos  class folders as queries
  python -m retrieval map --plot map.png              the gallery on a plane; id, label, x, y as CSV
  python -m retrieval info
"""


def main(arguments: list[str] | None = None) -> int:
    """Run a command; return the exit code: 0 done, 2 a worded error, 130 stopped."""
    flags, chosen = settings.parse(_parser(), arguments)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("retrieval.fetching").setLevel(logging.INFO)  # from a server, which may take a while
    hub.bound_access()
    try:
        commands = {
            "search": _search,
            "compare": _compare,
            "robustness": _robustness,
            "evaluate": _evaluate,
            "map": _map,
            "info": _info,
        }
        commands[flags.command](flags, chosen)
    except RetrievalError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Stopped.", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 0  # the reader, such as `head`, has seen enough
    return 0


def _parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        "python -m retrieval", description="Search a gallery by picture.", epilog=EXAMPLES, formatter_class=raw
    )
    commands = parser.add_subparsers(dest="command", required=True)

    search = commands.add_parser("search", help="rank the gallery by a picture", epilog=EXAMPLES, formatter_class=raw)
    search.add_argument("--features", default="clip", metavar="pixels|clip", help="default: %(default)s")
    search.add_argument("--metric", default="cosine", metavar="l1|l2|cosine|correlation", help="default: %(default)s")
    search.add_argument("--engine", default="exact", metavar="exact|chroma", help="default: %(default)s")
    search.add_argument("--top-k", type=int, default=10, metavar="K", help="how many (default: %(default)s)")
    search.add_argument("--plot", type=Path, metavar="PNG", help="draw the query and its ranked results")

    compare = commands.add_parser(
        "compare", help="one picture by every features x metric x engine", epilog=EXAMPLES, formatter_class=raw
    )
    compare.add_argument("--top-k", type=int, default=5, metavar="K", help="how many (default: %(default)s)")
    compare.add_argument(
        "--exact-only", action="store_true", help="leave out ChromaDB, which only one process at a time can use"
    )

    robustness = commands.add_parser(
        "robustness",
        help="what distortions of one picture do to its ranking",
        description="What a distorted picture still finds; without a distortion, many are tried one after another.",
        epilog=EXAMPLES,
        formatter_class=raw,
    )
    robustness.add_argument("image", type=Path, metavar="IMAGE", help="the query picture")
    robustness.add_argument("--rotation", type=float, metavar="DEG", help="degrees counter-clockwise, -180 to 180")
    robustness.add_argument("--crop", type=float, metavar="SHARE", help="cut away around the middle, 0 to 0.9")
    robustness.add_argument("--blur", type=float, metavar="SHARE", help="Gaussian, of the shorter side, 0 to 0.1")
    robustness.add_argument("--grey", type=float, metavar="SHARE", help="mixed in, 0 to 1")
    robustness.add_argument("--quality", type=int, metavar="Q", help="of a JPEG, 1 to 100; 100 leaves it as it is")
    robustness.add_argument("--metric", default="cosine", metavar="l1|l2|cosine|correlation", help="default: cosine")
    robustness.add_argument("--top-k", type=int, default=10, metavar="K", help="how many (default: %(default)s)")

    evaluate = commands.add_parser(
        "evaluate", help="P@1, P@5 and mAP of every features x metric", epilog=EXAMPLES, formatter_class=raw
    )
    evaluate.add_argument(
        "--queries", metavar="DIR", help="labelled query pictures, one folder a class (default: leave-one-out)"
    )
    evaluate.add_argument("--engine", default="exact", metavar="exact|chroma", help="default: %(default)s")
    evaluate.add_argument(
        "--sample",
        type=int,
        metavar="N",
        help="leave-one-out over N random pictures, 0 for all (default: at most 2000)",
    )

    places = commands.add_parser(
        "map", help="the gallery on a plane: id, label, x, y as CSV", epilog=EXAMPLES, formatter_class=raw
    )
    places.add_argument("--features", default="clip", metavar="pixels|clip", help="default: %(default)s")
    places.add_argument("--method", default="pca", metavar="pca|tsne", help="default: %(default)s")
    places.add_argument("--plot", type=Path, metavar="PNG", help="draw it, coloured by label")

    info = commands.add_parser("info", help="galleries, models, versions", epilog=EXAMPLES, formatter_class=raw)
    for command in (search, compare, robustness, evaluate, places, info):
        settings.add_index_flag(command)
        command.add_argument("--json", action="store_true", help="print JSON")
    for command in (search, compare):
        _add_query_flags(command)
        settings.add_template_flag(command)
    for command in (search, compare, robustness, evaluate, places):
        settings.add_gallery_flag(command, "which gallery of the index (default: its only or first one)")
    return parser


def _add_query_flags(parser: argparse.ArgumentParser) -> None:
    """Add what is asked, however it is ranked."""
    query = parser.add_argument_group("query")
    query.add_argument("image", type=Path, nargs="?", metavar="IMAGE", help="the query picture")
    query.add_argument("--text", default="", help="what to look for in words, alone or beside the picture")
    query.add_argument("--without", default="", metavar="TEXT", help="what to stay away from, in words")
    query.add_argument(
        "--balance",
        type=float,
        default=0.5,
        metavar="B",
        help="share of the words beside a picture, 0 to 1 (default: 0.5)",
    )
    query.add_argument("--label", action="append", default=[], metavar="NAME", help="only this class; may be repeated")
    query.add_argument(
        "--region",
        type=_numbers,
        metavar="L,T,R,B",
        help="search only this part of the picture: left, top, right, bottom as shares, such as 0.2,0,0.8,0.5",
    )
    query.add_argument(
        "--alike",
        type=float,
        default=1,
        metavar="C",
        help="of pictures whose CLIP features have a cosine of C or more show one (default: 1, all)",
    )


def _numbers(text: str) -> list[float]:
    try:
        return [float(each) for each in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be numbers with commas between them, not {text[:40]!r}") from None


def _asked(flags: argparse.Namespace, chosen: settings.Settings) -> dict[str, Any]:
    return {
        "picture": flags.image,
        "text": flags.text,
        "without": flags.without,
        "balance": flags.balance,
        "labels": flags.label,
        "region": flags.region,
        "alike": flags.alike,
        "gallery": chosen.gallery or "",
    }


def _search(flags: argparse.Namespace, chosen: settings.Settings) -> None:
    from retrieval.analysis.explanation import explain, name_of, number, timings
    from retrieval.search.searcher import Searcher
    from retrieval.search.validation import checked_query
    from retrieval.storage.catalog import Indexes

    searcher = Searcher(Indexes(chosen.index), chosen.templates)
    query = checked_query(
        **_asked(flags, chosen), features=flags.features, metric=flags.metric, engine=flags.engine, top_k=flags.top_k
    )
    # Loaded first, so that the timings are those of the search.
    searcher.embedder.feature_set(searcher.indexes.get(query.gallery), query.features)
    ranking = searcher.search(query)
    if flags.plot:
        from retrieval.analysis.plots import plot_ranking

        plot_ranking(query, ranking, searcher.indexes.get(ranking.gallery), flags.plot)
    if flags.json:
        print(json.dumps(ranking.to_json(), indent=1, ensure_ascii=False))
        return
    for hit in ranking.hits:
        print(f"{hit.rank:4}  {number(hit.score):>8}  {name_of(hit):30.30}  {hit.label:20.20}  {hit.id}")
    print(f"\n{timings(ranking)}\n{explain(query)}")
    if flags.plot:
        print(f"plot: {flags.plot}")


def _compare(flags: argparse.Namespace, chosen: settings.Settings) -> None:
    from retrieval.analysis.comparison import compare
    from retrieval.analysis.explanation import name_of
    from retrieval.engines import ENGINES
    from retrieval.features import FEATURES
    from retrieval.labels import METRICS
    from retrieval.search.searcher import Searcher
    from retrieval.search.validation import checked_query
    from retrieval.storage.catalog import Indexes

    query = checked_query(**_asked(flags, chosen), top_k=flags.top_k)
    engines = [name for name, engine in ENGINES.items() if engine.exact or not flags.exact_only]
    comparison = compare(Searcher(Indexes(chosen.index), chosen.templates), query, engines=engines)
    if flags.json:
        print(json.dumps(comparison.to_json(), indent=1, ensure_ascii=False))
        return
    base, overlap, recall = comparison.baseline.ranking, f"overlap@{query.top_k}", f"recall@{query.top_k}"
    print(f"{base.gallery}: {base.size:,} images, {base.model}\n")
    print(f"{'features':13}  {'metric':11}  {'engine':10}  {overlap}    tau  {recall}  closest")
    for cell in comparison.cells:
        by = cell.combination
        found = "-" if cell.recall is None else f"{cell.recall:.2f}"
        names = ", ".join(f"{name_of(hit):.20}" for hit in cell.ranking.hits[:3])
        print(
            f"{FEATURES[by.features].title:13}  {METRICS[by.metric]:11}  {ENGINES[by.engine].title:10}  "
            f"{cell.overlap:{len(overlap)}.2f}  {cell.tau:5.2f}  {found:>{len(recall)}}  {names}"
        )
    by = comparison.baseline.combination
    print(
        f"\noverlap and tau (Kendall's tau-b, 1 is the same order): against {FEATURES[by.features].title}, "
        f"{METRICS[by.metric]}, {ENGINES[by.engine].title}; recall: of ChromaDB against the exact scan"
    )


def _robustness(flags: argparse.Namespace, chosen: settings.Settings) -> None:
    from tqdm import tqdm

    from retrieval.analysis.agreement import move
    from retrieval.analysis.explanation import caption
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
    from retrieval.labels import METRICS
    from retrieval.metrics import Metric
    from retrieval.search.query import Query
    from retrieval.search.searcher import Searcher
    from retrieval.search.validation import checked_distortion, checked_top_k, one_of
    from retrieval.storage.catalog import Indexes

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
        result = measure(searcher, query)
        if flags.json:
            print(json.dumps(result.to_json(), indent=1, ensure_ascii=False))
            return
        print(f"{about_distortion(query.distortion)}\n")
        for each in result.by_features:
            print(withstood(each).replace("**", ""))
            for before, after, moved in zip(each.undistorted.hits, each.distorted.hits, each.moves, strict=True):
                print(f"  {caption(before):36.36}  {caption(after):36.36}  {move(moved)}".rstrip())
            print()
        return
    steps = list(tqdm(sweep(searcher, query), total=STEPS, unit=" distortions", file=sys.stderr, leave=False))
    if flags.json:
        print(json.dumps(sweep_to_json(query, steps), indent=1, ensure_ascii=False))
        return
    ranking = next(iter(steps[0].withstood.values())).undistorted
    print(f"{ranking.gallery}: {ranking.size:,} images, {ranking.model}, {METRICS[ranking.metric]}\n")
    print(f"overlap@{query.top_k:<12}  " + "  ".join(sweep_columns()[1:]))
    for name, *shares in sweep_rows(steps):
        columns = zip(shares, sweep_columns()[1:], strict=True)
        print(f"{name:20}  " + "  ".join(f"{share:>{len(column)}}" for share, column in columns))
    print(f"\n{lesson(steps)}")


def _evaluate(flags: argparse.Namespace, chosen: settings.Settings) -> None:
    from tqdm import tqdm

    from retrieval.analysis import evaluation
    from retrieval.engines import ENGINES
    from retrieval.features import FEATURES
    from retrieval.labels import METRICS
    from retrieval.metrics import Metric
    from retrieval.search.searcher import Searcher
    from retrieval.search.validation import checked_engine
    from retrieval.storage.catalog import Indexes

    engine = checked_engine(flags.engine)
    searcher = Searcher(Indexes(chosen.index))
    index = searcher.indexes.get(chosen.gallery or "")
    if flags.queries:
        queries = evaluation.from_folder(index, searcher.embedder, flags.queries)
        counted = evaluation.answerable(index, queries)
        method = f"{len(queries.labels):,} queries from {flags.queries}"
        if counted < len(queries.labels):
            method += f", of which {counted:,} count: no picture of the gallery has the label of the others"
    else:
        if flags.sample is not None and flags.sample < 0:
            raise QueryError("--sample must be 0 (all) or more.")
        sample = evaluation.SAMPLE if flags.sample is None else flags.sample or None
        queries = evaluation.leave_one_out(index, sample)
        method = f"leave-one-out over {len(queries.labels):,} pictures"
    with tqdm(total=len(index.features) * len(Metric), unit=" combinations", file=sys.stderr, leave=False) as bar:
        results = []
        for result in evaluation.evaluate(index, queries, engine):
            results.append(result)
            bar.update()
    manifest = index.manifest
    if flags.json:
        about = {"gallery": manifest.gallery, "model": manifest.model.name, "dtype": manifest.model.dtype}
        rows = [result.to_json() for result in results]
        print(json.dumps({**about, "method": method, "pictures": len(index), "results": rows}, indent=1))
        return
    print(f"{manifest.gallery}: {len(index):,} pictures, {method}, {manifest.model}\n")
    print("| features | metric | engine | P@1 | P@5 | mAP |\n|---|---|---|---|---|---|")
    for r in results:
        mean = "-" if r.map is None else f"{r.map:.3f}"
        print(
            f"| {FEATURES[r.features].title} | {METRICS[r.metric]} | {ENGINES[r.engine].title} "
            f"| {r.p_at_1:.3f} | {r.p_at_5:.3f} | {mean} |"
        )


def _map(flags: argparse.Namespace, chosen: settings.Settings) -> None:
    from retrieval.analysis.gallery_map import as_rows, map_title
    from retrieval.search.validation import checked_features, one_of
    from retrieval.storage.catalog import Indexes
    from retrieval.storage.projection import Method

    index = Indexes(chosen.index).get(chosen.gallery or "")
    features, method = checked_features(flags.features), one_of(Method, flags.method)
    rows = as_rows(index, features, method)
    if flags.plot:
        from retrieval.analysis.plots import plot_map

        plot_map(index, features, method, flags.plot)
    if flags.json:
        about = {"gallery": index.manifest.gallery, "features": features, "method": method}
        kept = index.map(features, method).kept
        print(json.dumps({**about, "variance_kept": kept, "pictures": rows}, indent=1, ensure_ascii=False))
        return
    writer = csv.DictWriter(sys.stdout, ["id", "label", "x", "y"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    print(map_title(index, features, method), file=sys.stderr)  # beside the table, which may go into a file


def _info(flags: argparse.Namespace, chosen: settings.Settings) -> None:
    import torch

    from retrieval.features.encoder import best_device, best_dtype
    from retrieval.storage.catalog import Indexes

    packages = ("gradio", "transformers", "torch", "chromadb", "datasets", "pillow")
    device = best_device()
    galleries: list[dict[str, object]] = []
    indexes = Indexes(chosen.index)
    for name in indexes.names():
        try:
            manifest = indexes.get(name).manifest
        except RetrievalError as error:
            galleries.append({"name": name, "error": str(error)})
            continue
        galleries.append(
            {
                "name": name,
                "pictures": manifest.pictures,
                "skipped": manifest.skipped,
                "dataset": manifest.source.dataset,
                "split": manifest.source.split,
                "model": manifest.model.name,
                "model_revision": manifest.model.revision,
                "dtype": manifest.model.dtype,
                "dimensions": manifest.model.dimensions,
                "features": {name: identity.preprocessing for name, identity in manifest.features.items()},
                "created": manifest.created,
                "bytes": manifest.bytes,
            }
        )
    facts: dict[str, object] = {
        "index": str(chosen.index),
        "galleries": galleries,
        "device": device,
        "dtype": best_dtype(device),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in packages},
    }
    if flags.json:
        print(json.dumps(facts, indent=1))
        return
    print(
        f"index: {chosen.index}" + ("" if galleries else "  (no finished gallery; python index_builder.py makes one)")
    )
    for gallery in galleries:
        print(f"\n{gallery['name']}")
        print("\n".join(f"  {key:15} {value}" for key, value in gallery.items() if key != "name" and value is not None))
    print(f"\ndevice {device}, dtype {facts['dtype']}, {facts['threads']} threads, Python {facts['python']}")
    print(", ".join(f"{name} {version(name)}" for name in packages))
