"""The Map tab: the images of the gallery as points, with the query and its results marked."""

import json
from dataclasses import astuple, replace
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import gradio as gr
from typing_extensions import override

from retrieval.analysis.explanation import name_of
from retrieval.analysis.gallery_map import DRAWN, Marks, Plane, marks, points, ranked_labels
from retrieval.features import FEATURES, Vectors
from retrieval.installation import BUILDER
from retrieval.labels import METHODS
from retrieval.search.query import Hit, Query
from retrieval.search.validation import checked_features, one_of
from retrieval.storage.projection import Method
from retrieval.storage.reader import Entry, GalleryIndex
from retrieval.ui.controls import QUIET, as_text, features_radio, offered_features
from retrieval.ui.errors import as_shown
from retrieval.ui.query_panel import Asked, Updates
from retrieval.ui.tabs.tab import Tab, TabContext, run_on
from retrieval.ui.widgets.map import map_output
from retrieval.ui.widgets.thumbnails import FILES

NO_MAP = (
    "**There is no map yet.** It is computed after a build; open this tab again in a minute. If there is still none, "
    f"the owner of this page can add it: run `{BUILDER}` with the same flags as before."
)
NO_TSNE = "A t-SNE map, which shows groups better, is computed after a build; open this tab again later."
ON_SERVER = "**There is no map.** The vectors of this gallery are on a ChromaDB server, and maps need them in a folder."


class MapTab(Tab):
    """A plane with the gallery's images as points."""

    title = "Map"

    @override
    def __init__(self, context: TabContext, tab: gr.Tab) -> None:
        super().__init__(context, tab)
        # An entry lasts as long as its index is in use.
        self._kept: WeakKeyDictionary[GalleryIndex, dict[tuple[str, Method], str]] = WeakKeyDictionary()
        with gr.Row():
            self.features = features_radio(context.shown, "map_features")
            self.method = gr.Radio(
                [(METHODS[each], str(each)) for each in Method],
                value=str(Method.TSNE),
                label="Layout",
                elem_id="map_method",
                min_width=200,
            )
        self.note = gr.Markdown(elem_id="map_note")
        self.map = map_output()
        panel = context.panel
        event = run_on(
            self.run,
            [*panel.asked, *panel.refined, self.features.input, self.method.input],
            "map_note",
            inputs_kwargs={**panel.inputs, "features": self.features, "method": self.method},
            outputs=[self.features, self.method, self.note, self.map],
            **QUIET,
        )
        tab.select(**event)
        context.viewer.opens(self.map.select)

    def run(self, features: str, method: str, **panel: Any) -> Updates:
        """Draw the map of the gallery and mark the query; without a map, show how to add one."""
        asked = Asked(**panel)
        with as_shown():
            index = self._searcher.indexes.get(asked.gallery or "")
            available = index.maps
            if not available:
                hidden = gr.Radio(visible=False)
                drawing = gr.HTML(value="", visible=False)
                note = ON_SERVER if index.manifest.collections else NO_MAP
                return {self.features: hidden, self.method: hidden, self.note: note, self.map: drawing}
            chosen = (checked_features(features), one_of(Method, method))
            if chosen not in available:
                chosen = next((each for each in available if each[0] == chosen[0]), available[0])
            query = replace(asked.query(index, index.supports_text(chosen[0])), features=chosen[0])
            note = about_map(index, *chosen, min(len(index), DRAWN))
            if (chosen[0], Method.TSNE) not in available:
                note += f" {NO_TSNE}"
            self._thumbnails.serve(index)
            drawn = self._drawn(index, *chosen)
        about, found = self._marked(index, query, chosen[1], asked)
        return {
            self.features: offered_features(
                [each for each, kind in available if kind == chosen[1]], chosen[0], features
            ),
            self.method: _radio([kind for each, kind in available if each == chosen[0]], chosen[1], method),
            self.note: f"{note}\n\n{about}",
            self.map: gr.HTML(value=f"{{{drawn}, {_marks_json(index, found, chosen[1])}}}", visible=True),
        }

    def _marked(self, index: GalleryIndex, query: Query, method: Method, asked: Asked) -> tuple[str, Marks | None]:
        """Return a sentence about the query and its results, and their coordinates if there is a query."""
        if not query.shows and not query.text:
            return asked.hint(index), None
        try:
            with as_shown():
                found = marks(self._searcher, index, query, method)
        except gr.Error as error:  # shown in place of the sentence
            return str(error.message), None
        return about_marks(found, query), found

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
                thumbnails=FILES + str(Path(self._thumbnails.name(str(index.thumbnail(0)))).parents[1]),
                equal=method is Method.PCA,
                names=[astuple(each) for each in found.names],
                points=[_row(index, entry, place, label) for entry, place, label in drawn],
            )
        return kept[features, method]


def about_map(index: GalleryIndex, features: str, method: Method, drawn: int) -> str:
    """Return how to read a map of `drawn` images: what is shown, how it was laid out, and what distances mean."""
    projection = index.map(features, method)
    dimensions = index.manifest.dimensions(features)
    shown = f"{len(index):,} images" if drawn == len(index) else f"{drawn:,} of {len(index):,} images, at random"
    parts = [
        f"**{shown}, {FEATURES[features].title}:** each image is a vector of {dimensions:,} numbers, reduced to two."
    ]
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
                f"It was computed from {projection.computed_from:,} of the images; each of the others lies between its "
                "nearest neighbours among them."
            )
    parts.append("A class is named where most neighbours share it.")
    return " ".join(parts)


def about_marks(found: Marks, query: Query) -> str:
    """Return what is marked on a map, and how the query was placed."""
    parts = [f"○ The {len(found.hits)} closest images by L2, numbered."]
    if found.query is None and not query.text:
        parts.append("The query has no image of its own to mark, only added ones.")
    elif found.query is None:
        parts.append(f"A text has no place here: {FEATURES[query.features].phrase} of texts lie apart from all images.")
    elif query.is_mixed:
        parts.append("◆ Your image without what was added; the results are those of both.")
    elif found.estimated:
        parts.append("◆ Your query: t-SNE cannot place new images, so it lies between its 3 nearest.")
    else:
        parts.append("◆ Your query.")
    return " ".join([*parts, *map(as_text, found.notes)])


def _marks_json(index: GalleryIndex, found: Marks | None, method: Method) -> str:
    """Return the query and its hits as members of a JSON object, in the form of points."""
    if found is None:
        return _members(query=None, hits=[])
    label_of = {label: place for place, (label, _) in enumerate(ranked_labels(index))}
    plane = Plane(index.map(found.features, method).coordinates, method)
    places = plane.place(found.coordinates)
    hits = [_row(index, hit, place, label_of[hit.label]) for hit, place in zip(found.hits, places, strict=True)]
    if found.query is None:
        return _members(query=None, hits=hits)
    [place] = plane.place(found.query[None])
    if found.position is None:
        x, y = place.tolist()
        return _members(query=[round(x, 3), round(y, 3), 0, None, None, ""], hits=hits)
    entry = index.entry(found.position)
    return _members(query=_row(index, entry, place, label_of[entry.label]), hits=hits)


def _row(index: GalleryIndex, entry: Entry | Hit, place: Vectors, label: int) -> list[object]:
    x, y = place.tolist()
    return [round(x, 3), round(y, 3), label, entry.position, int(index.rows[entry.position]), name_of(entry)]


def _members(**values: object) -> str:
    # Without `<`, since texts of a dataset are not HTML, but gradio looks for tags in them.
    return json.dumps(values, separators=(",", ":"))[1:-1].replace("<", r"\u003c")


def _radio(choices: list[Method], chosen: str, asked: str) -> gr.Radio:
    """Return the available choices, hidden if there is only one."""
    shown = [(METHODS[each], str(each)) for each in choices]
    # Set only if it is not the one asked for, since the visitor may have chosen another one in the meantime.
    value: dict[str, Any] = {} if chosen == asked else {"value": str(chosen)}
    return gr.Radio(choices=shown, visible=len(shown) > 1, **value)
