"""The part of the query picture that is searched: a box drawn on the picture, by mouse, finger or arrow keys."""

from typing import Any
from urllib.parse import unquote

import gradio as gr

from retrieval import words
from retrieval.images import Region
from retrieval.query import checked_region
from retrieval.ui.scripts import beside

TEMPLATE = """<button type="button">${part}</button><span role="status"></span>"""


def region_input() -> gr.HTML:
    """Return the component; its value is None, or which file the box was drawn on and where.

    It belongs beside a picture with the id `query`, and triggers `input` when a box was drawn, moved or removed.
    """
    return gr.HTML(
        value=None,
        html_template=TEMPLATE,
        js_on_load=beside("region_input.js"),
        elem_id="region",
        apply_default_css=False,
        part=words.REGION_PART,
        whole=words.REGION_WHOLE,
        where=words.REGION_WHERE,
        keys=words.REGION_KEYS,
    )


def drawn_region(value: Any, picture: str | None) -> Region | None:
    """Return the box if it was drawn on this picture; a box of a picture that is gone means nothing.

    Raises:
        QueryError: no box at all, as only a program can send.
    """
    if not isinstance(value, dict) or not picture or unquote(str(value.get("of"))) != unquote(picture):
        return None
    return checked_region(value.get("box"))
