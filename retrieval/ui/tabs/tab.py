"""The base class of tabs. A new tab takes one file with a subclass, and one line in `page.TABS`."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import gradio as gr

from retrieval.indexing.jobs import Builds
from retrieval.search.searcher import Searcher
from retrieval.ui.query_panel import SKIP, QueryPanel, Updates
from retrieval.ui.scripts import next_turn
from retrieval.ui.serving.limits import OWN, SEARCHES, SESSIONS, Limits
from retrieval.ui.viewer import Viewer
from retrieval.ui.widgets.thumbnails import Thumbnails


@dataclass(frozen=True)
class TabContext:
    """What tabs share.

    `builds` and `timer` are None where visitors may not build galleries. The timer is outside all tabs, since one in a
    tab that is not shown does not tick. `features` are the feature types of all galleries, and `shown` those of the
    gallery that is shown first.
    """

    page: gr.Blocks
    searcher: Searcher
    panel: QueryPanel
    thumbnails: Thumbnails
    viewer: Viewer
    limits: Limits = OWN
    builds: Builds | None = None
    timer: gr.Timer | None = None
    features: Sequence[str] = ()
    shown: Sequence[str] = ()


class Tab:
    """A tab of the page, without the state of any visitor."""

    title: ClassVar[str]

    def __init__(self, context: TabContext, tab: gr.Tab) -> None:
        """Keep what tabs share. A subclass also adds its components to `tab`, the current container, and its events."""
        self._searcher = context.searcher
        self._panel = context.panel
        self._thumbnails = context.thumbnails
        self._viewer = context.viewer
        self._limits = context.limits

    @classmethod
    def offered(cls, context: TabContext) -> bool:
        """Return whether the page has this tab."""
        return True


class Newest:
    """A function of an event, without the answers that a newer question of the same visitor has overtaken.

    gradio (6.31.0) starts an event again if it comes twice at nearly the same moment, although it should wait for the
    first answer, which can then be the last to arrive.
    """

    def __init__(self, run: Callable[..., Updates]) -> None:
        self._run = run
        self._turns = OrderedDict[str | None, float]()  # the newest of each session, the last used one at the end
        self._lock = threading.Lock()

    def answer(self, request: gr.Request, turn: float | None, **values: Any) -> Updates:
        """Return the updates of the function, or none if the same session has asked with a higher `turn` meanwhile."""
        session, asked = request.session_hash, turn or 0.0
        with self._lock:
            self._turns[session] = max(asked, self._turns.get(session, asked))
            self._turns.move_to_end(session)
            while len(self._turns) > SESSIONS:
                self._turns.popitem(last=False)
        updates = SKIP if self._overtaken(session, asked) else self._run(**values)
        return SKIP if self._overtaken(session, asked) else updates

    def _overtaken(self, session: str | None, asked: float) -> bool:
        return asked < self._turns.get(session, asked)


def run_on(
    run: Callable[..., Updates],
    changes: Sequence[Any],
    elem_id: str | None = None,
    turn: gr.Number | None = None,
    **event: Any,
) -> dict[str, Any]:
    """Run a function on changes, so that its last answer is that to the last change; return the event's arguments.

    With `elem_id`, it runs only while that element is visible, so that closed tabs do no work.

    If a function is busy, gradio later repeats the event that asked for it, with all functions of that event. Two busy
    functions of one event would repeat each other without end. So each gets an event of its own: `turn` changes, by
    default a new number in the current container, which the browser knows only while that is shown.
    """
    turn = turn or gr.Number(0, visible="hidden")
    event |= {"fn": Newest(run).answer, "trigger_mode": "always_last", **SEARCHES}
    event["inputs_kwargs"] = {"turn": turn, **event["inputs_kwargs"]}
    gr.on(changes, None, turn, turn, js=next_turn(elem_id), trigger_mode="multiple")
    turn.change(**event)
    return event
