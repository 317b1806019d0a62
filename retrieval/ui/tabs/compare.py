"""The Compare tab: the results of every feature type x metric side by side, and how many each engine finds."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from string import ascii_uppercase
from typing import Any

import gradio as gr
from typing_extensions import override

from retrieval.analysis.agreement import positions
from retrieval.analysis.comparison import Cell, Comparison, compare, equal_by_mathematics
from retrieval.analysis.explanation import caption, combination
from retrieval.engines import DEFAULT_ENGINE, ENGINES
from retrieval.engines.recall import K
from retrieval.features import FEATURES
from retrieval.labels import METRICS
from retrieval.metrics import Metric
from retrieval.search.query import Combination, Ranking
from retrieval.search.validation import checked_engine, checked_top_k, one_of
from retrieval.storage.reader import GalleryIndex
from retrieval.ui.controls import PRIVATE, FeaturesDropdown, as_text, engine_radio, lane_order, top_k_slider
from retrieval.ui.errors import as_shown
from retrieval.ui.query_panel import HINT, Asked, Updates
from retrieval.ui.scripts import release_by_keys
from retrieval.ui.serving.search_log import searched
from retrieval.ui.tabs.hnsw_lab import HnswLab
from retrieval.ui.tabs.tab import Tab, TabContext, run_on
from retrieval.ui.widgets.thumbnails import PictureStrip, strip_of

TOP_K = 6  # as many as fit beside the figures without scrolling
TOP_K_MAX = 20
NOTE = (
    "An image in several rows has the same letter and colour in each; A is the baseline's first result. Shared: "
    "results that the baseline has too. Order: Kendall's τ of both rankings (1: the same, -1: reversed)."
)
LETTERS = ascii_uppercase[:TOP_K_MAX]  # those for which the style sheet has colours


class CompareTab(Tab):
    """A strip of results for each feature type x metric, with its agreement with a baseline.

    Metrics that always give the same order share a row.
    """

    title = "Compare"

    @override
    def __init__(self, context: TabContext, tab: gr.Tab) -> None:
        super().__init__(context, tab)
        self._rows = rows(context.features)
        shown = [row for row in self._rows if row[0] in context.shown]
        with gr.Row():
            self.baseline = FeaturesDropdown(
                _titled(shown),
                value=_value(shown[0][0], Metric.COSINE) if shown else None,
                label="Compared with",
                elem_id="baseline",
                min_width=240,
                scale=3,
            )
            self.engine = engine_radio("Results from", "compare_engine", self._searcher.indexes.get().engines, scale=3)
            self.top_k = top_k_slider(TOP_K, TOP_K_MAX, "compare_top_k", min_width=220, scale=2)
        self.note = gr.Markdown(HINT, elem_id="compare_note")
        self.lines: list[gr.Row] = []
        self.figures: list[gr.Markdown] = []
        self.strips: list[gr.Gallery] = []
        for row in self._rows:
            self._lay_out_row(context, title(*row), row in shown)
        HnswLab(context)
        panel = context.panel
        toggles = {"baseline": self.baseline, "engine": self.engine, "top_k": self.top_k}
        event = run_on(
            self.run,
            [*panel.asked, *panel.refined, self.baseline.input, self.engine.input, self.top_k.release],
            "compare_note",
            inputs_kwargs={**panel.inputs, **toggles},
            outputs=[self.note, self.baseline, *self.lines, *self.figures, *self.strips],
            show_progress_on=self.note,
            **PRIVATE,
        )
        tab.select(**event)
        gr.on(None, None, js=release_by_keys("compare_top_k"))

    def _lay_out_row(self, context: TabContext, name: str, visible: bool) -> None:
        with gr.Row(elem_classes="comparison", visible=visible) as line:
            self.lines.append(line)
            with gr.Column(scale=2, min_width=180):
                self.figures.append(gr.Markdown(f"**{name}**"))
            with gr.Column(scale=7, min_width=300):
                strip = PictureStrip(
                    self._thumbnails, label=name, show_label=False, columns=TOP_K, elem_classes="strip hits"
                )
                context.viewer.opens(strip.select)
                self.strips.append(strip)

    def run(self, baseline: str, engine: str, top_k: float, **panel: Any) -> Updates:
        """Compare the results for the query; without one, show what to do."""
        asked = Asked(**panel)
        if asked.nothing:
            return self._empty(HINT)
        try:
            with as_shown():
                index = self._searcher.indexes.get(asked.gallery or "")
                features, _, metric = str(baseline).partition(" ")
                if features not in index.features:  # but in the gallery that was shown before
                    features, metric = index.default_features, str(Metric.COSINE)
                chosen = Combination(features, one_of(Metric, metric), DEFAULT_ENGINE)
                shown_engine = checked_engine(engine)
                query = replace(asked.query(index), top_k=checked_top_k(top_k))
                comparison = compare(self._searcher, query, chosen, index=index, check=self._limits.check())
                self._thumbnails.serve(index)
                searched("compare", comparison.baseline.ranking, query.top_k)
        except gr.Error as error:
            return self._empty(str(error.message))
        cells = {cell.combination: cell for cell in comparison.cells}
        kept: Updates = {} if _value(features, metric) == baseline else {"value": _value(features, metric)}
        choices = _titled([row for row in self._rows if row[0] in index.features])
        details = " ".join(filter(None, [as_text(" ".join(comparison.notes)), NOTE, *_recall(comparison, index)]))
        note = f"**{headline(comparison, shown_engine)}**\n\n{details}"
        updates: Updates = {self.note: note, self.baseline: gr.Dropdown(choices=choices, **kept)}
        for row, line, figures, strip in zip(self._rows, self.lines, self.figures, self.strips, strict=True):
            updates[line] = gr.Row(visible=row[0] in index.features)
            shown = cells.get(Combination(*row, shown_engine))
            if shown is None:
                updates |= {figures: f"**{title(*row)}**\n\nOff: {index.text_needs}", strip: gr.Gallery(value=[])}
                continue
            lines = agreement(shown, is_baseline=shown is comparison.baseline)
            approximate = [cells[each] for name in _approximate() if (each := Combination(*row, name)) in cells]
            exact = cells.get(Combination(*row, DEFAULT_ENGINE), shown)
            lines += [missed for cell in approximate if (missed := _missed(cell, len(exact.ranking.hits)))]
            if reason := equal_by_mathematics(*row)[1]:
                lines.append(f"*{reason}*")
            updates[figures] = "<br>".join(lines)
            updates[strip] = lettered(index, shown.ranking, comparison.baseline.ranking)
        return updates

    def _empty(self, note: str) -> Updates:
        names = {figures: f"**{title(*row)}**" for row, figures in zip(self._rows, self.figures, strict=True)}
        return {self.note: note, **names, **{strip: gr.Gallery(value=[]) for strip in self.strips}}


def rows(features: Sequence[str]) -> list[tuple[str, Metric]]:
    """Return the feature types and metrics to compare, without metrics that give the same order as another one.

    The first two teach the most: the default feature type by cosine, and the simplest, usually raw pixels, by L2.
    """
    metrics = sorted(Metric, key=lambda metric: metric is not Metric.COSINE)
    found: list[tuple[str, Metric]] = []
    for name, metric in product(features, metrics):
        if not any((name, twin) in found for twin in equal_by_mathematics(name, metric)[0]):
            found.append((name, metric))
    first = [*product(features[:1], metrics[:1]), *product(lane_order(features)[:1], [Metric.L2])]
    return sorted(found, key=lambda row: first.index(row) if row in first else len(first))


def headline(comparison: Comparison, engine: str) -> str:
    """Return a sentence on how many of the baseline's results the others find, by feature type."""
    baseline = comparison.baseline.ranking
    shares: dict[str, list[int]] = {}
    for cell in comparison.cells:
        if cell is not comparison.baseline and cell.ranking.engine == engine:
            shares.setdefault(cell.ranking.features, []).append(sum(move is not None for move in cell.moves))
    same = shares.pop(baseline.features, [])
    parts = [f"{FEATURES[baseline.features].phrase} by other metrics find {_extent(same)}"] if same else []
    parts += [f"{FEATURES[name].phrase} find {_extent(found)}" for name, found in shares.items()]
    return f"Of the baseline's {len(baseline.hits)} results: {'; '.join(parts)}." if parts else ""


def _extent(counts: Sequence[int]) -> str:
    least, most = min(counts), max(counts)
    return f"{least or 'none'}" if least == most else f"{least} to {most}"


def title(features: str, metric: Metric) -> str:
    """Return the title of a row, such as "CLIP features · Cosine = L2"."""
    return " = ".join(
        [combination(features, metric), *(METRICS[twin] for twin in equal_by_mathematics(features, metric)[0])]
    )


def lettered(index: GalleryIndex, ranking: Ranking, baseline: Ranking) -> gr.Gallery:
    """Return an update that shows the hits of a ranking; those of the baseline, too, have its letters.

    The style sheet draws a letter at the beginning of a caption as a badge in a colour of its own.
    """
    letter = dict(zip(positions(baseline), LETTERS, strict=False))
    return strip_of(index, ranking, [f"{letter.get(hit.position, '')} {caption(hit)}".lstrip() for hit in ranking.hits])


def _value(features: str, metric: str) -> str:
    return f"{features} {metric}"


def _titled(shown: Sequence[tuple[str, Metric]]) -> list[tuple[str, str]]:
    return [(title(*row), _value(*row)) for row in shown]


def _approximate() -> list[str]:
    return [name for name, engine in ENGINES.items() if not engine.exact]


def _recall(comparison: Comparison, index: GalleryIndex) -> list[str]:
    """Return sentences on what approximate engines find of the exact results: for this query, and in general."""
    sentences = []
    for name in _approximate():
        shares = [cell.recall for cell in comparison.cells if cell.ranking.engine == name and cell.recall is not None]
        if shares:
            complete = sum(share == 1 for share in shares)
            where = "every row" if complete == len(shares) else f"{complete} of {len(shares)} rows"
            sentences.append(f"{ENGINES[name].title} finds all exact results in {where}.")
        if shares and (measured := index.recall(name)) and measured.figures:
            least, low = min(each.recall for each in measured.figures), min(each.low for each in measured.figures)
            sentences.append(f"Its lowest recall@{K} in this gallery is {least:.3f} (95 % interval from {low:.3f}).")
    return sentences


def _missed(cell: Cell, k: int) -> str:
    """Return what an approximate engine missed of the k exact results of a row; empty if nothing is known."""
    title = ENGINES[cell.ranking.engine].title
    missed = "" if cell.recall in (None, 1) else f"{title} finds {round(cell.recall * k)} of these {k}."
    return " ".join(filter(None, [missed, cell.ranking.engine_note]))


def agreement(shown: Cell, is_baseline: bool) -> list[str]:
    """Return how far the results shown agree with the baseline's."""
    features, metric = shown.ranking.features, shown.ranking.metric
    shared = sum(move is not None for move in shown.moves)
    lines = [f"**{title(features, metric)}**"]
    if is_baseline:
        lines.append("Baseline")
    elif shared:
        lines.append(f"{shared} of {len(shown.moves)} shared · order (τ) {shown.tau:.2f}")
    else:
        lines.append("None shared")  # without an image in common there are no two orders to compare
    return lines
