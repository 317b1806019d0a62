"""The Search tab: the gallery ranked by each chosen feature type, side by side."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import gradio as gr
from typing_extensions import override

from retrieval.analysis.explanation import recall, verdict
from retrieval.analysis.lanes import scores_of
from retrieval.analysis.search_results import SavedResults
from retrieval.engines import DEFAULT_ENGINE, ENGINES
from retrieval.engines.choice import about_recall
from retrieval.errors import QueryError
from retrieval.features import Vectors
from retrieval.metrics import Metric
from retrieval.search.embedding import QueryPictures, can_search
from retrieval.search.query import Query, Ranking
from retrieval.search.validation import checked_cutoff, checked_engine_choice, checked_features, checked_top_k, one_of
from retrieval.storage.reader import GalleryIndex
from retrieval.ui.controls import (
    PRIVATE,
    QUIET,
    engine_radio,
    features_choice,
    features_of,
    first_lanes,
    lane_order,
    metric_choice,
    top_k_slider,
)
from retrieval.ui.errors import as_shown
from retrieval.ui.examples import Example
from retrieval.ui.permalink import NOTHING, answered, link_output, linked
from retrieval.ui.query_panel import HINT, Asked, Updates
from retrieval.ui.scripts import beside
from retrieval.ui.serving.limits import SEARCHES
from retrieval.ui.serving.search_log import searched
from retrieval.ui.tabs.browse import BrowseSection
from retrieval.ui.tabs.disagreement import DisagreementSection
from retrieval.ui.tabs.tab import Tab, TabContext, run_on
from retrieval.ui.widgets.added_input import AddedImages
from retrieval.ui.widgets.lanes import Lane, as_value, judged, lanes_output, message_lane, result_lane

TOP_K = 8
CUTOFF = "Cut-off: hide results unless they beat this percentage of random scores (0: show all)"
NOTHING_LEFT = "No result is better than the cut-off. Lower it under Advanced."
TOP_K_MAX = 60  # on the page; the command line and the API allow more


@dataclass(frozen=True)
class Search:
    """What a visitor searches for: a query by some feature types, its image, and the cut-off in percent."""

    index: GalleryIndex
    query: Query
    names: list[str]
    example: Example
    cutoff: float

    @property
    def key(self) -> str:
        """The name of its image in links, if that is an example."""
        return self.example.key if self.example.name and self.query.position is None else ""

    @property
    def image(self) -> str:
        """What its image is called: by its caption, or by the name of the visitor's file."""
        return self.example.name or (self.example.path.name if self.query.position is None else "")


class SearchTab(Tab):
    """The toggles, and a lane of results for each feature type."""

    title = "Search"

    @override
    def __init__(self, context: TabContext, tab: gr.Tab) -> None:
        super().__init__(context, tab)
        engines = self._searcher.indexes.get().engines
        with gr.Row(elem_id="toggles"):
            self.features = features_choice(context.shown, "features", min_width=345, scale=1)
            self.metric = metric_choice(gr.Radio, "metric", min_width=334, scale=0)
            self.engine = engine_radio("Engine", "engine", engines, auto=True, min_width=310, scale=1)
        self.results = lanes_output("results")
        self.link = link_output()
        self.saved = gr.JSON(visible=False)
        # By what number the page was last restored from its address. Not a gr.State, which is read when a search runs:
        # the address of an older search would count as the newest one's.
        self.visit = gr.Number(0, visible=False)
        DisagreementSection(context, self.features, self.metric)
        BrowseSection(context)
        with context.panel.advanced:
            self.top_k = top_k_slider(TOP_K, TOP_K_MAX, "top_k")
            self.cutoff = gr.Slider(0, 99.5, value=0, step=0.5, label=CUTOFF, elem_id="cutoff")
        self._toggles: dict[str, Any] = {
            name: getattr(self, name) for name in ("features", "metric", "engine", "top_k")
        }
        context.viewer.opens(self.results.select)
        self._wire()

    def _wire(self) -> None:
        panel = self._panel
        shown = self._toggles | {"cutoff": self.cutoff}
        run_on(
            self.run,
            [*panel.asked, *panel.refined, *(each.input for each in shown.values())],
            turn=panel.turn,
            inputs_kwargs={**panel.inputs, **shown, "trail": panel.trail, "visit": self.visit},
            outputs=[self.results, self.link, panel.trail, panel.trail_strip],
            show_progress_on=self.results,
            **PRIVATE,
        )
        self.link.download(
            self.save,
            inputs_kwargs={**panel.inputs, **shown},
            outputs=self.saved,
            **SEARCHES,
            **QUIET,
        ).success(None, self.saved, None, js=beside(__file__, "save_file.js"))
        gr.on(panel.asked, None, js=beside(__file__, "scroll_on_phone.js"))
        offered = [self.features, panel.gallery]
        gr.on(
            [panel.gallery.input, panel.renewed.change],
            self.offer_features,
            offered,
            [self.features, *panel.text_boxes],
            **QUIET,
        )
        # Not the feature types themselves: a click on another one in the meantime would be lost.
        self.features.input(self.allow_text, offered, panel.text_boxes, **QUIET)
        self.results.like(self.add_result, [panel.added, panel.picture], panel.added, **QUIET)

    @property
    def restorable(self) -> list[Any]:
        """The components that `restored` sets."""
        return [*self._panel.restorable, *self._toggles.values(), self.visit, self._panel.renewed]

    def restored(
        self, query: Query, features: Sequence[str], index: GalleryIndex, picture: str | None, visit: int
    ) -> Updates:
        """Return updates that show a query by some feature types; `picture` is the file of its image.

        `visit` is another number each time, since its change starts the search.
        """
        names = _available(features, index) or first_lanes(index.features)
        return {
            **self._panel.restored(query, names, index, picture),
            self.features: features_of(index, names),
            self.metric: str(query.metric),
            self.engine: str(query.engine),
            self.top_k: min(query.top_k, TOP_K_MAX),
            self.visit: visit,
            self._panel.renewed: visit,
        }

    def offer_features(self, features: list[str], gallery: str | None) -> Updates:
        """Offer the feature types of the gallery, and text where one of the chosen ones supports it."""
        with as_shown():
            index = self._searcher.indexes.get(gallery or "")
        chosen = _available(features, index)
        # Set only if it is not the one shown, since the visitor may have chosen another one in the meantime.
        kept = None if chosen == features else chosen
        return {self.features: features_of(index, kept), **self._panel.text_allowed(chosen, index)}

    def allow_text(self, features: list[str], gallery: str | None) -> Updates:
        """Allow text if one of the chosen feature types supports it."""
        with as_shown():
            index = self._searcher.indexes.get(gallery or "")
        return self._panel.text_allowed(_available(features, index), index)

    def run(self, visit: float | None, **values: Any) -> Updates:
        """Search by each chosen feature type, and say in the link's value which visit of the page it was for."""
        found = self._run(**values)
        return found | {self.link: answered(found[self.link], visit)}

    def _run(self, trail: list[str], **values: Any) -> Updates:
        """Search; without a query, show what to do. `values` are those of the toggles and of the panel."""
        try:
            with as_shown():
                search = self._read(**values)
                lanes = self._lanes(search)
        except gr.Error as error:
            return self._nothing(str(error.message), trail)
        return {
            self.results: as_value(lanes, search.example.note),
            self.link: linked(search.query, search.names, search.index, search.key),
            **self._panel.remember(trail, values["picture"]),
        }

    def _read(
        self, features: list[str], metric: str, engine: str, top_k: float, cutoff: float, **values: Any
    ) -> Search:
        """Check what the page says; raise QueryError if it is invalid or if there is nothing to search for."""
        asked = Asked(**values)
        if asked.nothing:
            raise QueryError(HINT)
        index = self._searcher.indexes.get(asked.gallery or "")
        names = _available([checked_features(each) for each in features], index)
        if not names:
            raise QueryError("Choose at least one feature type.")
        query = replace(
            asked.query(index),
            metric=one_of(Metric, metric),
            engine=checked_engine_choice(engine),
            top_k=checked_top_k(top_k),
        )
        self._thumbnails.serve(index)
        return Search(index, query, names, self._panel.example(query, index), checked_cutoff(cutoff))

    def _lanes(self, search: Search) -> list[Lane]:
        """Return a lane for each feature type; those that do not support text search with the images alone."""
        pictures = QueryPictures(self._searcher.embedder, search.index, search.query, search.names)
        return [self._lane(search, name, pictures) for name in search.names]

    def _lane(self, search: Search, name: str, pictures: QueryPictures) -> Lane:
        index = search.index
        if not can_search(index, search.query, name):
            return message_lane(name, index.text_needs)
        query, vector, ranking = self._ranked(search, name, pictures)
        if search.cutoff and not ranking.hits:
            return message_lane(name, NOTHING_LEFT)
        scores = None if index.manifest.collections else scores_of(index, query, vector, ranking)
        lane = result_lane(self._thumbnails, index, query, ranking, search.example.label, scores)
        lane = judged(lane, *verdict(query, ranking, index, self._searcher.chance))
        lane["details"] += self._recall(query, ranking, index)
        return lane

    def _ranked(self, search: Search, name: str, pictures: QueryPictures) -> tuple[Query, Vectors, Ranking]:
        """Return the query by a feature type, its vector and its results."""
        started, query = time.perf_counter(), replace(search.query, features=name)
        if search.cutoff:
            query = replace(query, min_score=self._searcher.chance.score(search.index, query, search.cutoff / 100))
        embedded = self._searcher.embedder.embed(search.index, query, pictures)
        ranking = self._searcher.answer(search.index, query, embedded, started)
        searched("search", ranking, query.top_k)
        return query, embedded.vector, ranking

    def save(self, chosen: gr.EventData, **values: Any) -> dict[str, str]:
        """Return the results as a file for the browser to save, so that none is kept on the server."""
        with as_shown():
            search = self._read(**values)
            pictures = QueryPictures(self._searcher.embedder, search.index, search.query, search.names)
            names = [name for name in search.names if can_search(search.index, search.query, name)]
            rankings = [self._ranked(search, name, pictures)[2] for name in names]
            address = linked(search.query, search.names, search.index, search.key)["address"]
            results = SavedResults(search.index, rankings, address, search.image)
            gallery = search.index.manifest.gallery
            if isinstance(chosen._data, dict) and chosen._data.get("kind") == "csv":
                return {"name": f"{gallery}-results.csv", "type": "text/csv", "text": results.to_csv()}
            return {"name": f"{gallery}-results.json", "type": "application/json", "text": results.to_json()}

    def _nothing(self, why: str, trail: list[str]) -> Updates:
        return {self.results: as_value([], why), self.link: NOTHING, **self._panel.remember(trail, None)}

    def _recall(self, query: Query, ranking: Ranking, index: GalleryIndex) -> list[str]:
        """Return how many of the exact results an approximate engine found, for this query and in general."""
        if ENGINES[ranking.engine].exact:
            return []
        whole = about_recall(ranking.engine, index, (ranking.features, ranking.metric))
        if DEFAULT_ENGINE not in index.engines:
            return [whole]
        return [f"{recall(ranking, self._searcher.search(replace(query, engine=DEFAULT_ENGINE), index))}; {whole}"]

    def add_result(self, added: AddedImages, picture: str | None, chosen: gr.EventData) -> Any:
        """Add a result to the query, or the opposite: what the browser says about it may be anything."""
        item = self._viewer.chosen_item(chosen)
        if item is None:
            return gr.skip()
        return self._panel.add_item(added, picture, *item, chosen._data.get("more") is True)


def _available(features: Sequence[str], index: GalleryIndex) -> list[str]:
    """Return the lanes of a choice, which may be of another gallery; without any of them, those to begin with."""
    found = [name for name in lane_order(index.features) if name in features]
    return found or (first_lanes(index.features) if features else [])
