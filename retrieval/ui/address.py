"""Shows what the page's address says when the page is opened, and when its visitor goes back or forward."""

import html
import math
from collections.abc import Mapping
from typing import Any

import gradio as gr
from starlette.datastructures import QueryParams

from retrieval.errors import PictureError, QueryError
from retrieval.search.query import Query
from retrieval.storage.reader import GalleryIndex
from retrieval.ui.controls import QUIET
from retrieval.ui.errors import as_shown
from retrieval.ui.permalink import KEPT, NAMES, from_address, kept
from retrieval.ui.query_panel import Updates
from retrieval.ui.tabs.search import TOP_K, SearchTab
from retrieval.ui.tabs.tab import TabContext
from retrieval.ui.widgets.picture_input import uploaded

GONE = "Your uploaded image is no longer on the server. Upload it again."
FIRST_VISIT = -1  # unlike the numbers of builds and of later visits


class Address:
    """The events that restore a search and the values of tabs from the address, which may contain anything."""

    def __init__(self, context: TabContext, search: SearchTab, tabs: Mapping[str, Mapping[str, Any]]) -> None:
        """Wire the events; `tabs` has the components of each tab that are named in `KEPT`, or none."""
        self._searcher = context.searcher
        self._panel = context.panel
        self._thumbnails = context.thumbnails
        self._search = search
        self._tabs = tabs
        components = [component for each in tabs.values() for component in each.values()]
        outputs = [*search.restorable, *components]
        upload = gr.Textbox(visible=False)  # set by the script
        script = "() => [history.state?.upload ?? '']"
        context.page.load(self.open, upload, outputs, js=script, **QUIET)
        search.link.submit(self.revisit, None, outputs, trigger_mode="multiple", **QUIET)
        for tab, named in tabs.items():
            if named:
                kept(tab, named)

    def open(self, upload: str | None, request: gr.Request) -> Updates:
        """Restore the search in the address, or begin with the first example.

        `upload` is the image that this browser's history has for the address. The change of the image starts the search
        of an example.
        """
        given = request.query_params
        with as_shown():
            values, problems = self._values(given, usual=False)
            if not upload and not any(name in NAMES for name in given):
                found: Updates = {self._panel.picture: self._panel.opening("")}
            else:
                found = self._restored(given, upload, FIRST_VISIT, problems, begins=True)
        _warn(problems)
        return found | values

    def revisit(self, request: gr.Request, moved: gr.EventData) -> Updates:
        """Restore the search in the address to which the visitor has gone back or forward."""
        data = moved._data if isinstance(moved._data, dict) else {}
        visit = data.get("visit")
        given = request.query_params
        with as_shown():
            values, problems = self._values(given, usual=True)
            number = visit if type(visit) is int and abs(visit) < 2**53 else FIRST_VISIT
            found = self._restored(given, data.get("upload"), number, problems, begins=False)
        _warn(problems)
        return found | values

    def _restored(self, given: QueryParams, upload: object, visit: int, problems: list[str], begins: bool) -> Updates:
        """Return the updates that show a search; what is invalid is added to `problems`.

        A search without any image and text `begins` with the first example if the page was just opened.
        """
        items = [(name, value) for name, value in given.multi_items() if name in NAMES]
        query, features, invalid = from_address(items, self._searcher.indexes, Query(top_k=TOP_K))
        problems += invalid
        index = self._searcher.indexes.get(query.gallery)
        self._thumbnails.serve(index)
        picture = self._own(upload, problems) or self._picture(query, index, given.get("example"), begins)
        return self._search.restored(query, features, index, picture, visit)

    def _own(self, upload: object, problems: list[str]) -> str | None:
        """Return the path of an image that was uploaded here and is still there."""
        if not upload:
            return None
        try:
            if (path := uploaded(upload)).is_file():
                return str(path)
        except (PictureError, OSError):
            pass  # a browser may say anything
        problems.append(GONE)
        return None

    def _picture(self, query: Query, index: GalleryIndex, example: str | None, begins: bool) -> str | None:
        if query.position is not None:
            return str(index.thumbnail(query.position))
        only = not begins or bool(query.text) or query.shows
        return self._panel.opening(index.manifest.gallery, example, only)

    def _values(self, given: QueryParams, usual: bool) -> tuple[Updates, list[str]]:
        """Return the values of the open tab, and what is wrong in the address; `usual` sets those that are missing."""
        tab = given.get("tab") or ("lessons" if "lesson" in given else "search")
        if tab not in self._tabs:
            return {}, [f"There is no tab {tab[:40]!r} here."]
        updates, problems = Updates(), list[str]()
        for name, component in self._tabs[tab].items():
            if name in given or (usual and KEPT[tab][name] != ""):
                try:
                    updates[component] = _checked(name, component, given.get(name, KEPT[tab][name]))
                except QueryError as error:
                    problems.append(str(error))
        return updates, problems


def _checked(name: str, component: Any, value: Any) -> Any:
    """Return a value from an address for a slider or for radio buttons; raise QueryError if it is invalid."""
    if isinstance(component, gr.Slider):
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not component.minimum <= number <= component.maximum:  # NaN is not
            limits = f"{component.minimum:g} to {component.maximum:g}"
            raise QueryError(f"{name} must be a number from {limits}, not {str(value)[:40]!r}.")
        return number
    if value not in [choice for _, choice in component.choices]:
        raise QueryError(f"There is no {name} {str(value)[:40]!r}.")
    return value


def _warn(problems: list[str]) -> None:
    if problems:
        gr.Warning(html.escape(f"Some parts of this link are no longer valid. {' '.join(problems)}"))
