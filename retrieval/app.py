"""The program that starts the page: settings -> index ready -> Blocks -> launch."""

import argparse
import atexit
import logging
import os
import signal
import sys
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING, NoReturn

from retrieval import hub, index_builder, logs, memory, settings
from retrieval.errors import IndexingError, RetrievalError
from retrieval.installation import APP, BUILDER
from retrieval.labels import print_error

if TYPE_CHECKING:
    from retrieval.indexing.jobs import Builds
    from retrieval.search.searcher import Searcher
    from retrieval.storage.manifest import Manifest
    from retrieval.storage.projection import Method
    from retrieval.ui.serving.health import Health

EXAMPLES = """examples:
  %(prog)s                                     the bundled photos and icons; builds ./index at the first start
  %(prog)s --dataset ~/pictures                a folder of images
  %(prog)s --dataset johnowhitaker/imagenette2-320 --limit 2000 --model mini
  %(prog)s --index work/index --port 8000      the galleries of an existing index
  %(prog)s --index hf://datasets/org/name      an index that somebody has published
  %(prog)s --index http://host:8000 --files /shared/index   vectors on a ChromaDB server
"""

log = logging.getLogger("app")

POLL = 1.0  # seconds between two checks for a signal


def main(arguments: list[str] | None = None) -> int:
    """Run the app until Ctrl-C or SIGTERM; return the exit code: 0 stopped, 2 an error message was printed."""
    logs.accept_any_text()
    _, chosen = settings.parse(parser(), arguments)
    logs.start(chosen.log_level, chosen.log_format)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    memory.keep_freed()
    try:
        serve(chosen)
    except RetrievalError as error:
        print_error(error)
        return 2
    except KeyboardInterrupt:
        print("Stopped.", file=sys.stderr)
    return 0


def run() -> NoReturn:
    """Run the app as a program."""
    _leave(main())


def parser() -> argparse.ArgumentParser:
    """Return the flags of the app."""
    parser = argparse.ArgumentParser(
        APP,
        description="Start the web app.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    settings.add_index_flag(parser)
    settings.add_gallery_flag(parser, "the gallery shown first (default: the one of the dataset, or the first by name)")
    settings.add_build_flags(parser)
    settings.add_template_flag(parser)
    settings.add_serve_flags(parser)
    return parser


def serve(chosen: settings.Settings) -> None:
    """Build the index if there is none, and serve the page until the program is interrupted."""
    from retrieval.ui.serving.listening import listening_address

    listening_address(chosen.host, chosen.port)  # a wrong one is reported before anything is built
    first, why = ready(chosen)
    from retrieval.features import zero_gpu
    from retrieval.indexing.jobs import Builds
    from retrieval.pictures.loading import DECODERS
    from retrieval.search.searcher import Searcher
    from retrieval.storage.catalog import Indexes
    from retrieval.ui.page import build_page, launch
    from retrieval.ui.serving.health import Health
    from retrieval.ui.serving.limits import limits_of
    from retrieval.ui.serving.own_page import address_with_token
    from retrieval.ui.serving.shutdown import close

    limits = limits_of(chosen)
    indexes = Indexes(chosen.index, first, chosen.server, chosen.recall_floor)
    searcher = Searcher(indexes, chosen.templates, limits.pictures)
    health = Health(searcher)
    builds = Builds(chosen, searcher.embedder.loaded.load)
    if zero_gpu.is_available():  # functions that use its GPU must be known when the page starts
        index = searcher.indexes.get()
        for name in index.features:
            searcher.embedder.feature_set(index, name)
    # Models and ChromaDB load while the page is already served; an early search waits for them.
    threading.Thread(target=_warm, args=(searcher, health, builds), name="warm-up", daemon=True).start()
    page = build_page(searcher, why, builds if chosen.may_build else None, limits)
    door = launch(page, chosen, health)
    if chosen.may_build:
        print(f"* To build galleries on the page, open {address_with_token(str(page.local_url))}", flush=True)
    try:
        while True:  # not one long wait: a signal that another thread receives would not end it
            time.sleep(POLL)
    finally:
        health.stopping = True
        if not door.wait_until_empty(page):
            log.warning("stopped before all searches were answered")
        DECODERS.close()
        close(page, door)
        builds.close()
        searcher.indexes.close()


def ready(chosen: settings.Settings) -> tuple[str | None, str]:
    """Build the requested gallery if it is missing; return the gallery to show first, and a line on the model.

    Raises:
        IndexingError: the index was built from a different dataset or with different options than requested.
    """
    from retrieval.storage.catalog import Indexes

    if chosen.published:
        return _ready_published(chosen, chosen.published)
    indexes = Indexes(chosen.index, server=chosen.server)
    first = chosen.gallery or (chosen.source.slug if chosen.data_asked else None)
    if not indexes.names() or (chosen.data_asked and first not in indexes.names()):
        choice = index_builder.build(chosen, complete=False)  # the page does not wait for the rest
        why = choice.reason if choice else "the options name it"
        first = first or chosen.source.slug
        manifest = indexes.get(first).manifest
    else:
        why = "the index was built with it"
        manifest = indexes.get(first or "").manifest
        differences = _differences(chosen, manifest)
        if differences:
            raise IndexingError(
                f"The index of {manifest.gallery!r} in `{chosen.index}` was built {' and '.join(differences)}. "
                f"Update it with `{BUILDER}` and the same flags, choose another `--index`, give this gallery "
                "another name with `--gallery`, or omit the flag."
            )
    log.info("gallery %s: %d images, model %s, because %s", manifest.gallery, manifest.pictures, manifest.model, why)
    return first, _about_models(manifest, why)


def _ready_published(chosen: settings.Settings, published: settings.PublishedIndex) -> tuple[str | None, str]:
    """Import a published index; return what `ready` returns."""
    from retrieval.indexing.pulling import open_published
    from retrieval.storage.catalog import Indexes

    if chosen.data_asked:
        raise IndexingError(
            f"No gallery can be built in `{published.address}`, which is only read. Omit the flags of the dataset, or "
            "name a folder with `--index`."
        )
    open_published(published)
    manifest = Indexes(chosen.index).get(chosen.gallery or "").manifest
    log.info(
        "gallery %s of %s: %d images, model %s", manifest.gallery, published.address, manifest.pictures, manifest.model
    )
    return manifest.gallery, _about_models(manifest, "the published index was built with it")


def _about_models(manifest: "Manifest", why: str) -> str:
    """Return a line on each model in use, as Markdown, and why the first was chosen."""
    from retrieval.features import FEATURES

    used = [f"{FEATURES[name].title} by **{FEATURES[name].describe(each)}**" for name, each in manifest.models.items()]
    return f"{'; '.join([*used, why])}." if used else "These features need no model."


def _differences(chosen: settings.Settings, manifest: "Manifest") -> list[str]:
    """Return how an index differs from what was requested, each as "from ..., not ..." or "with ..., not ..."."""
    from retrieval.features import FEATURES, default_first

    found = []
    if chosen.data_asked:
        wanted, used = chosen.source, manifest.source
        if wanted.identity != used.identity:
            found.append(f"from the dataset {used.dataset} ({used.split or 'train'}), not {wanted.dataset}")
        found += [
            f"with {name.replace('_', ' ')} {getattr(used, name)}, not {getattr(wanted, name)}"
            for name in ("revision", "image_column", "label_column", "caption_column", "limit", "labels")
            if getattr(wanted, name) != getattr(used, name)
        ]
    asked = {each.name for each in chosen.features}
    if asked and asked != manifest.features.keys():
        found.append(f"with the features {', '.join(manifest.features)}, not {', '.join(default_first(asked))}")
    for name, identity in manifest.known.items():
        found += FEATURES[name].differences(chosen.options(name), identity)
    return found


def _warm(searcher: "Searcher", health: "Health", builds: "Builds") -> None:
    """Load what searches need, add what the first gallery lacks, and build the second one.

    A page for other visitors then stops using the Hub.
    """
    from retrieval.storage.projection import Method

    alone = not builds.base.may_build
    try:
        if alone:
            for problem in searcher.fetch_models():
                log.warning("%s", problem)
        searcher.warm()
        log.info("every search is warm")
        _add_maps(searcher, Method.PCA)
        _build_icons(searcher, builds)
    except RetrievalError as error:
        log.warning("%s", error)
    finally:
        if alone:
            hub.end_access()
        health.started = True
    if builds.base.map == Method.TSNE:
        _add_maps(searcher, Method.TSNE)


def _build_icons(searcher: "Searcher", builds: "Builds") -> None:
    """Start to build the bundled icons beside the bundled photos, unless the settings select anything else.

    They get the photos' feature types and models, so that no other model is loaded or looked up on the Hub. A failure
    is logged.
    """
    from retrieval.gallery.source import BUNDLED_GALLERIES

    chosen, manifest = builds.base, searcher.indexes.get().manifest
    if chosen.data_asked or chosen.gallery or manifest.source.bundled is None or "icons" in searcher.indexes.names():
        return
    builds.start(replace(chosen, dataset=str(BUNDLED_GALLERIES["icons"])).like(manifest.known))
    log.info("building the gallery icons in the background")


def _add_maps(searcher: "Searcher", method: "Method") -> None:
    """Compute the maps that galleries lack, one after the other; a failure is logged."""
    from retrieval.indexing.fit_projection import add_maps

    for name in searcher.indexes.names():
        try:
            if made := add_maps(searcher.indexes.root / name, method):
                log.info("%s: the maps of %s by %s are ready", name, ", ".join(made), method)
        except RetrievalError as error:
            log.warning("%s", error)


def _leave(code: int) -> NoReturn:
    """End this process at once; the interpreter would wait for searches, and C++ libraries would abort during one."""
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)
