"""The Search tab: three toggles, and the gallery ranked by them."""

import html
from dataclasses import replace
from typing import Any

import gradio as gr
from typing_extensions import override

from retrieval.analysis.explanation import caption, explain, meaning, recall, timings
from retrieval.engines import DEFAULT_ENGINE, ENGINES
from retrieval.features import FEATURES
from retrieval.metrics import Metric
from retrieval.search.query import Query, Ranking
from retrieval.search.validation import checked_engine, checked_features, checked_top_k, one_of
from retrieval.storage.reader import GalleryIndex
from retrieval.ui.controls import PRIVATE, QUIET, engine_radio, features_radio, metric_choice, top_k_slider
from retrieval.ui.errors import as_shown, warn
from retrieval.ui.permalink import NAMES, NOTHING, from_address, link_output, linked
from retrieval.ui.query_panel import HINT, Asked, Updates
from retrieval.ui.scripts import beside
from retrieval.ui.serving.limits import SEARCHES
from retrieval.ui.serving.search_log import searched
from retrieval.ui.tabs.tab import Tab, TabContext
from retrieval.ui.widgets.thumbnails import PictureStrip

TOP_K = 12
TOP_K_MAX = 60  # on the page; the command line and the API allow more


class SearchTab(Tab):
    """The toggles, the results, and what they mean."""

    title = "Search"

    @override
    def __init__(self, context: TabContext, tab: gr.Tab) -> None:
        super().__init__(context, tab)
        with gr.Row(elem_id="toggles"):
            self.features = features_radio("features", scale=3)
            self.metric = metric_choice(gr.Radio, "metric", min_width=300, scale=4)
            self.engine = engine_radio("Engine", "engine", scale=3)
            self.top_k = top_k_slider(TOP_K, TOP_K_MAX, "top_k", min_width=300, scale=4)
        self.results = PictureStrip(context.thumbnails, label="Closest images", columns=6, elem_id="results")
        self.timings = gr.Markdown(HINT, elem_id="timings")
        self.explanation = gr.Markdown(elem_id="explanation")
        self.link = link_output()
        self.opened = gr.State(0)
        self._wire(context.page)

    def _wire(self, page: gr.Blocks) -> None:
        panel = self._panel
        toggles: dict[str, Any] = {name: getattr(self, name) for name in ("features", "metric", "engine", "top_k")}
        # One event for all, so that the last change wins and none overtakes another.
        gr.on(
            [*panel.asked, *panel.refined, *(each.input for each in toggles.values()), self.opened.change],
            self.run,
            inputs_kwargs={**panel.inputs, **toggles, "trail": panel.trail},
            outputs=[self.results, self.timings, self.explanation, self.link, panel.trail, panel.trail_strip],
            trigger_mode="always_last",
            **SEARCHES,
            show_progress_on=self.results,
            **PRIVATE,
        )
        gr.on(panel.asked, None, js=beside(__file__, "scroll_on_phone.js"))
        self.features.input(panel.text_allowed, self.features, panel.text_boxes, **PRIVATE)
        self.results.select(self.take_result, panel.gallery, panel.picture, **PRIVATE)
        page.load(self.open_link, outputs=[*panel.inputs.values(), *toggles.values(), self.opened], **QUIET)

    def open_link(self, request: gr.Request) -> Any:
        """Restore the search in the page's address, if there is one; a change of `opened` then starts it."""
        items = [(name, value) for name, value in request.query_params.multi_items() if name in NAMES]
        if not items:
            return gr.skip()
        with as_shown():
            query, problems = from_address(items, self._searcher.indexes, Query(top_k=TOP_K))
            index = self._searcher.indexes.get(query.gallery)
            self._thumbnails.serve(index)
        if problems:
            gr.Warning(html.escape(f"Some parts of this link are no longer valid. {' '.join(problems)}"))
        return {
            **self._panel.restored(query, index),
            self.features: str(query.features),
            self.metric: str(query.metric),
            self.engine: str(query.engine),
            self.top_k: min(query.top_k, TOP_K_MAX),
            self.opened: 1,
        }

    def run(self, features: str, metric: str, engine: str, top_k: float, trail: list[str], **panel: Any) -> Updates:
        """Search for the query; without one, show what to do."""
        asked = Asked(**panel)
        with_text = features in FEATURES and FEATURES[features].takes_text
        if asked.nothing or (asked.picture is None and not with_text):
            return self._no_results(asked.hint, trail)
        try:
            with as_shown():
                index = self._searcher.indexes.get(asked.gallery or "")
                query = replace(
                    asked.query(index, with_text),
                    features=checked_features(features),
                    metric=one_of(Metric, metric),
                    engine=checked_engine(engine),
                    top_k=checked_top_k(top_k),
                )
                ranking = self._searcher.search(query, index)
                found = self._recall(query, ranking, index)
                self._thumbnails.serve(index)
                searched("search", ranking, query.top_k)
        except gr.Error as error:
            return self._no_results(warn(error), trail)
        hits = [(str(index.thumbnail(hit.position)), caption(hit)) for hit in ranking.hits]
        about = f"{meaning(query, ranking, index)} {explain(query)} Click a result to search with it."
        return {
            self.results: gr.Gallery(value=hits, selected_index=None),
            self.timings: timings(ranking) + found,
            self.explanation: about,
            self.link: linked(query, index),
            **self._panel.remember(trail, asked.picture),
        }

    def _no_results(self, why: str, trail: list[str]) -> Updates:
        return {
            self.results: gr.Gallery(value=[], selected_index=None),
            self.timings: why,
            self.explanation: "",
            self.link: NOTHING,
            **self._panel.remember(trail, None),
        }

    def _recall(self, query: Query, ranking: Ranking, index: GalleryIndex) -> str:
        """Return how many of the exact results an approximate engine found; empty for an exact engine."""
        if ENGINES[ranking.engine].exact:
            return ""
        return recall(ranking, self._searcher.search(replace(query, engine=DEFAULT_ENGINE), index))

    def take_result(self, gallery: str | None, chosen: gr.SelectData) -> Any:
        """Make a result the query. Its name comes from the visitor's browser, so only a thumbnail is accepted."""
        with as_shown():
            path = self._thumbnails.file(chosen.value["image"]["path"])
            known = path and self._searcher.indexes.get(gallery or "").at_thumbnail(path)
        return gr.skip() if known is None else str(path)
