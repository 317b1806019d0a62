"""The Search tab: three toggles, and the gallery ranked by them."""

import html
from dataclasses import replace
from typing import Any

import gradio as gr

from retrieval.analysis import sentences as words
from retrieval.engines import DEFAULT_ENGINE, ENGINES
from retrieval.features import DEFAULT_FEATURES, FEATURES, default_first
from retrieval.metrics import Metric
from retrieval.search.query import Query, Ranking
from retrieval.search.searcher import Searcher
from retrieval.search.validation import checked_engine, checked_features, checked_top_k, one_of
from retrieval.storage.reader import GalleryIndex
from retrieval.ui.errors import as_shown
from retrieval.ui.permalink import NAMES, NOTHING, from_address, link_output, linked
from retrieval.ui.query_panel import Asked, QueryPanel
from retrieval.ui.serving.limits import SEARCHES
from retrieval.ui.serving.search_log import searched
from retrieval.ui.widgets.thumbnails import PictureStrip, Thumbnails

TOP_K = 12
TOP_K_MAX = 60  # on the page; the command line and the API allow more
# On a phone the results lie below the fold; who chose a picture wants to see them, moving or not.
SCROLL_ON_PHONE = """() => { if (innerWidth <= 640 && document.querySelector("#query img, #trail img"))
    document.getElementById("results").scrollIntoView({
        behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth" }); }"""


class SearchTab:
    """Components and events of the tab; holds no state of any visitor."""

    def __init__(self, searcher: Searcher, panel: QueryPanel, thumbnails: Thumbnails) -> None:
        """Lay the tab out inside the Blocks that are being made, and wire it to the query."""
        self._searcher = searcher
        self._panel = panel
        self._thumbnails = thumbnails
        with gr.Row(elem_id="toggles"):
            self.features = gr.Radio(
                [(words.FEATURES[each], str(each)) for each in default_first()],
                value=DEFAULT_FEATURES,
                label=words.FEATURES_LABEL,
                elem_id="features",
                min_width=290,
                scale=3,
            )
            self.metric = gr.Radio(
                [(words.METRICS[each], str(each)) for each in Metric],
                value=str(Metric.COSINE),
                label=words.METRIC_LABEL,
                elem_id="metric",
                min_width=300,
                scale=4,
            )
            self.engine = gr.Radio(
                [(words.ENGINES[each], str(each)) for each in ENGINES],
                value=DEFAULT_ENGINE,
                label=words.ENGINE_LABEL,
                elem_id="engine",
                min_width=290,
                scale=3,
            )
            self.top_k = gr.Slider(
                1,
                TOP_K_MAX,
                value=TOP_K,
                step=1,
                label=words.TOP_K_LABEL,
                elem_id="top_k",
                min_width=300,
                scale=4,
            )
        self.results = PictureStrip(thumbnails, label=words.RESULTS, columns=6, elem_id="results")
        self.timings = gr.Markdown(words.HINT, elem_id="timings")
        self.explanation = gr.Markdown(elem_id="explanation")
        self.link = link_output()
        self.opened = gr.State(0)
        self._wire()

    def _wire(self) -> None:
        panel = self._panel
        quiet: dict[str, Any] = {"api_visibility": "private", "show_progress": "minimal"}
        toggles = [self.features.input, self.metric.input, self.engine.input, self.top_k.input]
        # One event for all, so that of many flips the last one wins and none overtakes another.
        gr.on(
            [*panel.asked, *panel.refined, *toggles, self.opened.change],
            self.run,
            [*self.shown, panel.trail],
            [self.results, self.timings, self.explanation, self.link, panel.trail, panel.trail_strip],
            trigger_mode="always_last",
            **SEARCHES,
            show_progress_on=self.results,
            **quiet,
        )
        gr.on(panel.asked, None, js=SCROLL_ON_PHONE)
        self.features.input(
            lambda features: panel.words_allowed(FEATURES[str(features)].takes_text),
            self.features,
            [panel.text, panel.without, panel.balance],
            **quiet,
        )
        self.results.select(self.take_result, panel.gallery, panel.picture, **quiet)

    @property
    def shown(self) -> list[Any]:
        """What decides the results, in the order that `run` takes it."""
        return [*self._panel.inputs, self.features, self.metric, self.engine, self.top_k]

    def open_link(self, request: gr.Request) -> Any:
        """Show what the address of the page says, if it says anything; the search follows."""
        items = [(name, value) for name, value in request.query_params.multi_items() if name in NAMES]
        if not items:
            return gr.skip()
        with as_shown():
            query, problems = from_address(items, self._searcher.indexes, Query(top_k=TOP_K))
            index = self._searcher.indexes.get(query.gallery)
            self._thumbnails.serve(index)
        if problems:
            gr.Warning(html.escape(f"{words.LINK_BROKEN} {' '.join(problems)}"))
        toggles = [str(query.features), str(query.metric), str(query.engine), min(query.top_k, TOP_K_MAX)]
        return [*self._panel.restored(query, index), *toggles, 1]

    def run(self, *values: Any) -> tuple[Any, ...]:
        """Search with what the page shows; without a picture or words, say kindly what to do."""
        *panel, features, metric, engine, top_k, trail = values
        asked = Asked(*panel)
        if asked.nothing or (asked.picture is None and not FEATURES[str(features)].takes_text):
            return self._no_results(words.HINT if asked.nothing else words.HINT_PIXELS, trail)
        try:
            with as_shown():
                index = self._searcher.indexes.get(asked.gallery or "")
                query = replace(
                    asked.query(index, with_words=FEATURES[str(features)].takes_text),
                    features=checked_features(features),
                    metric=one_of(Metric, metric),
                    engine=checked_engine(engine),
                    top_k=checked_top_k(top_k),
                )
                ranking = self._searcher.search(query, index)
                recall = self._recall(query, ranking, index)
                self._thumbnails.serve(index)
                searched("search", ranking, query.top_k)
        except gr.Error as error:
            # Said in a toast and where the results would be; raised, it would lie as "Error" over everything.
            gr.Warning(str(error.message))
            return self._no_results(str(error.message), trail)
        hits = [(str(index.thumbnail(hit.position)), words.caption(hit)) for hit in ranking.hits]
        return (
            gr.Gallery(value=hits, selected_index=None),
            words.timings(ranking) + recall,
            f"{words.meaning(query, ranking, index)} {words.explain(query)} {words.CLICK}",
            linked(query, index),
            *self._panel.remember(trail, asked.picture),
        )

    def _no_results(self, why: str, trail: list[str]) -> tuple[Any, ...]:
        empty = gr.Gallery(value=[], selected_index=None)
        return empty, why, "", NOTHING, *self._panel.remember(trail, None)

    def _recall(self, query: Query, ranking: Ranking, index: GalleryIndex) -> str:
        """Return what ChromaDB found of the exact answer to this very query, in words; nothing for the exact scan."""
        if ENGINES[ranking.engine].exact:
            return ""
        return words.recall(ranking, self._searcher.search(replace(query, engine=DEFAULT_ENGINE), index))

    def take_result(self, gallery: str | None, chosen: gr.SelectData) -> Any:
        """Make a result the query. Its name comes from the visitor's browser: only a thumbnail is taken."""
        with as_shown():
            path = self._thumbnails.file(chosen.value["image"]["path"])
            known = path and self._searcher.indexes.get(gallery or "").at_thumbnail(path)
        return gr.skip() if known is None else str(path)
