"""How a visitor stops a long job: the job checks between two steps whether it should end.

gradio's own `cancels` interrupts a job, but an update already on its way to the page may arrive after that or break the
next job. Here, a job ends if it began before its visitor's last stop. A stop therefore also reaches a job that waits in
the queue, but none that begins later. Both times come from the browser and are only compared with each other.
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
    """The components that hold the times of one kind of job."""

    def __init__(self) -> None:
        self.stopped = gr.State([])
        self.now = gr.Number(visible=False)

    @property
    def inputs(self) -> dict[str, Any]:
        """The components, by the parameters of a job's function."""
        return {"stopped": self.stopped, "began": self.now}

    @property
    def event(self) -> dict[str, Any]:
        """The arguments of an event that stops the jobs that its visitor began before; it skips the queue."""
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
    """A running job: its visitor's last stop, when the job began, and its deadline by `time.monotonic`."""

    stopped: Stopped
    began: float
    deadline: float

    def ended(self) -> bool:
        """Return whether its visitor stopped the job."""
        return ended(self.stopped, self.began)

    def over(self) -> str:
        """Return why the job must end now, or an empty text while it may go on."""
        if self.ended():
            return STOPPED
        return OUT_OF_TIME if time.monotonic() > self.deadline else ""


def stop(stopped: Stopped, now: float) -> None:
    """Stop the jobs of a visitor that began before `now`, which comes from a browser and may be anything."""
    if _is_time(now):
        stopped[:] = [now]


def ended(stopped: Stopped, began: float) -> bool:
    """Return whether a job that began at a time was stopped."""
    return bool(stopped) and not (_is_time(began) and began > stopped[0])


def _is_time(value: object) -> bool:
    return isinstance(value, (int, float)) and abs(value) < 2**53  # not NaN either
