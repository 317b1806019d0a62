"""The Compare tab: the results of every feature type x metric side by side, and how many each engine finds."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import gradio as gr
from typing_extensions import override

from retrieval.analysis.comparison import Cell, compare, equal_by_mathematics
from retrieval.analysis.explanation import combination, listed
from retrieval.engines import DEFAULT_ENGINE, ENGINES
from retrieval.features import DEFAULT_FEATURES, default_first
from retrieval.metrics import Metric
from retrieval.search.query import Combination
from retrieval.search.validation import checked_engine, checked_features, checked_top_k, one_of
from retrieval.ui.controls import PRIVATE, engine_radio, text_needs, top_k_slider
from retrieval.ui.errors import as_shown, warn
from retrieval.ui.query_panel import HINT, SKIP, Asked, Updates
from retrieval.ui.scripts import release_by_keys
from retrieval.ui.serving.search_log import searched
from retrieval.ui.tabs.tab import Tab, TabContext, run_if_open
from retrieval.ui.widgets.thumbnails import PictureStrip, strip_of

TOP_K = 6  # as many as fit beside the figures without scrolling
TOP_K_MAX = 20


class CompareTab(Tab):
    """A strip of results for each feature type x metric, with its agreement with a baseline."""

    title = "Compare"

    @override
    def __init__(self, context: TabContext, tab: gr.Tab) -> None:
        super().__init__(context, tab)
        self._rows = list(product(default_first(), Metric))
        with gr.Row():
            self.baseline = gr.Dropdown(
                [(combination(*row), " ".join(row)) for row in self._rows],
                value=f"{DEFAULT_FEATURES} {Metric.COSINE}",
                label="Compared with",
                elem_id="baseline",
                min_width=240,
                scale=3,
            )
            self.engine = engine_radio("Results from", "compare_engine", scale=3)
            self.top_k = top_k_slider(TOP_K, TOP_K_MAX, "compare_top_k", min_width=220, scale=2)
        self.note = gr.Markdown(HINT, elem_id="compare_note")
        self.figures: list[gr.Markdown] = []
        self.strips: list[gr.Gallery] = []
        for row in self._rows:
            self._lay_out_row(combination(*row))
        panel = context.panel
        toggles = {"baseline": self.baseline, "engine": self.engine, "top_k": self.top_k}
        run_if_open(
            tab,
            "compare_note",
            [*panel.asked, *panel.refined, self.baseline.input, self.engine.input, self.top_k.release],
            fn=self.run,
            inputs_kwargs={**panel.inputs, **toggles},
            outputs=[self.note, *self.figures, *self.strips],
            show_progress_on=self.note,
            **PRIVATE,
        )
        gr.on(None, None, js=release_by_keys("compare_top_k"))

    def _lay_out_row(self, title: str) -> None:
        with gr.Row(elem_classes="comparison"):
            with gr.Column(scale=2, min_width=180):
                self.figures.append(gr.Markdown(f"**{title}**"))
            with gr.Column(scale=7, min_width=300):
                strip = PictureStrip(
                    self._thumbnails, label=title, show_label=False, columns=TOP_K, elem_classes="strip hits"
                )
                self.strips.append(strip)

    def run(self, baseline: str, engine: str, top_k: float, opened: bool, **panel: Any) -> Updates:
        """Compare the results for the query; without one, show what to do."""
        if not opened:
            return SKIP
        asked = Asked(**panel)
        if asked.nothing:
            return self._empty(HINT)
        try:
            with as_shown():
                index = self._searcher.indexes.get(asked.gallery or "")
                features, metric = str(baseline).split(" ")
                chosen = Combination(checked_features(features), one_of(Metric, metric), DEFAULT_ENGINE)
                shown_engine = checked_engine(engine)
                query = replace(asked.query(index), top_k=checked_top_k(top_k))
                comparison = compare(self._searcher, query, chosen, index=index, check=self._limits.check())
                self._thumbnails.serve(index)
                searched("compare", comparison.baseline.ranking, query.top_k)
        except gr.Error as error:
            return self._empty(warn(error))
        cells = {cell.combination: cell for cell in comparison.cells}
        updates: Updates = {self.note: _note()}
        for row, figures, strip in zip(self._rows, self.figures, self.strips, strict=True):
            shown = cells.get(Combination(*row, shown_engine))
            if shown is None:
                why = f"Off: {text_needs()}" if row[0] in index.features else "This gallery was built without them."
                updates |= {figures: f"**{combination(*row)}**\n\n{why}", strip: gr.Gallery(value=[])}
                continue
            approximate = [cells[each] for name in _approximate() if (each := Combination(*row, name)) in cells]
            updates[figures] = agreement(shown, approximate, is_baseline=shown is comparison.baseline)
            updates[strip] = strip_of(index, shown.ranking, shown.moves)
        return updates

    def _empty(self, note: str) -> Updates:
        names = {figures: f"**{combination(*row)}**" for row, figures in zip(self._rows, self.figures, strict=True)}
        return {self.note: note, **names, **{strip: gr.Gallery(value=[]) for strip in self.strips}}


def _approximate() -> list[str]:
    return [name for name, engine in ENGINES.items() if not engine.exact]


def _note() -> str:
    parts = [
        "Overlap: share of the baseline's results that are here too. "
        "τ: Kendall's agreement of both orders (1: the same, -1: reversed)."
    ]
    if names := [ENGINES[name].title for name in _approximate()]:
        verb = "finds" if len(names) == 1 else "find"
        parts.append(f"Recall: share of the exact results that {listed(names)} {verb}.")
    parts.append("↑ ↓: places above or below the baseline; new: not among its results.")
    return " ".join(parts)


def agreement(shown: Cell, approximate: Sequence[Cell], is_baseline: bool) -> str:
    """Return how far the results shown agree with the baseline's, and approximate engines with the exact scan."""
    features, metric = shown.ranking.features, shown.ranking.metric
    k = len(shown.ranking.hits)
    lines = [f"**{combination(features, metric)}**"]
    if is_baseline:
        lines.append("baseline")
    elif shown.overlap:
        lines.append(f"overlap@{k} {shown.overlap:.2f} · τ {shown.tau:.2f}")
    else:
        lines.append(f"overlap@{k} 0.00")  # without an image in common there are no two orders to compare
    lines += [
        f"{ENGINES[cell.ranking.engine].title}: recall@{k} {cell.recall:.2f}"
        for cell in approximate
        if cell.recall is not None
    ]
    if reason := equal_by_mathematics(features, metric)[1]:
        lines.append(f"*{reason}*")
    return "<br>".join(lines)
