"""Run builds from settings, in the foreground or in a background thread."""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from typing_extensions import override

from retrieval.errors import SURPRISE, IndexingError, RetrievalError
from retrieval.features import DEFAULT_SET, FEATURES, default_first
from retrieval.features.base import FeatureIdentity, FeatureOptions, FeatureSet, ModelChoice
from retrieval.features.loaded import LoadedLater
from retrieval.indexing.fit_projection import add_maps
from retrieval.indexing.outcome import Outcome
from retrieval.indexing.progress import BuildCallbacks, Phase, Stage
from retrieval.settings import Settings
from retrieval.storage.manifest import Manifest, read_manifest
from retrieval.storage.projection import Method

if TYPE_CHECKING:
    from retrieval.indexing.build import BuildPlan

log = logging.getLogger(__name__)

SHARE_ROWS = 64  # consecutive rows that go to the same worker
END_WAIT = 30.0  # seconds to wait at exit for the current batch to be written

Load = Callable[[str, FeatureOptions, ModelChoice | None], FeatureSet]


class BuildStopped(RetrievalError):
    """The build was cancelled; it can be resumed."""


class BuildRunning(RetrievalError):
    """Another build has not ended yet."""


def build_gallery(
    chosen: Settings, rebuild: bool, callbacks: BuildCallbacks, load: Load | None = None, complete: bool = True
) -> tuple[Outcome, ModelChoice | None]:
    """Build the index that the settings describe; return the outcome and the first model used, if any.

    With `rebuild`, an index that is complete or belongs to another dataset is replaced. `load` loads a feature set; by
    default, a new copy is loaded. Unless it is to be `complete`, maps and the files of engines are left out.

    Raise a RetrievalError if the build fails or a callback cancels it.
    """
    # Imported here, so that `--help` and a mistyped flag respond at once.
    from retrieval.indexing.build import build_index

    plan, used = _plan(chosen, rebuild, callbacks, load)
    outcome = build_index(replace(plan, complete=complete), callbacks)
    if outcome.already_done:
        total = plan.gallery.total or outcome.manifest.pictures
        callbacks.progress(total, total, total)
    return outcome, used


def embed_share(chosen: Settings, callbacks: BuildCallbacks) -> tuple[int, int]:
    """Embed one worker's share of a gallery; return its number of rows, and how many were embedded now.

    Raise a RetrievalError if that fails or a callback cancels it.
    """
    from retrieval.indexing.build import embed_rows

    assert chosen.shard
    number, count = chosen.shard
    plan, _ = _plan(chosen, False, callbacks, None)
    return embed_rows(plan, callbacks, lambda row: row // SHARE_ROWS % count == number - 1)


def _plan(
    chosen: Settings, rebuild: bool, callbacks: BuildCallbacks, load: Load | None
) -> "tuple[BuildPlan, ModelChoice | None]":
    """Open the gallery and find the models; return the plan, and the model of the first feature type that has one."""
    from retrieval.gallery.rows import Gallery
    from retrieval.indexing.build import BuildPlan

    callbacks.opening()
    gallery = Gallery(chosen.source)
    callbacks.finding()
    name = name_of(chosen)
    published = _published(chosen, name, rebuild)
    known = published.features if published else {}
    features, used = dict[str, FeatureSet](), dict[str, ModelChoice]()
    for each in _names(chosen, published):
        kind, options = FEATURES[each], chosen.options(each)
        # A rebuild looks for a default model again, but a named one has no default.
        identity = None if rebuild and each in FEATURES else known.get(each)
        if identity:
            options = kind.keep(identity, options)
        choice = kind.choose(options)
        features[each] = _feature_set(each, options, choice, identity, load, callbacks)
        used |= {each: choice} if choice else {}
    plan = BuildPlan(
        index=chosen.index,
        name=name,
        gallery=gallery,
        features=features,
        workers=chosen.workers,
        batch_size=chosen.batch_size,
        rebuild=rebuild,
        tsne=chosen.map == "tsne",
        recall_floor=chosen.recall_floor,
        server=chosen.server,
    )
    callbacks.started(plan.name, gallery.total)
    return plan, next((used[each] for each in default_first(used)), None)


def _published(chosen: Settings, name: str, rebuild: bool) -> Manifest | None:
    try:
        return read_manifest(chosen.index / name)
    except IndexingError:
        if not rebuild:
            raise
        return None  # a rebuild replaces a manifest that cannot be read


def _names(chosen: Settings, published: Manifest | None) -> list[str]:
    """Return the feature types to build: those asked for, those of the gallery, or the default ones.

    Raises:
        IndexingError: one to drop is not there, or the last one is to be dropped.
    """
    present = list(published.known) if published else []
    asked = [each.name for each in chosen.features] or present or DEFAULT_SET
    if missing := set(chosen.drop_features) - set(asked):
        raise IndexingError(f"The gallery has no {min(missing)} features to drop; it has {', '.join(asked)}.")
    kept = [name for name in asked if name not in chosen.drop_features]
    if not kept:
        raise IndexingError("A gallery needs at least one feature type. Drop fewer of them.")
    return [*(name for name in FEATURES if name in kept), *(name for name in kept if name not in FEATURES)]


def _feature_set(
    name: str,
    options: FeatureOptions,
    choice: ModelChoice | None,
    identity: FeatureIdentity | None,
    load: Load | None,
    callbacks: BuildCallbacks,
) -> FeatureSet:
    """Return a feature set, which is loaded only when it is needed if it has the `identity` of the last build."""

    def loaded() -> FeatureSet:
        if choice:
            callbacks.loading(choice)
        return load(name, options, choice) if load else FEATURES[name].load(options, choice)

    if identity and FEATURES[name].is_same(identity, options, choice):
        return LoadedLater(identity, loaded)
    return loaded()


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
        self._ended = threading.Event()
        # A daemon, because a download cannot be interrupted and a killed build can be resumed.
        self._thread = threading.Thread(
            target=self._run, args=(chosen, rebuild, load), name=f"build {self.name}", daemon=True
        )
        self._thread.start()

    @property
    def running(self) -> bool:
        """Whether the build is still running."""
        return not self._ended.is_set()

    @property
    def stopping(self) -> bool:
        """Whether the build was cancelled."""
        return self._stop.is_set()

    def stop(self) -> None:
        """Cancel the build; it stops after the current batch, download or model."""
        self._stop.set()

    def wait(self, timeout: float | None = None) -> None:
        """Wait until the build ends, for at most `timeout` seconds."""
        self._ended.wait(timeout)

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
            # The gallery is ready without maps by t-SNE, which take longer than the rest.
            self._outcome, _ = build_gallery(replace(chosen, map=Method.PCA), rebuild, self, load)
        except RetrievalError as error:
            if not isinstance(error, BuildStopped):
                log.error("%s: %s", self.name, error)
            # A copy without the traceback, which would keep the dataset and the model in memory.
            self._failure = type(error)(str(error))
        except BaseException:  # includes panics of ChromaDB's Rust part, which would otherwise go unreported
            log.exception("unexpected error in the build of %s", self.name)
            self._failure = RetrievalError(SURPRISE)
        finally:
            self._ended.set()
        if self._outcome and chosen.map == Method.TSNE:
            try:
                add_maps(chosen.index / self.name, Method.TSNE, self._stop_if_cancelled)
            except RetrievalError as error:
                log.warning("%s: %s", self.name, error)

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
    def progress(self, done: int, total: int | None, reused: int) -> None:
        self.stage = replace(self.stage, before=reused, done=done, total=total, at=time.monotonic())
        self._stop_if_cancelled()

    @override
    def sending(self, done: int, total: int) -> None:
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
        """Cancel the last build, or its maps, and wait until its current batch is written."""
        if last := self._last:
            last.stop()
            last.wait(END_WAIT)
