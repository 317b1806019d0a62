"""The progress of a build and the callbacks that report it."""

from dataclasses import dataclass
from enum import StrEnum

from retrieval.features.base import ModelChoice


class BuildCallbacks:
    """Callbacks that report build progress. If one raises an exception, the build stops safely."""

    def opening(self) -> None:
        """Called before the dataset is opened, and downloaded if necessary."""

    def finding(self) -> None:
        """Called before models are found, and downloaded if necessary."""

    def loading(self, choice: ModelChoice) -> None:
        """Called before a model is loaded."""

    def started(self, name: str, total: int | None) -> None:
        """Called before the first image is read, with the number of images (None: unknown)."""

    def progress(self, done: int, total: int | None, reused: int) -> None:
        """Called after every batch with the number of rows that are done, `reused` of them from earlier builds."""

    def sending(self, done: int, total: int) -> None:
        """Called after every batch that was sent to a ChromaDB server, with the number of vectors."""

    def finishing(self) -> None:
        """Called when all images are embedded, before the files for readers are written."""


class Phase(StrEnum):
    """The phases of a build."""

    OPENING = "opening"
    FINDING = "finding"
    LOADING = "loading"
    PICTURES = "pictures"
    FINISHING = "finishing"


@dataclass(frozen=True)
class Stage:
    """The progress of a build; times are seconds of `time.monotonic`."""

    phase: Phase
    since: float
    before: int = 0  # images from earlier runs
    done: int = 0
    total: int | None = None
    at: float = 0.0  # time of the last change of `done`

    @property
    def rate(self) -> float | None:
        """Images per second in this run, or None before its first batch."""
        return (self.done - self.before) / (self.at - self.since) if self.done > self.before else None

    @property
    def left(self) -> float | None:
        """Estimated seconds until all images are embedded, or None if unknown."""
        return (self.total - self.done) / self.rate if self.total is not None and self.rate else None
