"""The Compare tab: one query by every features x metric side by side, and what ChromaDB finds of each."""

from dataclasses import replace
from itertools import product
from typing import Any

import gradio as gr

from retrieval.analysis import sentences as words
from retrieval.analysis.comparison import compare
from retrieval.engines import DEFAULT_ENGINE, ENGINES
from retrieval.features import DEFAULT_FEATURES, default_first
from retrieval.metrics import Metric
from retrieval.search.query import Combination
from retrieval.search.searcher import Searcher
from retrieval.search.validation import checked_engine, checked_features, checked_top_k, one_of
from retrieval.ui.errors import as_shown
from retrieval.ui.query_panel import Asked, QueryPanel
from retrieval.ui.scripts import OPENED, if_open, release_by_keys
from retrieval.ui.serving.limits import SEARCHES
from retrieval.ui.serving.search_log import searched
from retrieval.ui.widgets.thumbnails import PictureStrip, Thumbnails, strip_of

TOP_K = 6  # as many as fit beside the figures without scrolling
TOP_K_MAX = 20
ROWS: list[tuple[str, Metric]] = list(product(default_first(), Metric))


class CompareTab:
    """A strip of hits for each features x metric, with its agreement with a baseline."""

    def __init__(self, searcher: Searcher, panel: QueryPanel, thumbnails: Thumbnails, tab: gr.Tab) -> None:
        """Lay the tab out inside `tab`, and run it when it is opened and when the query changes while it is open."""
        self._searcher = searcher
        self._thumbnails = thumbnails
        opened = gr.Checkbox(visible=False)  # set by the page itself
        with gr.Row():
            self.baseline = gr.Dropdown(
                [(words.combination(*row), f"{row[0]} {row[1]}") for row in ROWS],
                value=f"{DEFAULT_FEATURES} {Metric.COSINE}",
                label=words.BASELINE,
                elem_id="baseline",
                min_width=240,
                scale=3,
            )
            self.engine = gr.Radio(
                [(words.ENGINES[each], str(each)) for each in ENGINES],
                value=DEFAULT_ENGINE,
                label=words.SHOWN_ENGINE,
                elem_id="compare_engine",
                min_width=290,
                scale=3,
            )
            self.top_k = gr.Slider(
                1,
                TOP_K_MAX,
                value=TOP_K,
                step=1,
                label=words.TOP_K_LABEL,
                elem_id="compare_top_k",
                min_width=220,
                scale=2,
            )
        self.note = gr.Markdown(words.HINT, elem_id="compare_note")
        self.figures: list[gr.Markdown] = []
        self.strips: list[gr.Gallery] = []
        for features, metric in ROWS:
            with gr.Row(elem_classes="comparison"):
                with gr.Column(scale=2, min_width=180):
                    self.figures.append(gr.Markdown(f"**{words.combination(features, metric)}**"))
                with gr.Column(scale=7, min_width=300):
                    strip = PictureStrip(
                        thumbnails,
                        label=words.combination(features, metric),
                        show_label=False,
                        columns=TOP_K,
                        elem_classes="strip hits",
                    )
                    self.strips.append(strip)
        event: dict[str, Any] = {
            "fn": self.run,
            "inputs": [*panel.inputs, self.baseline, self.engine, self.top_k, opened],
            "outputs": [self.note, *self.figures, *self.strips],
            "api_visibility": "private",
            "show_progress": "minimal",
            "show_progress_on": self.note,
            "trigger_mode": "always_last",
            **SEARCHES,
        }
        toggles = [self.baseline.input, self.engine.input, self.top_k.release]
        tab.select(**event, js=OPENED)
        gr.on([*panel.asked, *panel.refined, *toggles], **event, js=if_open("compare_note"))
        gr.on(None, None, js=release_by_keys("compare_top_k"))

    def run(self, *values: Any) -> Any:
        """Compare what the panel asks; without a picture or words, say kindly what to do."""
        *panel, baseline, engine, top_k, opened = values
        if not opened:
            return gr.skip()
        asked = Asked(*panel)
        if asked.nothing:
            return _empty(words.HINT)
        try:
            with as_shown():
                index = self._searcher.indexes.get(asked.gallery or "")
                features, metric = str(baseline).split(" ")
                chosen = Combination(checked_features(features), one_of(Metric, metric))
                shown_engine = checked_engine(engine)
                query = replace(asked.query(index), top_k=checked_top_k(top_k))
                comparison = compare(self._searcher, query, chosen)
                self._thumbnails.serve(index)
                searched("compare", comparison.baseline.ranking, query.top_k)
        except gr.Error as error:
            # Said in a toast and in words; raised, it would lie as "Error" over everything.
            gr.Warning(str(error.message))
            return _empty(str(error.message))
        cells = {cell.combination: cell for cell in comparison.cells}
        figures, strips = [], []
        for row in ROWS:
            shown, chroma = cells.get(Combination(*row, shown_engine)), cells.get(Combination(*row, "chroma"))
            if shown is None or chroma is None:
                figures.append(f"**{words.combination(*row)}**\n\n{words.WORDS_OFF}")
                strips.append(gr.Gallery(value=[]))
                continue
            figures.append(words.agreement(shown, chroma, is_baseline=shown is comparison.baseline))
            strips.append(strip_of(index, shown.ranking, shown.moves))
        return [words.COMPARE_NOTE, *figures, *strips]


def _empty(note: str) -> list[Any]:
    names = (f"**{words.combination(*row)}**" for row in ROWS)
    return [note, *names, *(gr.Gallery(value=[]) for _ in ROWS)]
