"""Build the index of a gallery: Hugging Face dataset or folder -> feature vectors -> published index."""

import argparse
import logging
import signal
import sys
from contextlib import closing
from types import FrameType
from typing import Any

from tqdm import tqdm

from retrieval import hub, logs, memory, settings
from retrieval.errors import RetrievalError, SharesMissing
from retrieval.features.base import ModelChoice
from retrieval.indexing.jobs import build_gallery
from retrieval.indexing.outcome import summary
from retrieval.indexing.progress import BuildCallbacks

EXAMPLES = """examples:
  python index_builder.py                                       the bundled photos, into ./index
  python index_builder.py --dataset icons                       the bundled icons
  python index_builder.py --dataset ~/photos --gallery holiday  a folder of images (class folders become labels)
  python index_builder.py --dataset johnowhitaker/imagenette2-320 --split train --limit 2000
  python index_builder.py --dataset pictures.parquet --caption-column title --model openai/clip-vit-base-patch32
  python index_builder.py --index http://10.0.0.5:8000 --shard 1/2   one of two workers, into one ChromaDB server

Stop it at any time (Ctrl-C), and run the same command again to resume.
"""


def main(arguments: list[str] | None = None) -> int:
    """Run the builder; return the exit code: 0 done (with `--shard`: this share), 2 an error, 130 cancelled."""
    logs.accept_any_text()
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    settings.add_index_flag(parser)
    settings.add_gallery_flag(parser, "name of the gallery in the index (default: after the dataset)")
    parser.add_argument(
        "--rebuild", action="store_true", help="rebuild from scratch, and replace the old index when complete"
    )
    settings.add_build_flags(parser)
    settings.add_shard_flag(parser)
    flags, chosen = settings.parse(parser, arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    signal.signal(signal.SIGTERM, _stop)
    hub.bound_access()
    memory.keep_freed()
    try:
        build(chosen, flags.rebuild)
    except SharesMissing as error:
        print(error)
        return 0
    except RetrievalError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Stopped. Run the same command again to resume.", file=sys.stderr)
        return 130
    return 0


class _Terminal(BuildCallbacks):
    """Prints the model, and shows a progress bar."""

    bar: Any = None  # tqdm has no types

    def loading(self, choice: ModelChoice) -> None:
        print(f"model: {choice.name}, because {choice.reason}")

    def started(self, name: str, total: int | None) -> None:
        self.bar = tqdm(total=total, unit=" images", desc=name, smoothing=0.1)

    def progress(self, done: int, total: int | None) -> None:
        self.bar.total = total  # with --shard, the size of the share
        if self.bar.n == 0 and done:
            self.bar.initial = done
        self.bar.update(done - self.bar.n)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()


def build(chosen: settings.Settings, rebuild: bool = False) -> ModelChoice | None:
    """Build what the settings describe with a progress bar, print a summary, and return the model used, if any."""
    with closing(_Terminal()) as terminal:
        outcome, choice = build_gallery(chosen, rebuild, terminal)
    print(summary(outcome))
    return choice


def _stop(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
