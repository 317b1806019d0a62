"""The Map tab: the images of the gallery as points, with the query and its results marked."""

import base64
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import gradio as gr
from typing_extensions import override

from retrieval.analysis.explanation import name_of
from retrieval.analysis.gallery_map import DRAWN, Marks, marks, points, ranked_labels, short
from retrieval.features import FEATURES, Vectors
from retrieval.labels import METHODS
from retrieval.search.query import Hit, Query
from retrieval.search.validation import checked_features, one_of
from retrieval.storage.projection import Method
from retrieval.storage.reader import Entry, GalleryIndex
from retrieval.ui.controls import QUIET, features_radio
from retrieval.ui.errors import as_shown
from retrieval.ui.query_panel import SKIP, Asked, Updates
from retrieval.ui.tabs.tab import Tab, TabContext, run_if_open
from retrieval.ui.widgets.map import map_output

NO_MAP = (
    "**This gallery has no map yet.** Its index was built before maps were supported. The owner of this page can add "
    "them in seconds, without rebuilding the index: run `python index_builder.py` with the same flags as before."
)


class MapTab(Tab):
    """A canvas with the gallery's images as points."""

    title = "Map"

    @override
    def __init__(self, context: TabContext, tab: gr.Tab) -> None:
        super().__init__(context, tab)
        # An entry lasts as long as its index is in use.
        self._kept: WeakKeyDictionary[GalleryIndex, dict[tuple[str, Method], str]] = WeakKeyDictionary()
        with gr.Row():
            self.features = features_radio("map_features")
            self.method = gr.Radio(
                [(METHODS[each], str(each)) for each in Method],
                value=str(Method.PCA),
                label="Layout",
                elem_id="map_method",
                min_width=200,
            )
        self.note = gr.Markdown(elem_id="map_note")
        self.map = map_output(self._thumbnail_function())
        panel = context.panel
        run_if_open(
            tab,
            "map_note",
            [*panel.asked, *panel.refined, self.features.input, self.method.input],
            fn=self.run,
            inputs_kwargs={**panel.inputs, "features": self.features, "method": self.method},
            outputs=[self.features, self.method, self.note, self.map],
            **QUIET,
        )
        self.map.select(self.take_point, None, panel.picture, **QUIET)

    def run(self, features: str, method: str, opened: bool, **panel: Any) -> Updates:
        """Draw the map of the gallery and mark the query; without a map, show how to add one."""
        if not opened:
            return SKIP
        asked = Asked(**panel)
        with as_shown():
            index = self._searcher.indexes.get(asked.gallery or "")
            available = index.maps
            if not available:
                hidden = gr.Radio(visible=False)
                drawing = gr.HTML(value="", visible=False)
                return {self.features: hidden, self.method: hidden, self.note: NO_MAP, self.map: drawing}
            chosen = (checked_features(features), one_of(Method, method))
            if chosen not in available:
                chosen = available[0]
            query = replace(asked.query(index, FEATURES[chosen[0]].takes_text), features=chosen[0])
            note = about_map(index, *chosen, min(len(index), DRAWN))
            drawn = self._drawn(index, *chosen)
            self._thumbnails.serve(index)
        about, found = self._marked(index, query, chosen[1], asked)
        titles = {name: each.title for name, each in FEATURES.items()}
        return {
            self.features: _radio(titles, [each for each, kind in available if kind == chosen[1]], chosen[0], features),
            self.method: _radio(METHODS, [kind for each, kind in available if each == chosen[0]], chosen[1], method),
            self.note: f"{note}\n\n{about}",
            self.map: gr.HTML(value=f"{{{drawn}, {_marks_json(index, found)}}}", visible=True),
        }

    def _marked(self, index: GalleryIndex, query: Query, method: Method, asked: Asked) -> tuple[str, Marks | None]:
        """Return a sentence about the query and its results, and their coordinates if there is a query."""
        if not query.has_picture and not query.text:
            return asked.hint, None
        try:
            with as_shown():
                found = marks(self._searcher, index, query, method)
        except gr.Error as error:  # the Search tab shows it as a toast
            return str(error.message), None
        return about_marks(found, query), found

    def take_point(self, chosen: gr.EventData) -> Any:
        """Make a point the query. The point comes from the visitor's browser, so it may be anything."""
        data = chosen._data if isinstance(chosen._data, dict) else {}
        known = self._picture(data.get("gallery"), data.get("build"), data.get("position"))
        return gr.skip() if known is None else str(known)

    def _picture(self, gallery: object, build: object, position: object) -> Path | None:
        """Return the thumbnail at a position of the build that was drawn; None for anything else."""
        if not isinstance(gallery, str) or gallery not in self._searcher.indexes.names():
            return None
        with as_shown():
            index = self._searcher.indexes.get(gallery)
        if build != index.snapshot.name or type(position) is not int or not 0 <= position < len(index):
            return None
        return index.thumbnail(position)

    def _thumbnail_function(self) -> Callable[[object], str]:
        def thumbnail(asked: object) -> str:
            # A data: URL reveals no path of this machine.
            known = self._picture(*asked) if isinstance(asked, list) and len(asked) == 3 else None
            if known is None or not known.is_file():
                return ""
            return f"data:image/jpeg;base64,{base64.b64encode(known.read_bytes()).decode()}"

        return thumbnail

    def _drawn(self, index: GalleryIndex, features: str, method: Method) -> str:
        """Return the points as members of a JSON object, cached because they are the same for all visitors."""
        kept = self._kept.setdefault(index, {})
        if (features, method) not in kept:
            found = points(index, features, method)
            drawn = zip(found.entries, found.coordinates, found.label_of, strict=True)
            kept[features, method] = _members(
                gallery=index.manifest.gallery,
                build=index.snapshot.name,
                key=f"{index.manifest.gallery} {index.snapshot.name} {features} {method}",
                labels=found.labels,
                points=[_row(entry, place, label) for entry, place, label in drawn],
            )
        return kept[features, method]


def about_map(index: GalleryIndex, features: str, method: Method, drawn: int) -> str:
    """Return how to read a map of `drawn` images: what is shown, how it was laid out, and what distances mean."""
    projection = index.map(features, method)
    dimensions = index.manifest.dimensions(features)
    shown = f"{len(index):,} images" if drawn == len(index) else f"{drawn:,} of {len(index):,} images, at random"
    parts = [f"**{shown}, {FEATURES[features].title}:** each image is {dimensions:,} numbers, drawn as 2."]
    sampled = projection.computed_from < len(index)
    if projection.kept is not None:
        parts.append(
            f"PCA keeps the two directions in which the images differ most, {projection.kept:.1%} of the variance; "
            "the rest is lost, so points far apart are different, but close points may be different too."
        )
        if sampled:
            parts.append(f"The directions are those of {projection.computed_from:,} images, at random.")
    else:
        parts.append(
            "t-SNE keeps neighbours together; the sizes of groups and the distances between them mean nothing."
        )
        if sampled:
            parts.append(
                f"It was computed from {projection.computed_from:,} images, at random; each of the others lies between "
                "its nearest neighbours among them."
            )
    return " ".join(parts)


def about_marks(found: Marks, query: Query) -> str:
    """Return what is marked on a map, and how the query was placed."""
    parts = [f"○ The {len(found.hits)} closest images by L2, numbered."]
    if found.query is None:
        parts.append(f"A text has no place here: {FEATURES[query.features].phrase} of texts lie apart from all images.")
    elif query.text or query.without:
        parts.append("◆ Your image without the text; the results are those of both.")
    elif found.estimated:
        parts.append("◆ Your query: t-SNE cannot place new images, so it lies between its 3 nearest.")
    else:
        parts.append("◆ Your query.")
    return " ".join(parts)


def _marks_json(index: GalleryIndex, found: Marks | None) -> str:
    """Return the query and its hits as members of a JSON object, in the form of points."""
    if found is None:
        return _members(query=None, hits=[])
    label_of = {label: place for place, (label, _) in enumerate(ranked_labels(index))}
    hits = [_row(hit, place, label_of[hit.label]) for hit, place in zip(found.hits, found.coordinates, strict=True)]
    if found.query is None:
        return _members(query=None, hits=hits)
    if found.position is None:
        x, y = found.query.tolist()
        return _members(query=[short(x), short(y), 0, None, ""], hits=hits)
    entry = index.entry(found.position)
    return _members(query=_row(entry, found.query, label_of[entry.label]), hits=hits)


def _row(entry: Entry | Hit, place: Vectors, label: int) -> list[object]:
    x, y = place.tolist()
    return [short(x), short(y), label, entry.position, name_of(entry)]


def _members(**values: object) -> str:
    # Without `<`, since texts of a dataset are not HTML, but gradio looks for tags in them.
    return json.dumps(values, separators=(",", ":"))[1:-1].replace("<", r"\u003c")


def _radio(titles: Mapping[Any, str], choices: list[Any], chosen: str, asked: str) -> gr.Radio:
    """Return the available choices, hidden if there is only one."""
    shown = [(titles[each], str(each)) for each in choices]
    # Set only if it is not the one asked for, since the visitor may have chosen another one in the meantime.
    value: dict[str, Any] = {} if chosen == asked else {"value": str(chosen)}
    return gr.Radio(choices=shown, visible=len(shown) > 1, **value)
