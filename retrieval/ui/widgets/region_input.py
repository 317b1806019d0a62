"""The part of the query picture that is searched: a box drawn on the picture, by mouse, finger or arrow keys."""

from typing import Any
from urllib.parse import unquote

import gradio as gr

from retrieval.pictures.loading import Region
from retrieval.search.validation import checked_region
from retrieval.ui.scripts import beside
from retrieval.ui.widgets.thumbnails import Thumbnails

TEMPLATE = """<button type="button">${part}</button><span role="status"></span>"""


class RegionInput(gr.HTML):
    """A box; its value is None, or which file it was drawn on and where.

    It belongs beside a picture with the id `query`, and triggers `input` when a box was drawn, moved or removed.
    """

    def __init__(self, thumbnails: Thumbnails, value: Any = None, **named: Any) -> None:
        """Take what knows the names of pictures that are shown, and what gr.HTML takes.

        gradio makes a component anew for a visitor when one of its properties changes.
        """
        self._thumbnails = thumbnails
        own: dict[str, Any] = {
            "html_template": TEMPLATE,
            "js_on_load": beside(__file__, "region_input.js"),
            "elem_id": "region",
            "apply_default_css": False,
            "part": "Search part of the image",
            "whole": "Search the whole image",
            "where": "Searched: {left} to {right} across, {top} to {bottom} down.",
            "keys": "Arrow keys move the box, with Shift they resize it, Escape removes it.",
        }
        super().__init__(value=value, **(own | named))

    def preprocess(self, payload: Any) -> Any:
        """Return which file the box was drawn on, and where."""
        if not isinstance(payload, dict) or not isinstance(payload.get("of"), str):
            return payload
        name = unquote(payload["of"])  # the page takes it from an address
        return payload | {"of": str(self._thumbnails.file(name) or name)}

    def postprocess(self, value: Any) -> Any:
        """Return the same with the file by its name."""
        return value and value | {"of": self._thumbnails.name(value["of"])}


def drawn_region(value: Any, picture: str | None) -> Region | None:
    """Return the box if it was drawn on this picture; a box of a picture that is gone means nothing.

    Raises:
        QueryError: no box at all, as only a program can send.
    """
    if not isinstance(value, dict) or not picture or value.get("of") != picture:
        return None
    return checked_region(value.get("box"))
