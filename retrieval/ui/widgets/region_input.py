"""The part of the query image to search with: a box drawn on the image with the mouse, a finger or the arrow keys."""

from typing import Any
from urllib.parse import unquote

import gradio as gr
from typing_extensions import override

from retrieval.pictures.loading import Region
from retrieval.search.validation import checked_region
from retrieval.ui.scripts import beside
from retrieval.ui.widgets.thumbnails import Thumbnails

TEMPLATE = '<button type="button">Search part of the image</button><span role="status"></span>'


class RegionInput(gr.HTML):
    """A box on an image. Its value is None, or a dict with the file (`of`) and the box in shares of its sides (`box`).

    It needs an image component with the id `query`, and triggers `input` when the box is drawn, moved or removed.
    """

    def __init__(self, thumbnails: Thumbnails, value: Any = None, **named: Any) -> None:
        self._thumbnails = thumbnails
        own: dict[str, Any] = {
            "html_template": TEMPLATE,
            "js_on_load": beside(__file__, "region_input.js"),
            "elem_id": "region",
            "apply_default_css": False,
        }
        super().__init__(value=value, **(own | named))  # gradio passes all of them when it copies the component

    @override
    def preprocess(self, payload: Any) -> Any:
        if not isinstance(payload, dict) or not isinstance(payload.get("of"), str):
            return payload
        name = unquote(payload["of"])  # the page takes it from a URL
        return payload | {"of": str(self._thumbnails.file(name) or name)}

    @override
    def postprocess(self, value: Any) -> Any:
        return value and value | {"of": self._thumbnails.name(value["of"])}


def drawn_region(value: Any, picture: str | None) -> Region | None:
    """Return the box if it was drawn on this image, else None; raise a `QueryError` if it is invalid."""
    if not isinstance(value, dict) or not picture or value.get("of") != picture:
        return None
    return checked_region(value.get("box"))
