"""The Map tab: the gallery on a plane, the query and its hits marked; a click makes a picture the query."""

import base64
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import gradio as gr

from retrieval.analysis import sentences as words
from retrieval.analysis.gallery_map import DRAWN, Marks, marks, points, ranked_labels, short
from retrieval.features import DEFAULT_FEATURES, FEATURES, Vectors, default_first
from retrieval.search.query import Hit
from retrieval.search.searcher import Searcher
from retrieval.search.validation import checked_features, one_of
from retrieval.storage.projection import Method
from retrieval.storage.reader import Entry, GalleryIndex
from retrieval.ui.errors import as_shown
from retrieval.ui.query_panel import Asked, QueryPanel
from retrieval.ui.scripts import OPENED, if_open
from retrieval.ui.serving.limits import SEARCHES
from retrieval.ui.widgets.map import map_output
from retrieval.ui.widgets.thumbnails import Thumbnails


class MapTab:
    """A canvas with the gallery's pictures as points; holds no state of any visitor."""

    def __init__(self, searcher: Searcher, panel: QueryPanel, thumbnails: Thumbnails, tab: gr.Tab) -> None:
        """Lay the tab out inside `tab`, and draw it when it is opened and when the query changes while it is open."""
        self._searcher = searcher
        self._thumbnails = thumbnails
        # Kept as long as the index is in use, and no longer.
        self._kept: WeakKeyDictionary[GalleryIndex, dict[tuple[str, Method], str]] = WeakKeyDictionary()
        with gr.Row():
            self.features = gr.Radio(
                [(words.FEATURES[each], str(each)) for each in default_first()],
                value=DEFAULT_FEATURES,
                label=words.FEATURES_LABEL,
                elem_id="map_features",
                min_width=290,
            )
            self.method = gr.Radio(
                [(words.METHODS[each], str(each)) for each in Method],
                value=str(Method.PCA),
                label=words.METHOD_LABEL,
                elem_id="map_method",
                min_width=200,
            )
        self.note = gr.Markdown(elem_id="map_note")
        self.map = map_output(self._thumbnail_function())
        opened = gr.Checkbox(visible=False)  # set by the page itself
        event: dict[str, Any] = {
            "fn": self.run,
            "inputs": [*panel.inputs, self.features, self.method, opened],
            "outputs": [self.features, self.method, self.note, self.map],
            "api_visibility": "private",
            "show_progress": "hidden",
            **SEARCHES,
            "trigger_mode": "always_last",
        }
        tab.select(**event, js=OPENED)
        changes = [*panel.asked, *panel.refined, self.features.input, self.method.input]
        gr.on(changes, **event, js=if_open("map_note"))
        self.map.select(self.take_point, None, panel.picture, api_visibility="private", show_progress="hidden")

    def run(self, *values: Any) -> tuple[Any, ...]:
        """Draw the map of the gallery with what the panel asks; of one that has none, say how it comes by one."""
        *panel, features, method, opened = values
        if not opened:
            return (gr.skip(),) * 4
        asked = Asked(*panel)
        with as_shown():
            index = self._searcher.indexes.get(asked.gallery or "")
            available = index.maps
            if not available:
                hidden = gr.Radio(visible=False)
                return hidden, hidden, words.NO_MAP, gr.HTML(value="", visible=False)
            chosen = (checked_features(features), one_of(Method, method))
            if chosen not in available:
                chosen = available[0]
            query = replace(asked.query(index, with_words=FEATURES[chosen[0]].takes_text), features=chosen[0])
            note, found = words.map_note(index, *chosen, min(len(index), DRAWN)), None
            drawn = self._drawn(index, *chosen)
            self._thumbnails.serve(index)
        if query.has_picture or query.text:
            try:
                with as_shown():
                    found = marks(self._searcher, index, query, chosen[1])
                about = words.map_marks(found, query)
            except gr.Error as error:  # also said in a toast, by the Search tab
                about = str(error.message)
        else:
            about = words.HINT if asked.nothing else words.HINT_PIXELS
        return (
            _radio(words.FEATURES, [each for each, kind in available if kind is chosen[1]], chosen[0], features),
            _radio(words.METHODS, [kind for each, kind in available if each is chosen[0]], chosen[1], method),
            f"{note}\n\n{about}",
            gr.HTML(value=f"{{{drawn}, {_marks_json(index, found)}}}", visible=True),
        )

    def take_point(self, chosen: gr.EventData) -> Any:
        """Make a point the query. What was clicked is said by the visitor's browser, so it may be anything."""
        data = chosen._data if isinstance(chosen._data, dict) else {}
        known = self._picture(data.get("gallery"), data.get("build"), data.get("position"))
        return gr.skip() if known is None else str(known)

    def _picture(self, gallery: object, build: object, position: object) -> Path | None:
        """Return the thumbnail at a position of the very build that was drawn; None for anything else."""
        if not isinstance(gallery, str) or gallery not in self._searcher.indexes.names():
            return None
        with as_shown():
            index = self._searcher.indexes.get(gallery)
        if build != index.build.name or type(position) is not int or not 0 <= position < len(index):
            return None
        return index.thumbnail(position)

    def _thumbnail_function(self) -> Callable[[object], str]:
        def thumbnail(asked: object) -> str:
            """Return a picture as a data: address, so that no path of this machine is told; empty if there is none."""
            known = self._picture(*asked) if isinstance(asked, list) and len(asked) == 3 else None
            if known is None or not known.is_file():
                return ""
            return f"data:image/jpeg;base64,{base64.b64encode(known.read_bytes()).decode()}"

        return thumbnail

    def _drawn(self, index: GalleryIndex, features: str, method: Method) -> str:
        """Return the points as members of a JSON object; the same for all visitors, so made once."""
        kept = self._kept.setdefault(index, {})
        if (features, method) not in kept:
            found = points(index, features, method)
            rows = [
                _row(entry, place, label)
                for entry, place, label in zip(found.entries, found.coordinates, found.label_of, strict=True)
            ]
            kept[features, method] = _members(
                gallery=index.manifest.gallery,
                build=index.build.name,
                key=f"{index.manifest.gallery} {index.build.name} {features} {method}",
                labels=found.labels,
                points=rows,
            )
        return kept[features, method]


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
    return [short(x), short(y), label, entry.position, words.name_of(entry)]


def _members(**values: object) -> str:
    # Without `<`, since a text of a data set is no HTML, and gradio looks for tags in what it is given.
    return json.dumps(values, separators=(",", ":"))[1:-1].replace("<", r"\u003c")


def _radio(titles: Mapping[Any, str], choices: list[Any], chosen: str, asked: object) -> gr.Radio:
    """Return the choices there are; one alone is no choice.

    The value is set only where it is not the one asked for, since the visitor may have chosen another one meanwhile.
    """
    shown = [(titles[each], str(each)) for each in choices]
    value: dict[str, Any] = {} if chosen == asked else {"value": str(chosen)}
    return gr.Radio(choices=shown, visible=len(shown) > 1, **value)
