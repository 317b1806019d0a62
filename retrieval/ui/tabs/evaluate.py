"""The Evaluate tab: how good each features x metric is by the gallery's labels, with progress, cancel and CSV."""

import tempfile
from collections.abc import Callable, Iterator
from functools import wraps
from pathlib import Path
from typing import Any

import gradio as gr

from retrieval.analysis import evaluation
from retrieval.analysis import sentences as words
from retrieval.analysis.evaluation import Result
from retrieval.features import FEATURES
from retrieval.metrics import Metric
from retrieval.search.searcher import Searcher
from retrieval.ui.errors import as_shown
from retrieval.ui.query_panel import Asked, QueryPanel
from retrieval.ui.serving.limits import LONG, Limits
from retrieval.ui.tabs.stopping import NOW, Stopped, Stops, ended, over

SAMPLE = 500  # queries by default: seconds on 2 cores
COMBINATIONS = len(FEATURES) * len(Metric)

STARTED = f"""(...values) => [...values.slice(0, -2), {NOW}, document.body.classList.contains("dark")]"""

Shown = tuple[Any, ...]  # state, table, plot, CSV and Cancel


def _worded(run: Callable[..., Iterator[Shown]]) -> Callable[..., Iterator[Shown]]:
    """Let a run say what went wrong in a toast and in words; raised, it would lie as "Error" over everything."""

    @wraps(run)
    def worded(*values: Any) -> Iterator[Shown]:
        try:
            with as_shown():
                yield from run(*values)
        except gr.Error as error:
            gr.Warning(str(error.message))
            yield str(error.message), gr.skip(), gr.skip(), gr.skip(), gr.Button(interactive=False)

    return worded


class EvaluateTab:
    """Leave-one-out over a sample of the gallery, and the figures of the query on the left."""

    def __init__(self, searcher: Searcher, panel: QueryPanel, limits: Limits) -> None:
        """Lay the tab out inside the Blocks that are being made, and wire it."""
        self._searcher = searcher
        self._limits = limits
        gr.Markdown(words.EVALUATE_NOTE)
        self.sample = gr.Slider(50, limits.sample, value=SAMPLE, step=50, label=words.SAMPLE, elem_id="sample")
        with gr.Row():
            self.gallery_button = gr.Button(words.EVALUATE, variant="primary", elem_id="evaluate")
            self.query_button = gr.Button(words.EVALUATE_QUERY, elem_id="evaluate_query")
            self.cancel = gr.Button(words.CANCEL, elem_id="cancel", interactive=False)
        self.state = gr.Markdown(elem_id="evaluate_state")
        self.table = gr.Dataframe(
            headers=words.EVALUATION_COLUMNS,
            interactive=False,
            label=words.FIGURES,
            elem_id="figures",
            wrap=True,
            max_height=720,
            column_widths=["26%", "25%", "16%", "16%", "17%"],
        )
        self.plot = gr.Image(  # gr.Plot has no alternative text
            label=words.FIGURES,
            show_label=False,
            format="png",
            interactive=False,
            buttons=[],
            elem_id="figures_plot",
            visible=False,
        )
        self.download = gr.DownloadButton(words.DOWNLOAD, visible=False, elem_id="csv")
        self._wire(panel)

    def _wire(self, panel: QueryPanel) -> None:
        dark = gr.Checkbox(visible=False)  # set by the page itself
        stops = Stops()
        starts: list[tuple[gr.Button, Callable[..., Iterator[Shown]], list[Any]]] = [
            (self.gallery_button, self.evaluate_gallery, [panel.gallery, self.sample]),
            (self.query_button, self.evaluate_query, panel.inputs),
        ]
        for button, run, inputs in starts:
            # One that is still under way ends first.
            button.click(**stops.event).then(
                run,
                [*inputs, stops.stopped, stops.now, dark],
                [self.state, self.table, self.plot, self.download, self.cancel],
                js=STARTED,
                trigger_mode="multiple",
                show_progress="minimal",
                show_progress_on=self.state,
                api_visibility="private",
                **LONG,
            )
        self.cancel.click(**stops.event)

    @_worded
    def evaluate_gallery(
        self, gallery: str | None, sample: float, stopped: Stopped, began: float, dark: bool
    ) -> Iterator[Shown]:
        """Yield the table as it grows, then the plot and the CSV; end when the visitor stops it."""
        index = self._searcher.indexes.get(gallery or "")
        queries = evaluation.leave_one_out(index, min(int(sample), self._limits.sample))
        about = words.evaluated(index, len(queries.labels))
        yield from self._growing(evaluation.evaluate(index, queries), COMBINATIONS, about, "mAP", stopped, began, dark)

    @_worded
    def evaluate_query(self, *values: Any) -> Iterator[Shown]:
        """Yield the figures of the query on the left, if its label is known; end when the visitor stops it."""
        *panel, stopped, began, dark = values
        asked = Asked(*panel)
        index = self._searcher.indexes.get(asked.gallery or "")
        query = asked.query(index)
        if query.position is None:
            yield words.NO_LABEL, gr.skip(), gr.skip(), gr.skip(), gr.skip()
            return
        entry = index.entry(query.position)
        results = evaluation.average_precision_of(index, self._searcher.embedder, query, entry.label)
        about = words.evaluated_query(words.name_of(entry), entry.label)
        total = len(Metric) if query.text or query.without else COMBINATIONS
        yield from self._growing(results, total, about, "AP", stopped, began, dark)

    def _growing(
        self,
        results: Iterator[Result],
        total: int,
        about: str,
        average: str,
        stopped: Stopped,
        began: float,
        dark: bool,
    ) -> Iterator[Shown]:
        done: list[Result] = []
        deadline = self._limits.deadline()
        if ended(stopped, began):
            yield (gr.skip(),) * 5
            return
        yield (
            words.progress(about, 0, total),
            [],
            gr.Image(value=None, visible=False),
            gr.DownloadButton(visible=False),
            gr.Button(interactive=True),
        )
        for result in results:
            if why := over(stopped, began, deadline):
                yield why, gr.skip(), gr.skip(), gr.skip(), gr.Button(interactive=False)
                return
            done.append(result)
            state = words.progress(about, len(done), total)
            yield state, words.evaluation_rows(done), gr.skip(), gr.skip(), gr.skip()
        # Imported here: it brings matplotlib, which the page starts without.
        from retrieval.analysis.evaluation_plot import as_picture, plot_results

        best = words.best(done, average)
        with tempfile.TemporaryDirectory(prefix="evaluation-") as folder:  # gradio keeps a copy of its own
            path = Path(folder) / "evaluation.csv"
            path.write_text(evaluation.to_csv(done), encoding="utf-8")
            yield (
                f"{about} {best}",
                words.evaluation_rows(done),
                gr.Image(value=as_picture(plot_results(done, dark, average)), alt_text=best, visible=True),
                gr.DownloadButton(value=str(path), visible=True),
                gr.Button(interactive=False),
            )
