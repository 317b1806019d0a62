"""The map's component: a canvas that draws the gallery's images as points."""

import json
from collections.abc import Callable
from html import escape

import gradio as gr

from retrieval.analysis import sentences as words
from retrieval.analysis.gallery_map import COLOURED
from retrieval.analysis.map_plot import DARK, LIGHT, OTHER
from retrieval.ui.scripts import beside

HTML = f"""
<div class="map-frame">
  <canvas class="map" tabindex="0" role="application" aria-label="{escape(words.MAP_NAME)}"
    aria-describedby="map-keys"></canvas>
  <div class="map-zoom">
    <button type="button" class="map-in" aria-label="{escape(words.MAP_ZOOM_IN)}">+</button>
    <button type="button" class="map-out" aria-label="{escape(words.MAP_ZOOM_OUT)}">&minus;</button>
    <button type="button" class="map-all">{escape(words.MAP_ALL)}</button>
  </div>
  <div class="map-card" hidden><img alt="" hidden><span></span></div>
</div>
<div class="map-legend" role="group" aria-label="{escape(words.MAP_LEGEND)}"></div>
<p class="map-keys" id="map-keys">{escape(words.MAP_KEYS)}</p>
<div class="map-said" aria-live="polite"></div>
"""  # nothing of a data set may stand here: gradio fills templates in unescaped
SCRIPT = f"""const MAP = {
    json.dumps(
        {
            "name": words.MAP_NAME,
            "query": words.MAP_QUERY,
            "hits": words.MAP_HITS,
            "hit": words.MAP_HIT,
            "other": words.MAP_OTHER,
            "unlabelled": words.MAP_UNLABELLED,
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
