"""How a visitor stops a long job: the job is asked, and ends by itself between two steps.

gradio's own `cancels` cuts a job off: what it has still on the way to the page may come after it was stopped, or break
the one that is started next. Here every job knows when its visitor began it, and every visitor has a time of the last
stop; a job that began before that time ends. So a stop reaches a job that waits in the queue, and none that is begun
later. Both times are the browser's own and mean nothing to anybody else.
"""

import time
from typing import Any

import gradio as gr

from retrieval.analysis import sentences as words

Stopped = list[float]
NOW = "Date.now()"


class Stops:
    """The components that carry the times; made inside the Blocks, once for each kind of job."""

    def __init__(self) -> None:
        """Make them."""
        self.stopped = gr.State([])
        self.now = gr.Number(visible=False)

    @property
    def event(self) -> dict[str, Any]:
        """What an event needs to stop the visitor's jobs that began before it; at once, past the queue."""
        return {
            "fn": stop,
            "inputs": [self.stopped, self.now],
            "outputs": None,
            "js": f"stopped => [stopped, {NOW}]",
            "queue": False,
            "api_visibility": "private",
        }


def stop(stopped: Stopped, now: float) -> None:
    """Ask the jobs of a visitor that began before `now` to end."""
    stopped[:] = [now]


def ended(stopped: Stopped, began: float) -> bool:
    """Whether a job that began then was asked to end."""
    return bool(stopped) and stopped[0] >= began


def over(stopped: Stopped, began: float, deadline: float) -> str:
    """Return why a job that began then must end now, in words; an empty text while it may go on.

    Args:
        stopped: see `ended`, like `began`.
        began: likewise.
        deadline: when its time is over, by `time.monotonic`.
    """
    if ended(stopped, began):
        return words.STOPPED
    return words.OUT_OF_TIME if time.monotonic() > deadline else ""
