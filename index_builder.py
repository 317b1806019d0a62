"""Build the index of a gallery: a Hugging Face data set -> raw pixels and CLIP features -> ChromaDB."""

import argparse
import logging
import signal
import sys
from types import FrameType

from tqdm import tqdm

from retrieval import hub, settings
from retrieval.errors import RetrievalError
from retrieval.features.choice import ModelChoice, choose_model

EXAMPLES = """examples:
  python index_builder.py                                       the bundled icons, into ./index
  python index_builder.py --dataset ~/photos --gallery holiday  a folder of pictures (class folders become labels)
  python index_builder.py --dataset johnowhitaker/imagenette2-320 --split train --limit 2000
  python index_builder.py --dataset pictures.parquet --caption-column title --model openai/clip-vit-base-patch32

Stop it at any moment (Ctrl-C) and run the same command again: it goes on where it stopped.
"""


def main(arguments: list[str] | None = None) -> int:
    """Run the builder; return the exit code: 0 done, 2 a worded error, 130 stopped."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    settings.add_index_flag(parser)
    settings.add_gallery_flag(parser, "name of the gallery in the index (default: after the data set)")
    parser.add_argument("--rebuild", action="store_true", help="make it anew, and replace the old one when complete")
    settings.add_build_flags(parser)
    flags, chosen = settings.parse(parser, arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    signal.signal(signal.SIGTERM, _stop)
    hub.bound_access()
    try:
        build(chosen, flags.rebuild)
    except RetrievalError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Stopped. Run the same command again to go on from here.", file=sys.stderr)
        return 130
    return 0


def build(chosen: settings.Settings, rebuild: bool = False) -> ModelChoice:
    """Build what the settings describe, with a progress bar, print the closing summary, return the model taken."""
    # Imported here, so that --help and a mistyped flag answer at once.
    from retrieval.builder import build_index, summary
    from retrieval.features.clip import ClipEncoder
    from retrieval.gallery import Gallery
    from retrieval.projection import Method

    gallery = Gallery(chosen.source)
    choice = choose_model(chosen.model, chosen.model_revision)
    print(f"model: {choice.name}, because {choice.reason}")
    encoder = ClipEncoder(choice, chosen.dtype)
    name = chosen.gallery or chosen.source.slug
    with tqdm(total=gallery.total, unit=" pictures", desc=name, smoothing=0.1) as bar:

        def show(done: int, total: int | None) -> None:
            if bar.n == 0 and done:
                bar.initial = done
            bar.update(done - bar.n)

        outcome = build_index(
            chosen.index,
            name,
            gallery,
            encoder,
            pixel_size=chosen.pixel_size,
            batch_size=chosen.batch_size,
            workers=chosen.workers,
            rebuild=rebuild,
            tsne=chosen.map == Method.TSNE,
            progress=show,
        )
        if outcome.already_done:
            show(gallery.total or outcome.manifest.pictures, gallery.total)
    print(summary(outcome))
    return choice


def _stop(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
