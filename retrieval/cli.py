"""The command line: `python -m retrieval search|compare|robustness|why|evaluate|compare-results|map|info`."""

import argparse
import logging
import sys
from pathlib import Path

from retrieval import logs, settings
from retrieval.engines import AUTO, DEFAULT_ENGINE, ENGINES
from retrieval.errors import RetrievalError
from retrieval.features import DEFAULT_FEATURES, FEATURES
from retrieval.labels import print_error
from retrieval.metrics import Metric

EXAMPLES = """examples:
  python -m retrieval search cat.jpg --top-k 5
  python -m retrieval search cat.jpg --features pixels --metric l1 --engine chroma --plot results.png
  python -m retrieval search --text "red fruit" --gallery icons --label food-fruit
  python -m retrieval search cat.jpg --text black --balance 0.4 --without dog
  python -m retrieval search castle.jpg --more castle2.jpg --less tower.jpg --text="- night + day"
  python -m retrieval search street.jpg --region 0.5,0.2,1,0.9 --alike 0.95
  python -m retrieval search cat.jpg --features pixels,color,clip
  python -m retrieval search cat.jpg --json | jq .hits
  python -m retrieval compare cat.jpg --top-k 5       every feature type, metric and engine side by side
  python -m retrieval robustness cat.jpg              which features withstand which distortions
  python -m retrieval robustness cat.jpg --rotation 30 --quality 20
  python -m retrieval why cat.jpg ID --save map.png   which parts of both images make this one a result
  python -m retrieval evaluate                        leave-one-out over the gallery's labels
  python -m retrieval evaluate --queries test_photos  query images in one folder per class
  python -m retrieval evaluate --qrels qrels.txt --run other.run --save results
  python -m retrieval evaluate --pareto --plot pareto.png  which feature type and metric for these images
  python -m retrieval compare-results results/results.json others/results.json
  python -m retrieval map --plot map.png              the gallery on a plane; id, label, x, y as CSV
  python -m retrieval info
"""


def main(arguments: list[str] | None = None) -> int:
    """Run a command; return the exit code: 0 done, 2 an error message was printed, 130 cancelled."""
    logs.accept_any_text()
    flags, chosen = settings.parse(_parser(), arguments)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("retrieval.fetching").setLevel(logging.INFO)  # downloads from a server can take a while
    from retrieval import commands  # imported late, so that --help and a mistyped flag answer at once

    try:
        if chosen.published:
            from retrieval.indexing.pulling import open_published

            open_published(chosen.published)
        commands.COMMANDS[flags.command](flags, chosen)
    except RetrievalError as error:
        print_error(error)
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
        "python -m retrieval", description="Search a gallery by image.", epilog=EXAMPLES, formatter_class=raw
    )
    commands = parser.add_subparsers(dest="command", required=True)

    def command(name: str, text: str, on_index: bool = True) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text, epilog=EXAMPLES, formatter_class=raw)
        if on_index:
            settings.add_index_flag(added)
        else:
            added.set_defaults(index=Path())
        added.add_argument("--json", action="store_true", help="print JSON")
        if on_index and name != "info":
            settings.add_gallery_flag(added, "which gallery of the index (default: the only or first one)")
        return added

    search = command("search", "rank the gallery by an image, a text, or both")
    _add_features(search, "several are separated by commas")
    _add_choices(search, "metric", "engine")
    _add_top_k(search, 10)
    worst = "leave out worse scores: smaller ones, or for l1 and l2 larger ones"
    search.add_argument("--min-score", type=float, metavar="S", help=worst)
    search.add_argument("--plot", type=Path, metavar="PNG", help="draw the query and its ranked results")
    _add_query_flags(search)
    compare = command("compare", "rank by every combination of features, metric and engine")
    _add_top_k(compare, 5)
    only = "use exact engines only; ChromaDB's files belong to one process at a time"
    compare.add_argument("--exact-only", action="store_true", help=only)
    _add_query_flags(compare)
    _add_distortions(command("robustness", "what distortions of an image do to its ranking; without a flag, try many"))
    _add_why_flags(command("why", "what each part of the query image and of a result contributes to the score"))
    evaluate = command("evaluate", "precision, recall and other measures of every combination of features and metric")
    evaluate.add_argument("--engine", default=DEFAULT_ENGINE, metavar="|".join(ENGINES), help="default: %(default)s")
    _add_evaluate_flags(evaluate)
    _add_compare_results_flags(command("compare-results", "compare two results of `evaluate --save`", on_index=False))
    places = command("map", "the gallery on a plane: id, label, x, y as CSV")
    _add_features(places)
    places.add_argument("--method", default="pca", metavar="pca|tsne", help="default: %(default)s")
    places.add_argument("--plot", type=Path, metavar="PNG", help="draw it, coloured by label")
    command("info", "galleries, models, versions")
    return parser


def _add_why_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("image", type=Path, metavar="QUERY", help="the query image")
    parser.add_argument("id", metavar="ID", help="the id of an image of the gallery, the last column of `search`")
    _add_features(parser)
    _add_choices(parser, "metric")
    parser.add_argument("--save", type=Path, metavar="PNG", help="draw both images and their maps")


def _add_choices(parser: argparse.ArgumentParser, *names: str) -> None:
    choices = {
        "metric": ([str(metric) for metric in Metric], str(Metric.COSINE)),
        # Not auto: opening ChromaDB takes longer than one exact scan, and only one process can do it.
        "engine": ([AUTO, *ENGINES], None),
    }
    unnamed = f"{DEFAULT_ENGINE}, or chroma for a gallery on a server"
    for name in names:
        known, default = choices[name]
        parser.add_argument(
            f"--{name}", default=default, metavar="|".join(known), help=f"default: {default or unnamed}"
        )


def _add_features(parser: argparse.ArgumentParser, more: str = "") -> None:
    # Not `features`, which is the setting of a build.
    known = f"{'|'.join(FEATURES)}|NAME"
    text = f"one of the gallery's feature types (default: {DEFAULT_FEATURES}, or the first that the gallery has)"
    text = f"{text}; {more}" if more else text
    parser.add_argument("--features", dest="by", metavar=known, help=text)


def _add_top_k(parser: argparse.ArgumentParser, default: int) -> None:
    text = "number of results (default: %(default)s)"
    parser.add_argument("--top-k", type=int, default=default, metavar="K", help=text)


def _add_distortions(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("image", type=Path, metavar="IMAGE", help="the query image")
    parser.add_argument("--rotation", type=float, metavar="DEG", help="degrees counter-clockwise, -180 to 180")
    parser.add_argument("--crop", type=float, metavar="SHARE", help="share cut away around the middle, 0 to 0.9")
    parser.add_argument("--blur", type=float, metavar="SHARE", help="Gaussian, share of the shorter side, 0 to 0.1")
    parser.add_argument("--grey", type=float, metavar="SHARE", help="share of grey mixed in, 0 to 1")
    parser.add_argument("--quality", type=int, metavar="Q", help="JPEG quality, 1 to 100 (100: not encoded)")
    _add_choices(parser, "metric")
    _add_top_k(parser, 10)


def _add_evaluate_flags(parser: argparse.ArgumentParser) -> None:
    labelled = "labelled query images: class folders, or a dataset (default: leave-one-out)"
    parser.add_argument("--queries", metavar="DIR", help=labelled)
    parser.add_argument("--queries-split", metavar="NAME", help="the split of the dataset in --queries")
    sample = "leave-one-out over N random images, 0 for all (default: at most 2000)"
    parser.add_argument("--sample", type=int, metavar="N", help=sample)
    cutoffs = "the k of P@k, R@k, nDCG@k and success@k (default: %(default)s)"
    parser.add_argument("--k", default="1,5,10", metavar="K,K", help=cutoffs)
    judged = "grades by query and item, in TREC's format or as .csv or .parquet; negative ones are junk"
    parser.add_argument("--qrels", type=Path, metavar="FILE", help=judged)
    parser.add_argument("--ignore", type=Path, metavar="FILE", help="items that a query leaves out: `query item` lines")
    alike = "leave out a query's near-duplicates: images with at least this cosine of the default features"
    parser.add_argument("--ignore-alike", type=float, metavar="C", help=alike)
    run = "also evaluate a run that was made elsewhere, in TREC's format; can be repeated"
    parser.add_argument("--run", type=Path, action="append", default=[], metavar="FILE", help=run)
    saved = "write results.json, CSV, Markdown and a report in HTML"
    parser.add_argument("--save", type=Path, metavar="DIR", help=saved)
    runs = "with --save: also TREC qrels, and runs of N results per query"
    parser.add_argument("--save-runs", type=int, default=0, metavar="N", help=runs)
    speed = "also measure time per query and bytes per image; print CSV that marks the Pareto front"
    parser.add_argument("--pareto", action="store_true", help=speed)
    drawn = "draw the figures with their intervals, or with --pareto the Pareto front"
    parser.add_argument("--plot", type=Path, metavar="PNG", help=drawn)


def _add_compare_results_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("a", type=Path, metavar="A.json", help="a results.json of `evaluate --save`")
    parser.add_argument("b", type=Path, metavar="B.json", help="another one")
    parser.add_argument(
        "--measure", metavar="NAME", help="such as P@5 (default: the one that decides the places in the first file)"
    )


def _add_query_flags(parser: argparse.ArgumentParser) -> None:
    settings.add_template_flag(parser)
    query = parser.add_argument_group("query")
    query.add_argument("image", type=Path, nargs="?", metavar="IMAGE", help="the query image")
    terms = 'what to find, alone or with an image; terms can have signs: "- night + day"'
    query.add_argument("--text", default="", help=terms)
    judged = "an image file, or the id of an image of the gallery, that results should {}; can be repeated"
    for name, verb in (("more", "resemble too"), ("less", "not resemble")):
        query.add_argument(f"--{name}", action="append", default=[], metavar="IMAGE|ID", help=judged.format(verb))
    query.add_argument("--without", default="", metavar="TEXT", help="what to exclude")
    balance = "image-text balance, 0 (image only) to 1 (text only) (default: 0.5)"
    query.add_argument("--balance", type=float, default=0.5, metavar="B", help=balance)
    query.add_argument("--label", action="append", default=[], metavar="NAME", help="only this class; can be repeated")
    region = "search only this part of the image: left, top, right, bottom as shares, such as 0.2,0,0.8,0.5"
    query.add_argument("--region", type=_numbers, metavar="L,T,R,B", help=region)
    alike = "hide near-duplicates above this cosine similarity (default: 1, which hides none)"
    query.add_argument("--alike", type=float, default=1, metavar="C", help=alike)


def _numbers(text: str) -> list[float]:
    try:
        return [float(each) for each in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be numbers separated by commas, not {text[:40]!r}") from None
