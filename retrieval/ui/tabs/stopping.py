"""How a visitor stops a long job: the job is asked, and ends by itself between two steps.

gradio's own `cancels` interrupts a job: an update already on its way to the page may arrive after that, or break the
job that is started next. Here every job knows when its visitor began it, and every visitor has the time of the last
stop; a job that began before that time ends. So a stop reaches a job that waits in the queue, and none that begins
later. Both times come from the browser and are only compared with each other.
"""

import time
from dataclasses import dataclass
from typing import Any

import gradio as gr

STOPPED = "Stopped."
OUT_OF_TIME = (
    "Stopped: this page limits the time of one job, since others are waiting. The results so far are valid; "
    "ask for less to get all of them."
)

Stopped = list[float]
NOW = "Date.now()"


class Stops:
    """The components that carry the times; made inside the Blocks, once for each kind of job."""

    def __init__(self) -> None:
        """Make them."""
        self.stopped = gr.State([])
        self.now = gr.Number(visible=False)

    @property
    def inputs(self) -> dict[str, Any]:
        """The components by the names of the fields of `Job`, but for its deadline."""
        return {"stopped": self.stopped, "began": self.now}

    @property
    def event(self) -> dict[str, Any]:
        """The arguments of an event that stops the jobs that the visitor began before it; it skips the queue."""
        return {
            "fn": stop,
            "inputs": [self.stopped, self.now],
            "outputs": None,
            "js": f"stopped => [stopped, {NOW}]",
            "queue": False,
            "api_visibility": "private",
        }


@dataclass(frozen=True)
class Job:
    """A job under way: the visitor's last stop, when the job began, and its deadline by `time.monotonic`."""

    stopped: Stopped
    began: float
    deadline: float

    def ended(self) -> bool:
        """Return whether the job was asked to end."""
        return ended(self.stopped, self.began)

    def over(self) -> str:
        """Return why the job must end now; an empty text while it may go on."""
        if self.ended():
            return STOPPED
        return OUT_OF_TIME if time.monotonic() > self.deadline else ""


def stop(stopped: Stopped, now: float) -> None:
    """Ask the jobs of a visitor that began before `now` to end."""
    stopped[:] = [now]


def ended(stopped: Stopped, began: float) -> bool:
    """Whether a job that began then was asked to end."""
    return bool(stopped) and stopped[0] >= began
