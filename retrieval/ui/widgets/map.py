"""The map's component: the gallery's images as dots on a canvas, with names, thumbnails and marks over it."""

import gradio as gr

from retrieval.analysis.gallery_map import COLOURED, DARK, LIGHT, OTHER, OTHER_LABELS
from retrieval.storage.manifest import THUMBNAIL_FOLDER_ROWS
from retrieval.ui.scripts import beside


def map_output() -> gr.HTML:
    """Return the map; its value is the JSON of what is drawn, and it triggers `select` when a point is chosen."""
    return gr.HTML(
        "",
        # Must contain nothing from a dataset, because gradio does not escape what it fills into templates.
        html_template=beside(__file__, "map.html"),
        css_template=beside(__file__, "map.css") + _colours(),
        js_on_load=beside(
            __file__, "map.js", COLOURED=COLOURED, OTHER_LABELS=OTHER_LABELS, FOLDER_ROWS=THUMBNAIL_FOLDER_ROWS
        ),
        apply_default_css=False,
        padding=False,
        elem_id="map",
    )


def _colours() -> str:
    rules = []
    for selector, colours, dark in ((".group-{}", LIGHT, False), (".dark & .group-{}", DARK, True)):
        rules += [
            f"{selector.format(group)} {{ --colour: {colours[group % len(colours)]}; }}" for group in range(COLOURED)
        ]
        rules.append(f"{selector.format(COLOURED)} {{ --colour: {OTHER[dark]}; }}")
    return "\n".join(rules)
