"""Build the index of a gallery from a Hugging Face dataset, a folder, a Parquet file or webdataset shards."""

import argparse
import json
import logging
import signal
import sys
import time
from contextlib import closing
from types import FrameType
from typing import Any, NoReturn

from tqdm import tqdm

from retrieval import logs, memory, settings
from retrieval.errors import GalleryError, IndexingError, RetrievalError
from retrieval.features.base import ModelChoice
from retrieval.indexing.jobs import build_gallery, embed_share
from retrieval.indexing.outcome import summary
from retrieval.indexing.progress import BuildCallbacks
from retrieval.installation import APP, BUILDER
from retrieval.labels import print_error, printable

EXAMPLES = """examples:
  %(prog)s                                       the bundled photos, into ./index
  %(prog)s --dataset icons                       the bundled icons
  %(prog)s --dataset ~/photos --gallery holiday  a folder of images (class folders become labels)
  %(prog)s --dataset johnowhitaker/imagenette2-320 --split train --limit 2000
  %(prog)s --dataset ~/photos --watch            and keep the gallery up to date
  %(prog)s --dataset ~/photos --features pixels,color,edges,cnn,clip,dino=facebook/dinov2-small
  %(prog)s --dataset ~/photos --drop-features dino
  %(prog)s --rename holiday madeira              or --delete holiday; the images are not touched
  %(prog)s --push org/name --gallery holiday     publish a gallery as a private dataset on the Hub
  %(prog)s --index http://host:8000 --files /shared/index --dataset ~/photos    on a ChromaDB server
  %(prog)s --dataset pictures.parquet --caption-column title --model openai/clip-vit-base-patch32

Stop it at any time (Ctrl-C), and run the same command again to resume.
"""
WATCH_SECONDS = 2.0  # between two looks at the folder


def main(arguments: list[str] | None = None) -> int:
    """Run the builder; return the exit code: 0 done, 2 an error, 130 cancelled."""
    logs.accept_any_text()
    parser = argparse.ArgumentParser(
        BUILDER, description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    settings.add_index_flag(parser)
    settings.add_gallery_flag(parser, "name of the gallery in the index (default: after the dataset)")
    parser.add_argument(
        "--rebuild", action="store_true", help="rebuild from scratch, and replace the old index when complete"
    )
    parser.add_argument(
        "--drop-features",
        type=lambda text: tuple(text.split(",")),
        metavar="NAMES",
        help="update the gallery without these feature types, such as dino,edges; --prune then deletes their vectors",
    )
    parser.add_argument("--watch", action="store_true", help="keep the gallery up to date while the folder changes")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    upkeep = parser.add_mutually_exclusive_group()
    upkeep.add_argument("--verify", action="store_true", help="only check every file of the index")
    upkeep.add_argument("--prune", action="store_true", help="only delete embeddings that no gallery uses any more")
    upkeep.add_argument("--rename", nargs=2, metavar=("OLD", "NEW"), help="only rename a gallery")
    upkeep.add_argument(
        "--delete", metavar="NAME", help="only delete a gallery; its images and, until --prune, its embeddings are kept"
    )
    upkeep.add_argument("--push", metavar="ORG/NAME", help="only publish a finished gallery as a dataset on the Hub")
    _add_push_flags(parser)
    settings.add_build_flags(parser)
    settings.add_shard_flag(parser)
    flags, chosen = settings.parse(parser, arguments)
    if chosen.shard and (flags.rebuild or flags.watch):
        parser.error("--shard cannot be combined with --rebuild or --watch")
    if flags.drop_features and (flags.features or chosen.shard):
        parser.error("--drop-features cannot be combined with --features or --shard")
    if (flags.public or flags.license) and not flags.push:
        parser.error("--public and --license belong to --push")
    if flags.yes and not (flags.push or flags.delete):
        parser.error("--yes belongs to --push or --delete")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    signal.signal(signal.SIGTERM, _stop)
    memory.keep_freed()
    try:
        return _run(flags, chosen)
    except RetrievalError as error:
        print_error(error)
        return 2
    except KeyboardInterrupt:
        print("Stopped. Run the same command again to resume.", file=sys.stderr)
        return 130


def _add_push_flags(parser: argparse.ArgumentParser) -> None:
    push = parser.add_argument_group("publishing")
    push.add_argument("--public", action="store_true", help="let everyone read the dataset (default: private)")
    licence = "licence of the dataset, as an id of the Hub (default: that of the images, if it is the same, or other)"
    push.add_argument("--license", metavar="ID", help=licence)
    push.add_argument("--yes", action="store_true", help="publish or delete without asking")


def _run(flags: argparse.Namespace, chosen: settings.Settings) -> int:
    if chosen.published and not flags.verify:
        raise IndexingError(
            f"The index `{chosen.published.address}` was published by somebody and is only read here. Name a folder "
            "with `--index`."
        )
    if flags.verify:
        return _verify(chosen)
    if flags.prune:
        return _prune(chosen)
    if flags.rename:
        return _rename(flags, chosen)
    if flags.delete:
        return _delete(flags, chosen)
    if flags.push:
        return _push(flags, chosen)
    if chosen.shard:
        return _embed_share(chosen)
    if flags.watch:
        _watch(chosen, flags.rebuild, flags.json)
    build(chosen, flags.rebuild, flags.json)
    return 0


class _Terminal(BuildCallbacks):
    """Prints the model, and shows a progress bar."""

    bar: Any = None  # tqdm has no types

    def loading(self, choice: ModelChoice) -> None:
        print(f"model: {choice.name}, because {choice.reason}", file=sys.stderr)

    def started(self, name: str, total: int | None) -> None:
        self.bar = tqdm(total=total, unit=" images", desc=name, smoothing=0.1)

    def progress(self, done: int, total: int | None, reused: int) -> None:
        self.bar.total = total
        self.bar.initial = reused  # which does not count for the rate
        self.bar.update(done - self.bar.n)

    def sending(self, done: int, total: int) -> None:
        if self.bar is None or self.bar.unit != " vectors":
            self.close()
            self.bar = tqdm(total=total, unit=" vectors", desc="to the server")
        self.bar.update(done - self.bar.n)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()


def build(
    chosen: settings.Settings, rebuild: bool = False, as_json: bool = False, complete: bool = True
) -> ModelChoice | None:
    """Build what the settings describe with a progress bar, print the result, and return the model used, if any.

    Unless the index is to be `complete`, maps and the files of engines are left out.
    """
    with closing(_Terminal()) as terminal:
        outcome, choice = build_gallery(chosen, rebuild, terminal, complete=complete)
    print(json.dumps(outcome.to_json()) if as_json else summary(outcome), flush=True)
    return choice


def _watch(chosen: settings.Settings, rebuild: bool, as_json: bool) -> NoReturn:
    """Build, and build again whenever the folder changes, until Ctrl-C."""
    from retrieval.gallery.rows import Gallery

    if chosen.source.path is None:
        raise GalleryError("`--watch` needs a folder on this machine. Name one with `--dataset`.")
    built = ""
    while True:
        try:
            found = Gallery(chosen.source).fingerprint
            if found != built:
                build(chosen, rebuild and not built, as_json)
                built = found
        except RetrievalError as error:  # perhaps the folder is being replaced, or another builder is at work
            if not built:
                raise
            print_error(error)
        time.sleep(WATCH_SECONDS)


def _embed_share(chosen: settings.Settings) -> int:
    with closing(_Terminal()) as terminal:
        rows, embedded = embed_share(chosen, terminal)
    print(f"{rows:,} rows of this share are in the store, {embedded:,} of them embedded now.")
    print("After all shares are done, run the same command without `--shard` to publish the gallery.")
    return 0


def _verify(chosen: settings.Settings) -> int:
    from retrieval.indexing.upkeep import verify

    if chosen.published:
        from retrieval.indexing.pulling import open_published

        open_published(chosen.published)
    problems = 0
    for problems, problem in enumerate(verify(chosen.index, chosen.server), start=1):  # noqa: B007
        print(problem)
    print(f"{problems:,} problems found." if problems else "Every file is as it was written.")
    return 2 if problems else 0


def _prune(chosen: settings.Settings) -> int:
    from retrieval.indexing.upkeep import prune

    print(f"{prune(chosen.index) / 1e6:,.1f} MB freed.")
    return 0


def _rename(flags: argparse.Namespace, chosen: settings.Settings) -> int:
    from retrieval.indexing.upkeep import rename
    from retrieval.storage.catalog import Indexes

    old, new = flags.rename
    rename(Indexes(chosen.index), old, new)
    print(f"{printable(old)} is now called {printable(new)}.")
    return 0


def _delete(flags: argparse.Namespace, chosen: settings.Settings) -> int:
    from retrieval.indexing.upkeep import delete
    from retrieval.storage.catalog import Indexes

    indexes = Indexes(chosen.index, server=chosen.server)
    indexes.check_name(flags.delete)
    if not _confirmed(flags, f"Delete the gallery {flags.delete}? Its images are not touched.", "deleted"):
        print("Nothing was deleted.")
        return 2
    delete(indexes, flags.delete)
    print(f"{printable(flags.delete)} was deleted. To delete embeddings that no other gallery uses, run `--prune`.")
    return 0


def _confirmed(flags: argparse.Namespace, question: str, done: str) -> bool:
    """Return whether the user agrees; `done` says what would be done. Raise IndexingError if nobody can be asked."""
    if flags.yes:
        return True
    if not sys.stdin.isatty():
        raise IndexingError(f"Nothing was {done}, because nobody can be asked here. Add `--yes`.")
    return input(f"{printable(question)} [y/N] ").strip().lower() in ("y", "yes")


def _push(flags: argparse.Namespace, chosen: settings.Settings) -> int:
    from retrieval.indexing.pushing import Target, push
    from retrieval.storage.catalog import Indexes

    def confirmed(text: str) -> bool:
        print(text, flush=True)
        return _confirmed(flags, "Publish?", "published")

    gallery = chosen.gallery or (chosen.source.slug if chosen.data_asked else "")
    target = Target(flags.push, flags.public, flags.license)
    address = push(Indexes(chosen.index, server=chosen.server), gallery, target, confirmed)
    print(f"Published. Open it: {APP} --index {address}" if address else "Nothing was published.")
    return 0 if address else 2


def _stop(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
