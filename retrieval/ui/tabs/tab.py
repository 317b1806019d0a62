"""The base class of tabs. A new tab takes one file with a subclass, and one line in `page.TABS`."""

from dataclasses import dataclass
from typing import Any, ClassVar

import gradio as gr

from retrieval.indexing.jobs import Builds
from retrieval.search.searcher import Searcher
from retrieval.ui.query_panel import QueryPanel
from retrieval.ui.scripts import OPENED, if_open
from retrieval.ui.serving.limits import OWN, SEARCHES, Limits
from retrieval.ui.widgets.thumbnails import Thumbnails


@dataclass(frozen=True)
class TabContext:
    """What tabs share.

    `builds` and `timer` are None where visitors may not build galleries. The timer is outside all tabs, since one in a
    tab that is not shown does not tick.
    """

    page: gr.Blocks
    searcher: Searcher
    panel: QueryPanel
    thumbnails: Thumbnails
    limits: Limits = OWN
    builds: Builds | None = None
    timer: gr.Timer | None = None


class Tab:
    """A tab of the page, without the state of any visitor."""

    title: ClassVar[str]

    def __init__(self, context: TabContext, tab: gr.Tab) -> None:
        """Keep what tabs share. A subclass also adds its components to `tab`, the current container, and its events."""
        self._searcher = context.searcher
        self._panel = context.panel
        self._thumbnails = context.thumbnails
        self._limits = context.limits

    @classmethod
    def offered(cls, context: TabContext) -> bool:
        """Return whether the page has this tab."""
        return True


def run_if_open(tab: gr.Tab, elem_id: str, changes: list[Any], **event: Any) -> dict[str, Any]:
    """Run an event when its tab is opened and, while the element is visible, on changes; return its arguments.

    The function of the event has a parameter `opened`, which is False while the tab is closed.
    """
    opened = gr.Checkbox(visible=False)  # set by the scripts
    event["inputs_kwargs"] = {**event["inputs_kwargs"], "opened": opened}
    event |= {"trigger_mode": "always_last", **SEARCHES}
    tab.select(**event, js=OPENED)
    gr.on(changes, **event, js=if_open(elem_id))
    return event
