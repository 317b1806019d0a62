"""What a tab is: one file with a class like `Tab`, and one line in `page.TABS`."""

from dataclasses import dataclass
from typing import ClassVar

import gradio as gr

from retrieval.indexing.jobs import Builds
from retrieval.search.searcher import Searcher
from retrieval.ui.query_panel import QueryPanel
from retrieval.ui.serving.limits import OWN, Limits
from retrieval.ui.widgets.thumbnails import Thumbnails


@dataclass(frozen=True)
class TabContext:
    """What tabs have in common: the page around them, the query beside them, and what answers it.

    `builds` and `timer` are None where visitors may not build galleries. The timer is the page's, since one in a tab
    that is not shown does not tick.
    """

    page: gr.Blocks
    searcher: Searcher
    panel: QueryPanel
    thumbnails: Thumbnails
    limits: Limits = OWN
    builds: Builds | None = None
    timer: gr.Timer | None = None


class Tab:
    """A tab of the page; it holds no state of any visitor."""

    title: ClassVar[str]

    def __init__(self, context: TabContext, tab: gr.Tab) -> None:
        """Lay the tab out inside `tab`, which is the current container, and wire its events."""
        raise NotImplementedError

    @classmethod
    def offered(cls, context: TabContext) -> bool:
        """Whether the page has this tab."""
        return True
