"""The map's component: a canvas that draws the images of a gallery as points."""

import json
from collections.abc import Callable

import gradio as gr

from retrieval.analysis.gallery_map import COLOURED
from retrieval.analysis.map_plot import DARK, LIGHT, OTHER
from retrieval.ui.scripts import beside

NAME = "Map of the gallery: each point is an image"
KEYS = (
    "Point at an image to see it; click to search with it (touch: tap twice). Drag to move. Zoom with the buttons, by "
    "pinching a touchpad, or with Ctrl and the mouse wheel. Keys: arrows move from image to image, Enter searches with "
    "it, + and - zoom, 0 shows all."
)
WORDS = {
    "name": NAME,
    "query": "your query",
    "hits": "its closest images",
    "hit": "hit",
    "other": "other labels",
    "unlabelled": "no label",
}
COLOURS = {
    "coloured": COLOURED,
    "light": {"colours": LIGHT, "other": OTHER[False], "text": "#0f172a", "page": "#ffffff"},
    "dark": {"colours": DARK, "other": OTHER[True], "text": "#ffffff", "page": "#0f172a"},
}

# gradio fills templates in unescaped, so they must not contain anything from a dataset.
HTML = f"""
<div class="map-frame">
  <canvas class="map" tabindex="0" role="application" aria-label="{NAME}" aria-describedby="map-keys"></canvas>
  <div class="map-zoom">
    <button type="button" class="map-in" aria-label="Zoom in">+</button>
    <button type="button" class="map-out" aria-label="Zoom out">&minus;</button>
    <button type="button" class="map-all">Show all</button>
  </div>
  <div class="map-card" hidden><img alt="" hidden><span></span></div>
</div>
<div class="map-legend" role="group" aria-label="Labels: click one to show only its images"></div>
<p class="map-keys" id="map-keys">{KEYS}</p>
<div class="map-said" aria-live="polite"></div>
"""
SCRIPT = f"const MAP = {json.dumps(WORDS | COLOURS)};\n"


def map_output(thumbnail: Callable[[object], str]) -> gr.HTML:
    """Return the canvas. Its value is the JSON to draw, and it triggers `select` when a point is chosen.

    Args:
        thumbnail: called from the browser with the gallery, build and position of a point; returns its thumbnail.
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
