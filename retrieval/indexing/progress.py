"""How far a build has come, and the callbacks that report it."""

from dataclasses import dataclass
from enum import StrEnum

from retrieval.features.base import ModelChoice


class BuildCallbacks:
    """Callbacks that report build progress. If one raises an exception, the build stops safely."""

    def opening(self) -> None:
        """Called before the dataset is looked up, downloaded if necessary, and opened."""

    def finding(self) -> None:
        """Called before models are looked up and downloaded if necessary."""

    def loading(self, choice: ModelChoice) -> None:
        """Called before a model is loaded."""

    def started(self, name: str, total: int | None) -> None:
        """Called before the first image is read, with the number of images (None: unknown)."""

    def progress(self, done: int, total: int | None) -> None:
        """Called after every batch, and at first with the number of images from an earlier run."""

    def finishing(self) -> None:
        """Called when all images are embedded and the files for readers are about to be written."""


class Phase(StrEnum):
    """What a build is doing."""

    OPENING = "opening"
    FINDING = "finding"
    LOADING = "loading"
    PICTURES = "pictures"
    FINISHING = "finishing"


@dataclass(frozen=True)
class Stage:
    """How far a build has come; times are seconds of `time.monotonic`."""

    phase: Phase
    since: float
    before: int = 0  # images of an earlier run
    done: int = 0
    total: int | None = None
    at: float = 0.0  # when `done` was set

    @property
    def rate(self) -> float | None:
        """Images per second of this run, or None before its first batch."""
        return (self.done - self.before) / (self.at - self.since) if self.done > self.before else None

    @property
    def left(self) -> float | None:
        """Seconds until the last image at this rate, or None if unknown."""
        return (self.total - self.done) / self.rate if self.total is not None and self.rate else None
