"""The command line: `python -m retrieval search | compare | robustness | evaluate | map | info`."""

import argparse
import logging
import sys
from pathlib import Path

from retrieval import hub, logs, settings
from retrieval.engines import DEFAULT_ENGINE, ENGINES
from retrieval.errors import RetrievalError
from retrieval.features import DEFAULT_FEATURES, FEATURES
from retrieval.metrics import Metric

EXAMPLES = """examples:
  python -m retrieval search cat.jpg --top-k 5
  python -m retrieval search cat.jpg --features pixels --metric l1 --engine chroma --plot results.png
  python -m retrieval search --text "red fruit" --gallery icons --label food-fruit
  python -m retrieval search cat.jpg --text black --balance 0.4 --without dog
  python -m retrieval search street.jpg --region 0.5,0.2,1,0.9 --alike 0.95
  python -m retrieval search cat.jpg --json | jq .hits
  python -m retrieval compare cat.jpg --top-k 5       every features x metric x engine, side by side
  python -m retrieval robustness cat.jpg              which features withstand which distortions
  python -m retrieval robustness cat.jpg --rotation 30 --quality 20
  python -m retrieval evaluate                        leave-one-out over the gallery's labels
  python -m retrieval evaluate --queries test_photos  query images in one folder per class
  python -m retrieval map --plot map.png              the gallery on a plane; id, label, x, y as CSV
  python -m retrieval info
"""


def main(arguments: list[str] | None = None) -> int:
    """Run a command; return the exit code: 0 done, 2 an error message was printed, 130 cancelled."""
    logs.accept_any_text()
    flags, chosen = settings.parse(_parser(), arguments)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("retrieval.fetching").setLevel(logging.INFO)  # downloads from a server can take a while
    hub.bound_access()
    from retrieval import commands  # imported late, so that --help and a mistyped flag answer at once

    try:
        if chosen.published:
            from retrieval.indexing.pulling import add_maps, open_published

            open_published(chosen.published)
            if flags.command == "map":
                add_maps(chosen.published)
        commands.COMMANDS[flags.command](flags, chosen)
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
        "python -m retrieval", description="Search a gallery by image.", epilog=EXAMPLES, formatter_class=raw
    )
    commands = parser.add_subparsers(dest="command", required=True)

    def command(name: str, text: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text, epilog=EXAMPLES, formatter_class=raw)
        settings.add_index_flag(added)
        added.add_argument("--json", action="store_true", help="print JSON")
        if name != "info":
            settings.add_gallery_flag(added, "which gallery of the index (default: the only or first one)")
        return added

    search = command("search", "rank the gallery by an image, a text, or both")
    _add_choices(search, "features", "metric", "engine")
    _add_top_k(search, 10)
    search.add_argument("--plot", type=Path, metavar="PNG", help="draw the query and its ranked results")
    _add_query_flags(search)
    compare = command("compare", "rank by every combination of features, metric and engine")
    _add_top_k(compare, 5)
    only = "use exact engines only; ChromaDB's files belong to one process at a time"
    compare.add_argument("--exact-only", action="store_true", help=only)
    _add_query_flags(compare)
    _add_distortions(command("robustness", "what distortions of an image do to its ranking; without a flag, try many"))
    evaluate = command("evaluate", "P@1, P@5 and mAP of every combination of features and metric")
    labelled = "labelled query images, one folder per class (default: leave-one-out)"
    evaluate.add_argument("--queries", metavar="DIR", help=labelled)
    _add_choices(evaluate, "engine")
    sample = "leave-one-out over N random images, 0 for all (default: at most 2000)"
    evaluate.add_argument("--sample", type=int, metavar="N", help=sample)
    places = command("map", "the gallery on a plane: id, label, x, y as CSV")
    _add_choices(places, "features")
    places.add_argument("--method", default="pca", metavar="pca|tsne", help="default: %(default)s")
    places.add_argument("--plot", type=Path, metavar="PNG", help="draw it, coloured by label")
    command("info", "galleries, models, versions")
    return parser


def _add_choices(parser: argparse.ArgumentParser, *names: str) -> None:
    choices = {
        "features": (list(FEATURES), DEFAULT_FEATURES),
        "metric": ([str(metric) for metric in Metric], str(Metric.COSINE)),
        "engine": (list(ENGINES), DEFAULT_ENGINE),
    }
    for name in names:
        known, default = choices[name]
        parser.add_argument(f"--{name}", default=default, metavar="|".join(known), help="default: %(default)s")


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


def _add_query_flags(parser: argparse.ArgumentParser) -> None:
    settings.add_template_flag(parser)
    query = parser.add_argument_group("query")
    query.add_argument("image", type=Path, nargs="?", metavar="IMAGE", help="the query image")
    query.add_argument("--text", default="", help="what to find, alone or together with an image")
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
