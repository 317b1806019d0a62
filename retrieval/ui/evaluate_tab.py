"""The Evaluate tab: how good each features x metric is by the gallery's labels, with progress, cancel and CSV."""

import tempfile
from collections.abc import Callable, Iterator
from functools import wraps
from pathlib import Path
from typing import Any

import gradio as gr

from retrieval import evaluation, words
from retrieval.evaluation import Result
from retrieval.evaluation_plot import as_picture, plot_results
from retrieval.features import Features
from retrieval.metrics import Metric
from retrieval.search import Searcher
from retrieval.ui.errors import as_shown
from retrieval.ui.query_panel import Asked, QueryPanel
from retrieval.ui.scripts import DARK

SAMPLE = 500  # queries by default: seconds on 2 cores
SAMPLE_MAX = evaluation.SAMPLE
COMBINATIONS = len(Features) * len(Metric)

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

    def __init__(self, searcher: Searcher, panel: QueryPanel) -> None:
        """Lay the tab out inside the Blocks that are being made, and wire it."""
        self._searcher = searcher
        gr.Markdown(words.EVALUATE_NOTE)
        self.sample = gr.Slider(50, SAMPLE_MAX, value=SAMPLE, step=50, label=words.SAMPLE, elem_id="sample")
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
        # A run is asked to stop and says so itself: gradio's `cancels` cuts it off, and what it has still on the way
        # to the page may come after "Stopped.", or break the run that is started next.
        running = gr.State([])
        private: dict[str, Any] = {"api_visibility": "private"}
        stop: dict[str, Any] = {"fn": list.clear, "inputs": running, "outputs": None, "queue": False, **private}
        starts: list[tuple[gr.Button, Callable[..., Iterator[Shown]], list[Any]]] = [
            (self.gallery_button, self.evaluate_gallery, [panel.gallery, self.sample]),
            (self.query_button, self.evaluate_query, panel.inputs),
        ]
        for button, run, inputs in starts:
            # One that is still under way ends first.
            button.click(**stop).then(
                run,
                [*inputs, running, dark],
                [self.state, self.table, self.plot, self.download, self.cancel],
                js=DARK,
                trigger_mode="multiple",
                show_progress="minimal",
                show_progress_on=self.state,
                concurrency_id="evaluate",
                concurrency_limit=1,
                **private,
            )
        self.cancel.click(**stop)

    @_worded
    def evaluate_gallery(self, gallery: str | None, sample: float, running: list[bool], dark: bool) -> Iterator[Shown]:
        """Yield the table as it grows, then the plot and the CSV; end where `running` is emptied."""
        index = self._searcher.indexes.get(gallery or "")
        queries = evaluation.leave_one_out(index, min(int(sample), SAMPLE_MAX))
        about = words.evaluated(index, len(queries.labels))
        yield from self._growing(evaluation.evaluate(index, queries), COMBINATIONS, about, "mAP", running, dark)

    @_worded
    def evaluate_query(self, *values: Any) -> Iterator[Shown]:
        """Yield the figures of the query on the left, if its label is known; end where `running` is emptied."""
        *panel, running, dark = values
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
        yield from self._growing(results, total, about, "AP", running, dark)

    def _growing(
        self, results: Iterator[Result], total: int, about: str, average: str, running: list[bool], dark: bool
    ) -> Iterator[Shown]:
        done: list[Result] = []
        running[:] = [True]
        yield (
            words.progress(about, 0, total),
            [],
            gr.Image(value=None, visible=False),
            gr.DownloadButton(visible=False),
            gr.Button(interactive=True),
        )
        for result in results:
            if not running:
                yield words.STOPPED, gr.skip(), gr.skip(), gr.skip(), gr.Button(interactive=False)
                return
            done.append(result)
            state = words.progress(about, len(done), total)
            yield state, words.evaluation_rows(done), gr.skip(), gr.skip(), gr.skip()
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
