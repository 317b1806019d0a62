"""Results side by side: a lane for each feature type, with its verdict, its hits and their place among all scores."""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import gradio as gr

from retrieval.analysis.explanation import duplicates, explain, name_of, number, timings
from retrieval.analysis.lanes import Scores, correct
from retrieval.engines import AUTO
from retrieval.features import FEATURES
from retrieval.search.query import Query, Ranking
from retrieval.storage.reader import GalleryIndex
from retrieval.ui.scripts import beside
from retrieval.ui.widgets.thumbnails import FILES, Thumbnails

Lane = dict[str, Any]  # as `lanes.js` draws it


def lanes_output(elem_id: str) -> gr.HTML:
    """Return the lanes; their value is that of `as_value`, and they trigger `select` when a result is chosen."""
    return gr.HTML(
        "",
        # Must contain nothing from a dataset, because gradio does not escape what it fills into templates.
        html_template=beside(__file__, "lanes.html"),
        css_template=beside(__file__, "lanes.css"),
        js_on_load=beside(__file__, "lanes.js"),
        apply_default_css=False,
        elem_id=elem_id,
    )


def as_value(lanes: Sequence[Lane], note: str = "") -> str:
    """Return the value that shows some lanes below a note."""
    # Without `<`, since texts of a dataset are not HTML, but gradio looks for tags in them.
    return json.dumps({"note": note, "lanes": lanes}, separators=(",", ":")).replace("<", r"\u003c")


def message_lane(features: str, message: str) -> Lane:
    """Return a lane without results, and the reason."""
    return {**_head(features), "message": message}


def result_lane(
    thumbnails: Thumbnails,
    index: GalleryIndex,
    query: Query,
    ranking: Ranking,
    label: str = "",
    scores: Scores | None = None,
) -> Lane:
    """Return the lane of a ranking; the verdict on its best result is left to `judged`.

    Args:
        thumbnails: serves the images of `index`.
        index: the gallery.
        query: the query of this lane.
        ranking: its result.
        label: the query's label, if it is known: results with another one are marked as wrong.
        scores: where the results lie among all images.
    """
    right = correct(ranking, label)
    chosen = [ranking.engine_note] if query.engine == AUTO else []
    return {
        **_head(query.features),
        "correct": None if right is None else sum(right),
        "notes": ranking.notes,
        "verdict": "" if query.engine == AUTO else ranking.engine_note,
        "convincing": True,
        "hits": [
            {
                "src": FILES + thumbnails.name(str(index.thumbnail(hit.position))),
                "name": name_of(hit),
                "label": hit.label,
                "score": number(hit.score),
                "note": duplicates(hit),
                "correct": None if right is None else right[hit.rank - 1],
                "position": hit.position,
            }
            for hit in ranking.hits
        ],
        "scores": scores and {"heights": scores.heights, "marks": scores.marks, "about": _about(scores)},
        "details": [timings(ranking), explain(replace(query, engine=ranking.engine)), *filter(None, chosen)],
        "gallery": ranking.gallery,
        "metric": str(query.metric),
        "build": index.snapshot.name,
    }


def judged(lane: Lane, convincing: bool, said: str) -> Lane:
    """Return a lane with the verdict on its best result."""
    return {**lane, "convincing": convincing, "verdict": " ".join(filter(None, [said, lane["verdict"]]))}


def _head(features: str) -> Lane:
    kind = FEATURES[features]
    return {"features": features, "title": kind.title, "about": kind.about, "message": ""}


def _about(scores: Scores) -> str:
    return f"Scores of all {scores.counted:,} images, the closest on the right; coloured: these results"
