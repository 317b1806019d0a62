"""A build from settings to the published index: in the foreground, or in the background of a page, one at a time."""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING

from retrieval.errors import SURPRISE, IndexingError, RetrievalError
from retrieval.features.models import ModelChoice, choose_model
from retrieval.settings import Settings
from retrieval.storage.server.address import Server

if TYPE_CHECKING:
    from retrieval.features.clip import ClipEncoder
    from retrieval.indexing.build import Outcome

log = logging.getLogger(__name__)

END_WAIT = 30.0  # seconds that the end of the program waits for a batch to be written

Load = Callable[[ModelChoice, str], "ClipEncoder"]


class BuildStopped(RetrievalError):
    """Somebody stopped the build; what is written stays, and the same build goes on from there."""


class BuildRunning(RetrievalError):
    """Another build has not ended yet."""


class Watch:
    """Is told what a build does; what any of these raises stops it, and nothing that was written is lost."""

    def opening(self) -> None:
        """The data set is looked up, downloaded if need be, and opened."""

    def finding(self) -> None:
        """The model is looked for, and downloaded if need be."""

    def loading(self, choice: ModelChoice) -> None:
        """The model is there and gets loaded."""

    def started(self, name: str, total: int | None) -> None:
        """The pictures of a gallery are about to be read; how many (None: nobody knows)."""

    def progress(self, done: int, total: int | None) -> None:
        """So many pictures are behind us; the first time, those of an earlier run."""

    def finishing(self) -> None:
        """All pictures are written, and the files for readers get made."""


def build_gallery(
    chosen: Settings, rebuild: bool, watch: Watch, load: Load | None = None
) -> tuple["Outcome", ModelChoice]:
    """Build what the settings describe; return what came out and the model taken.

    Args:
        chosen: data set, model, features, and where the index lies.
        rebuild: make it anew even if it is complete, or of another data set.
        watch: told what is done.
        load: loads the model; by default into memory of its own.

    Raises:
        RetrievalError: any of its children, worded.
    """
    # Imported here, so that --help and a mistyped flag answer at once.
    from retrieval.features.clip import ClipEncoder
    from retrieval.gallery.rows import Gallery
    from retrieval.indexing.build import build_index

    _check_share(chosen, rebuild)
    watch.opening()
    if isinstance(chosen.index, Server):
        from retrieval.storage.server.connection import connect

        connect(chosen.index).close()  # a server that is away says so before anything is downloaded
    gallery = Gallery(chosen.source)
    watch.finding()
    choice = choose_model(chosen.model, chosen.model_revision)
    watch.loading(choice)
    encoder = (load or ClipEncoder)(choice, chosen.dtype)
    name = name_of(chosen)
    watch.started(name, gallery.total)
    outcome = build_index(
        chosen.index,
        name,
        gallery,
        encoder,
        pixel_size=chosen.pixel_size,
        batch_size=chosen.batch_size or encoder.batch_size,
        workers=chosen.workers,
        rebuild=rebuild,
        tsne=chosen.map == "tsne",
        shard=chosen.shard,
        progress=watch.progress,
        finishing=watch.finishing,
    )
    if outcome.already_done:
        watch.progress(gallery.total or outcome.manifest.pictures, gallery.total)
    return outcome, choice


def _check_share(chosen: Settings, rebuild: bool) -> None:
    """See that a share, if one is asked for, can be built; before anything is opened or loaded.

    Raises:
        IndexingError: it cannot.
    """
    if chosen.shard and not isinstance(chosen.index, Server):
        raise IndexingError(
            f"--shard needs a ChromaDB server: the files of the index in {chosen.index} belong to one process at a "
            "time. Start one (chroma run --path DIR --port 8000), and give every worker --index http://HOST:8000"
        )
    if chosen.shard and rebuild:
        raise IndexingError(
            "--rebuild and --shard do not go together: a worker that is started again when the others have published "
            "would begin anew. Rebuild with one worker, or give all workers a new name with --gallery."
        )


def name_of(chosen: Settings) -> str:
    """Return the name of the gallery that the settings describe."""
    return chosen.gallery or chosen.source.slug


class Phase(StrEnum):
    """What a build is at."""

    OPENING = "opening"
    FINDING = "finding"
    LOADING = "loading"
    PICTURES = "pictures"
    FINISHING = "finishing"


@dataclass(frozen=True)
class Stage:
    """How far a build is; times are those of `time.monotonic`, in seconds."""

    phase: Phase
    since: float
    before: int = 0  # pictures of an earlier run
    done: int = 0
    total: int | None = None
    at: float = 0.0  # when `done` was counted

    @property
    def rate(self) -> float | None:
        """Pictures per second of this run, or None before its first batch."""
        return (self.done - self.before) / (self.at - self.since) if self.done > self.before else None

    @property
    def left(self) -> float | None:
        """Seconds that the other pictures take at this rate, or None if nobody can say."""
        return (self.total - self.done) / self.rate if self.total is not None and self.rate else None


class Build(Watch):
    """One build in a thread of its own; any number of visitors may look at it, and each may stop it."""

    def __init__(self, number: int, chosen: Settings, rebuild: bool, load: Load | None) -> None:
        """Start to build.

        Args:
            number: tells the builds of a process apart, from 1.
            chosen: as for `build_gallery`, like the rest.
            rebuild: likewise.
            load: likewise.
        """
        self.number = number
        self.name = name_of(chosen)
        self.stage = Stage(Phase.OPENING, time.monotonic())
        self._outcome: Outcome | None = None
        self._failure: RetrievalError | None = None
        self._stop = threading.Event()
        # A daemon, since nothing can end a download; a build that is cut off goes on from its last batch.
        self._thread = threading.Thread(
            target=self._run, args=(chosen, rebuild, load), name=f"build {self.name}", daemon=True
        )
        self._thread.start()

    @property
    def running(self) -> bool:
        """Whether it has not ended yet."""
        return self._thread.is_alive()

    @property
    def stopping(self) -> bool:
        """Whether somebody has asked it to stop."""
        return self._stop.is_set()

    def stop(self) -> None:
        """Ask it to stop, which it does after the batch, the download or the loading that it is at."""
        self._stop.set()

    def wait(self, timeout: float | None = None) -> None:
        """Wait for the end, for `timeout` seconds at most."""
        self._thread.join(timeout)

    def outcome(self, timeout: float | None = None) -> "Outcome":
        """Wait for the end, and return what came out.

        Args:
            timeout: seconds; None waits as long as it takes.

        Raises:
            BuildStopped: it was stopped.
            BuildRunning: it has not ended within the timeout.
            RetrievalError: it failed.
        """
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
            # Without its traceback, which would keep the data set and the model in memory.
            self._failure = type(error)(str(error))
        except BaseException:  # also a panic of ChromaDB's Rust part: nobody else would hear of it
            log.exception("unexpected error in the build of %s", self.name)
            self._failure = RetrievalError(SURPRISE)

    def opening(self) -> None:
        """See `Watch`, like the rest."""
        self._enter(Phase.OPENING)

    def finding(self) -> None:
        """See `Watch`."""
        self._enter(Phase.FINDING)

    def loading(self, choice: ModelChoice) -> None:
        """See `Watch`."""
        log.info("%s: model %s, because %s", self.name, choice.name, choice.reason)
        self._enter(Phase.LOADING)

    def started(self, name: str, total: int | None) -> None:
        """See `Watch`."""
        self._enter(Phase.PICTURES)

    def progress(self, done: int, total: int | None) -> None:
        """See `Watch`."""
        now = time.monotonic()
        if self.stage.at:
            self.stage = replace(self.stage, done=done, at=now)
        else:  # counts what was there before
            self.stage = Stage(Phase.PICTURES, now, done, done, total, now)
        self._heed()

    def finishing(self) -> None:
        """See `Watch`."""
        self.stage = replace(self.stage, phase=Phase.FINISHING, since=time.monotonic())
        self._heed()

    def _enter(self, phase: Phase) -> None:
        self.stage = Stage(phase, time.monotonic())
        self._heed()

    def _heed(self) -> None:
        if self.stopping:
            raise BuildStopped(f"The build of {self.name!r} was stopped.")


class Builds:
    """The builds of one process, one at a time."""

    def __init__(self, base: Settings, load: Load | None = None) -> None:
        """Take what builds have in common; nothing is built yet.

        Args:
            base: where the index lies, and what a build is not told otherwise.
            load: loads models, see `build_gallery`.
        """
        self.base = base
        self._load = load
        self._last: Build | None = None
        self._starting = threading.Lock()

    @property
    def last(self) -> Build | None:
        """The build that was started last, if any."""
        return self._last

    @property
    def running(self) -> Build | None:
        """The build that has not ended yet, if any."""
        last = self._last
        return last if last and last.running else None

    def start(self, chosen: Settings, rebuild: bool = False) -> Build:
        """Start to build in the background.

        Raises:
            BuildRunning: another build has not ended yet.
        """
        with self._starting:
            if running := self.running:
                raise BuildRunning(
                    f"The gallery {running.name!r} is being built just now, and only one is built at a time. "
                    "Wait until it is done, or cancel it; then start yours."
                )
            self._last = Build(self._last.number + 1 if self._last else 1, chosen, rebuild, self._load)
            return self._last

    def close(self) -> None:
        """Stop what is running, and wait for the batch that is being written."""
        if running := self.running:
            running.stop()
            running.wait(END_WAIT)
