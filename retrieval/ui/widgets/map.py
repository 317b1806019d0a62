"""The map's component: a canvas that draws the gallery's images as points."""

from collections.abc import Callable

import gradio as gr

from retrieval.analysis.gallery_map import COLOURED, DARK, LIGHT, OTHER, OTHER_LABELS
from retrieval.ui.scripts import beside

PALETTE = {
    "other": OTHER_LABELS,
    "coloured": COLOURED,
    "light": {"colours": LIGHT, "other": OTHER[False], "text": "#0f172a", "page": "#ffffff"},
    "dark": {"colours": DARK, "other": OTHER[True], "text": "#ffffff", "page": "#0f172a"},
}


def map_output(thumbnail: Callable[[object], str]) -> gr.HTML:
    """Return the canvas; its value is the JSON of what is drawn, and it triggers `select` when a point is chosen.

    The browser calls `thumbnail` for the image under the pointer, with what its point names.
    """
    return gr.HTML(
        "",
        # Must contain nothing from a dataset, because gradio does not escape what it fills into templates.
        html_template=beside(__file__, "map.html"),
        css_template=beside(__file__, "map.css"),
        js_on_load=beside(__file__, "map.js", PALETTE=PALETTE),
        apply_default_css=False,
        server_functions=[thumbnail],
        elem_id="map",
    )
