"""Run builds from settings, in the foreground or in a background thread."""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import replace

from typing_extensions import override

from retrieval.errors import SURPRISE, IndexingError, RetrievalError
from retrieval.features import FEATURES
from retrieval.features.base import FeatureOptions, FeatureSet, ModelChoice
from retrieval.indexing.outcome import Outcome
from retrieval.indexing.progress import BuildCallbacks, Phase, Stage
from retrieval.settings import Settings
from retrieval.storage.server.address import Server
from retrieval.storage.server.shard import ALL

log = logging.getLogger(__name__)

DEFAULT_BATCH = 16  # images per forward pass if no feature set has a preference
END_WAIT = 30.0  # seconds to wait at exit for the current batch to be written

Load = Callable[[str, FeatureOptions, ModelChoice | None], FeatureSet]


class BuildStopped(RetrievalError):
    """The build was cancelled; it can be resumed."""


class BuildRunning(RetrievalError):
    """Another build has not ended yet."""


def build_gallery(
    chosen: Settings, rebuild: bool, callbacks: BuildCallbacks, load: Load | None = None
) -> tuple[Outcome, ModelChoice | None]:
    """Build the index that the settings describe; return the outcome and the first model used, if any.

    With `rebuild`, an index that is complete or belongs to another dataset is replaced. `load` loads a feature set; by
    default, a new copy is loaded. Raise a RetrievalError if the build fails or a callback cancels it.
    """
    # Imported here, so that `--help` and a mistyped flag respond at once.
    from retrieval.gallery.rows import Gallery
    from retrieval.indexing.build import BuildPlan, build_index

    _check_share(chosen, rebuild)
    callbacks.opening()
    if isinstance(chosen.index, Server):
        from retrieval.storage.server.connection import connect

        connect(chosen.index).close()  # fail early if the server is unreachable
    gallery = Gallery(chosen.source)
    callbacks.finding()
    options = chosen.features
    choices = {name: kind.choose(options) for name, kind in FEATURES.items()}
    features = {}
    for name, choice in choices.items():
        if choice:
            callbacks.loading(choice)
        features[name] = load(name, options, choice) if load else FEATURES[name].load(options, choice)
    fastest = [each.batch_size for each in features.values() if each.batch_size]
    plan = BuildPlan(
        index=chosen.index,
        name=name_of(chosen),
        gallery=gallery,
        features=features,
        batch_size=chosen.batch_size or min(fastest, default=DEFAULT_BATCH),
        workers=chosen.workers,
        rebuild=rebuild,
        tsne=chosen.map == "tsne",
        shard=chosen.shard or ALL,
    )
    callbacks.started(plan.name, gallery.total)
    outcome = build_index(plan, callbacks)
    if outcome.already_done:
        callbacks.progress(gallery.total or outcome.manifest.pictures, gallery.total)
    return outcome, next((choice for choice in choices.values() if choice), None)


def _check_share(chosen: Settings, rebuild: bool) -> None:
    """Raise IndexingError if the settings cannot be combined with `--shard`."""
    if chosen.shard and not isinstance(chosen.index, Server):
        raise IndexingError(
            f"`--shard` needs a ChromaDB server, because only one process at a time can write the index folder "
            f"`{chosen.index}`. Start a server (`chroma run --path DIR --port 8000`) and give every worker "
            "`--index http://HOST:8000`."
        )
    if chosen.shard and rebuild:
        raise IndexingError(
            "`--rebuild` and `--shard` cannot be combined: a worker that restarts after the others have published "
            "would start from scratch. Rebuild with one worker, or give all workers a new name with `--gallery`."
        )


def name_of(chosen: Settings) -> str:
    """Return the gallery's name, by default derived from the dataset."""
    return chosen.gallery or chosen.source.slug


class Build(BuildCallbacks):
    """A build in a background thread, numbered within the process, which any visitor can follow and cancel."""

    def __init__(self, number: int, chosen: Settings, rebuild: bool, load: Load | None) -> None:
        self.number = number
        self.name = name_of(chosen)
        self.stage = Stage(Phase.OPENING, time.monotonic())
        self._outcome: Outcome | None = None
        self._failure: RetrievalError | None = None
        self._stop = threading.Event()
        # A daemon, because a download cannot be interrupted and a killed build can be resumed.
        self._thread = threading.Thread(
            target=self._run, args=(chosen, rebuild, load), name=f"build {self.name}", daemon=True
        )
        self._thread.start()

    @property
    def running(self) -> bool:
        """Whether the build is still running."""
        return self._thread.is_alive()

    @property
    def stopping(self) -> bool:
        """Whether the build was cancelled."""
        return self._stop.is_set()

    def stop(self) -> None:
        """Cancel the build; it stops after the current batch, download or model."""
        self._stop.set()

    def wait(self, timeout: float | None = None) -> None:
        """Wait until the build ends, for at most `timeout` seconds."""
        self._thread.join(timeout)

    def outcome(self, timeout: float | None = None) -> Outcome:
        """Wait for at most `timeout` seconds; return the outcome, or raise the build's error or BuildRunning."""
        self.wait(timeout)
        if self._failure:
            raise self._failure
        if self._outcome is None:
            raise BuildRunning(f"The gallery {self.name!r} is still being built.")
        return self._outcome

    def _run(self, chosen: Settings, rebuild: bool, load: Load | None) -> None:
        try:
            self._outcome, _ = build_gallery(chosen, rebuild, self, load)
        except RetrievalError as error:
            if not isinstance(error, BuildStopped):
                log.error("%s: %s", self.name, error)
            # A copy without the traceback, which would keep the dataset and the model in memory.
            self._failure = type(error)(str(error))
        except BaseException:  # includes panics of ChromaDB's Rust part, which would otherwise go unreported
            log.exception("unexpected error in the build of %s", self.name)
            self._failure = RetrievalError(SURPRISE)

    @override
    def opening(self) -> None:
        self._enter(Phase.OPENING)

    @override
    def finding(self) -> None:
        self._enter(Phase.FINDING)

    @override
    def loading(self, choice: ModelChoice) -> None:
        log.info("%s: model %s, because %s", self.name, choice.name, choice.reason)
        self._enter(Phase.LOADING)

    @override
    def started(self, name: str, total: int | None) -> None:
        self._enter(Phase.PICTURES)

    @override
    def progress(self, done: int, total: int | None) -> None:
        now = time.monotonic()
        if self.stage.at:
            self.stage = replace(self.stage, done=done, at=now)
        else:  # the first call reports the images from earlier runs
            self.stage = Stage(Phase.PICTURES, now, done, done, total, now)
        self._stop_if_cancelled()

    @override
    def finishing(self) -> None:
        self.stage = replace(self.stage, phase=Phase.FINISHING, since=time.monotonic())
        self._stop_if_cancelled()

    def _enter(self, phase: Phase) -> None:
        self.stage = Stage(phase, time.monotonic())
        self._stop_if_cancelled()

    def _stop_if_cancelled(self) -> None:
        if self.stopping:
            raise BuildStopped(f"The build of {self.name!r} was cancelled.")


class Builds:
    """Runs the builds of this process, one at a time.

    `base` has the index and the default settings; `load` loads feature sets, see `build_gallery`.
    """

    def __init__(self, base: Settings, load: Load | None = None) -> None:
        self.base = base
        self._load = load
        self._last: Build | None = None
        self._starting = threading.Lock()

    @property
    def last(self) -> Build | None:
        """The most recent build, if any."""
        return self._last

    @property
    def running(self) -> Build | None:
        """The running build, if any."""
        last = self._last
        return last if last and last.running else None

    def start(self, chosen: Settings, rebuild: bool = False) -> Build:
        """Start a build in the background; raise BuildRunning if another one is still running."""
        with self._starting:
            if running := self.running:
                raise BuildRunning(
                    f"The gallery {running.name!r} is being built, and only one is built at a time. "
                    "Wait until it is done or cancel it, then start yours."
                )
            self._last = Build(self._last.number + 1 if self._last else 1, chosen, rebuild, self._load)
            return self._last

    def close(self) -> None:
        """Cancel the running build and wait until its current batch is written."""
        if running := self.running:
            running.stop()
            running.wait(END_WAIT)
