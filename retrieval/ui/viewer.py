"""The viewer: one result in a dialog, with its scores by every feature type and metric, and why it is a result."""

import base64
import io
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import gradio as gr
from PIL import Image

from retrieval.analysis.explanation import name_of, number
from retrieval.analysis.standing import Standing, standings
from retrieval.analysis.why import ABOUT, Explainer, highlighted
from retrieval.errors import PictureError, QueryError
from retrieval.features import FEATURES
from retrieval.indexing.originals import Originals, is_public
from retrieval.labels import METRICS
from retrieval.metrics import Metric
from retrieval.pictures.loading import fit_within, load_picture
from retrieval.search.validation import checked_features, one_of
from retrieval.storage.reader import GalleryIndex
from retrieval.ui.controls import QUIET, lane_order
from retrieval.ui.errors import as_shown
from retrieval.ui.query_panel import SKIP, Asked, QueryPanel, Updates
from retrieval.ui.scripts import beside
from retrieval.ui.serving.limits import LONG, SEARCHES, Limits
from retrieval.ui.widgets.added_input import AddedImages
from retrieval.ui.widgets.thumbnails import FILES, Thumbnails

LARGE = 1280  # pixels of the longer side of an original as it is shown
EXPLAINED = 512  # pixels of the longer side of a heat map
ORIGINAL, THUMBNAIL = "original image", "thumbnail: the original is not available here"
GONE = "This image is no longer in the gallery. Search again."

# What a visitor can do with a result: the name and the text of a button.
SEARCH, MORE, LESS = "search", "more", "less"
ACTIONS = [(SEARCH, "Search with this"), (MORE, "More like this"), (LESS, "Less like this")]

Found = tuple[GalleryIndex, int]


class Viewer:
    """The dialog, and the events that open and fill it. It keeps no state of a visitor."""

    def __init__(self, explainer: Explainer, panel: QueryPanel, thumbnails: Thumbnails, limits: Limits) -> None:
        self._explainer = explainer
        self._searcher = explainer.searcher
        self._panel = panel
        self._thumbnails = thumbnails
        self._limits = limits
        self._originals = Originals()
        self.dialog = gr.HTML(
            "",
            html_template=beside(__file__, "viewer.html"),
            css_template=beside(__file__, "viewer.css"),
            js_on_load=beside(__file__, "viewer.js"),
            apply_default_css=False,
            elem_id="viewer",
        )
        self.opens(self.dialog.select)  # without the heat maps again
        self.dialog.expand(self.explain, inputs_kwargs=panel.inputs, outputs=[self.dialog], **LONG, **QUIET)
        inputs = [panel.gallery, panel.added, panel.picture]
        self.dialog.submit(self.act, inputs, [panel.added, panel.picture], **QUIET)

    def opens(self, event: Any) -> None:
        """Let an event of results open the viewer: one of lanes or of a map, or of a strip of images."""
        event(
            self.show,
            inputs_kwargs=self._panel.inputs,
            outputs=[self.dialog],
            trigger_mode="always_last",
            **SEARCHES,
            **QUIET,
        )

    def show(self, chosen: gr.EventData, **panel: Any) -> Iterator[Updates]:
        """Show a result with its thumbnail, then with the original if the visitor may see it."""
        asked = Asked(**panel)
        found = self.located(chosen, asked.gallery)
        if found is None:
            yield {self.dialog: _json({"message": GONE, "opens": True})}
            return
        with as_shown():
            value = self._described(asked, *found, _metric(chosen))
            yield {self.dialog: _json({**value, "opens": True})}
            if large := self._original(*found):
                yield {self.dialog: _json({**value, "large": large, "about": ORIGINAL})}

    def explain(self, chosen: gr.EventData, **panel: Any) -> Updates:
        """Show the heat maps of a result."""
        asked = Asked(**panel)
        found = self.located(chosen, asked.gallery)
        if found is None:
            return {self.dialog: _json({"message": GONE})}
        with as_shown():
            index, position = found
            metric = _metric(chosen)
            features = checked_features(_data(chosen).get("features"))
            index.check_features(features)
            query = replace(asked.query(index, index.supports_text(features)), features=features, metric=metric)
            value = self._described(asked, index, position, metric)
            why, picture = self._explainer.why(query, position, index, self._limits.check())
            value["why"] = {
                "features": features,
                "about": f"Bright parts make the two images more similar. {FEATURES[features].title}, "
                f"{METRICS[metric]}: {ABOUT[why.method]}.",
                "result": _data_url(highlighted(index.picture(position), why.result, metric)),
                "query": picture
                and why.query
                and _data_url(highlighted(fit_within(picture, EXPLAINED), why.query, metric)),
            }
        return {self.dialog: _json(value)}

    def act(self, gallery: str | None, added: AddedImages, picture: str | None, chosen: gr.EventData) -> Updates:
        """Make a result the query, or add it to the query as an image to resemble or not."""
        found, action = self.located(chosen, gallery), _data(chosen).get("action")
        if found is None or action not in (SEARCH, MORE, LESS):
            return SKIP
        index, position = found
        if action == SEARCH:
            return {self._panel.picture: str(index.thumbnail(position))}
        with as_shown():
            return {self._panel.added: self._panel.add_item(added, picture, index, position, action == MORE)}

    def located(self, chosen: gr.EventData, gallery: str | None) -> Found | None:
        """Return the image that an event names; None for anything else, since a browser may send what it likes."""
        data = _data(chosen)
        name = data.get("gallery", gallery)
        if "position" in data:
            return self.item(name, data.get("build"), data["position"])
        if (index := self._index(name)) is None:
            return None
        path = self._thumbnails.file(_path(data))  # of a strip
        position = None if path is None else index.at_thumbnail(path)
        return None if position is None else (index, position)

    def taken(self, chosen: gr.EventData, gallery: str | None) -> str | None:
        """Return the file of the image that an event names, to be the query; warn and return None if it is gone."""
        if (found := self.located(chosen, gallery)) is None:
            gr.Warning(GONE)
            return None
        return str(found[0].thumbnail(found[1]))

    def chosen_item(self, chosen: gr.EventData) -> Found | None:
        """Return the image that an event of lanes names; None for anything else that a browser may send."""
        data = _data(chosen)
        return self.item(data.get("gallery"), data.get("build"), data.get("position"))

    def item(self, gallery: object, build: object, position: object) -> Found | None:
        """Return the image at a position of the build that was shown; None for anything else."""
        index = self._index(gallery)
        if index is None or build != index.snapshot.name:
            return None
        return (index, position) if type(position) is int and 0 <= position < len(index) else None

    def _index(self, gallery: object) -> GalleryIndex | None:
        indexes = self._searcher.indexes
        if not isinstance(gallery, str) or gallery not in indexes.names():
            return None
        with as_shown():
            return indexes.get(gallery)

    def _described(self, asked: Asked, index: GalleryIndex, position: int, metric: Metric) -> dict[str, Any]:
        """Return what the viewer shows about a result, without a large image and heat maps."""
        self._thumbnails.serve(index)
        entry, origin = index.entry(position), index.origin(position)
        query = asked.query(index)
        found = [] if asked.nothing else standings(self._searcher, query, position, index, self._limits.check())
        by = "by " if origin.author else ""
        credit = " · ".join(filter(None, [f"{by}{origin.author}", origin.license]))
        explained = list(dict.fromkeys(each.features for each in found))
        return {
            "shown": time.monotonic_ns(),  # the page draws only a value that has changed
            "gallery": index.manifest.gallery,
            "build": index.snapshot.name,
            "position": position,
            "id": entry.id,
            "title": name_of(entry),
            "lines": list(filter(None, [entry.label and f"Class: {entry.label}", credit])),
            "src": FILES + self._thumbnails.name(str(index.thumbnail(position))),
            "about": THUMBNAIL,
            "metric": str(metric),
            "metrics": [METRICS[each] for each in Metric],
            "scores": _table(found),
            "explained": [(name, FEATURES[name].title) for name in lane_order(explained)],
            "actions": ACTIONS,
        }

    def _original(self, index: GalleryIndex, position: int) -> str | None:
        """Return the original as a data: URL; None if the visitor may not see it, or the source has changed."""
        if not (self._limits.originals or is_public(index)):
            return None
        content = self._originals.read(index, position)
        if content is None:
            return None
        try:
            return _data_url(fit_within(load_picture(content, self._limits.pictures), LARGE))
        except PictureError:  # larger than visitors may have decoded
            return None


def _data(chosen: gr.EventData) -> dict[str, Any]:
    return chosen._data if isinstance(chosen._data, dict) else {}


def _path(data: dict[str, Any]) -> object:
    """Return the name of the image in the data of a strip's event."""
    value = data.get("value")
    image = value.get("image") if isinstance(value, dict) else None
    return image.get("path") if isinstance(image, dict) else None


def _metric(chosen: gr.EventData) -> Metric:
    try:
        return one_of(Metric, _data(chosen).get("metric", Metric.COSINE))
    except QueryError:
        return Metric.COSINE


def _table(found: Sequence[Standing]) -> list[list[Any]]:
    """Return a row for each feature type: its title, then score and rank for each metric."""
    rows: dict[str, list[Any]] = {}
    for each in found:
        row = rows.setdefault(each.features, [FEATURES[each.features].title])
        row.append((number(each.score), "" if each.rank is None else f"#{each.rank:,}"))
    return [rows[name] for name in lane_order(list(rows))]


def _data_url(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=88)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _json(value: dict[str, Any]) -> str:
    # Without `<`, since texts of a dataset are not HTML, but gradio looks for tags in them.
    return json.dumps(value, separators=(",", ":")).replace("<", r"\u003c")
