"""The map's component: a canvas that draws the gallery's images as points."""

import json
from collections.abc import Callable
from html import escape

import gradio as gr

from retrieval.analysis.gallery_map import COLOURED, DARK, LIGHT, OTHER, OTHER_LABELS
from retrieval.ui.scripts import beside

NAME = "Map of the gallery: each point is an image"
LEGEND = "Labels: click one to see only its images"
KEYS = (
    "Point at an image to see it, and click to make it the query (touch: tap twice). Drag to move the map. Zoom with "
    "the buttons, by pinching a touchpad, or with Ctrl and the mouse wheel. Keys: the arrows go from image to image, "
    "Enter makes an image the query, + and - zoom, 0 shows all."
)
HTML = f"""
<div class="map-frame">
  <canvas class="map" tabindex="0" role="application" aria-label="{escape(NAME)}"
    aria-describedby="map-keys"></canvas>
  <div class="map-zoom">
    <button type="button" class="map-in" aria-label="Zoom in">+</button>
    <button type="button" class="map-out" aria-label="Zoom out">&minus;</button>
    <button type="button" class="map-all">Show all</button>
  </div>
  <div class="map-card" hidden><img alt="" hidden><span></span></div>
</div>
<div class="map-legend" role="group" aria-label="{escape(LEGEND)}"></div>
<p class="map-keys" id="map-keys">{escape(KEYS)}</p>
<div class="map-said" aria-live="polite"></div>
"""  # nothing of a data set may stand here: gradio fills templates in unescaped
SCRIPT = f"""const MAP = {
    json.dumps(
        {
            "name": NAME,
            "query": "your query",
            "hits": "its closest images",
            "hit": "result",
            "other": OTHER_LABELS,
            "unlabelled": "no label",
            "coloured": COLOURED,
            "light": {"colours": LIGHT, "other": OTHER[False], "text": "#0f172a", "page": "#ffffff"},
            "dark": {"colours": DARK, "other": OTHER[True], "text": "#ffffff", "page": "#0f172a"},
        }
    )
};
"""


def map_output(thumbnail: Callable[[object], str]) -> gr.HTML:
    """Return the canvas; its value is the JSON of what is drawn, and it triggers `select` when a point is chosen.

    Args:
        thumbnail: called by the browser for the thumbnail under the pointer, with what the point names.
    """
    return gr.HTML(
        "",
        html_template=HTML,
        css_template=beside(__file__, "map.css"),
        js_on_load=SCRIPT + beside(__file__, "map.js"),
        apply_default_css=False,
        server_functions=[thumbnail],
        elem_id="map",
    )
