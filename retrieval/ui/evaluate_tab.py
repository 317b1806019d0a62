"""The Evaluate tab: how good each features x metric is by the gallery's labels, with progress, cancel and CSV."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from retrieval import evaluation, words
from retrieval.evaluation import Result
from retrieval.evaluation_plot import plot_results
from retrieval.features import Features
from retrieval.metrics import Metric
from retrieval.search import Searcher
from retrieval.ui.errors import as_shown
from retrieval.ui.query_panel import Asked, QueryPanel

SAMPLE = 500  # queries by default: seconds on 2 cores
SAMPLE_MAX = evaluation.SAMPLE
COMBINATIONS = len(Features) * len(Metric)


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
        )
        self.plot = gr.Plot(label=words.FIGURES, show_label=False, elem_id="figures_plot", visible=False)
        self.download = gr.DownloadButton(words.DOWNLOAD, visible=False, elem_id="csv")
        outputs = [self.state, self.table, self.plot, self.download, self.cancel]
        quiet: dict[str, Any] = {
            "api_visibility": "private",
            "show_progress": "minimal",
            "show_progress_on": self.state,
        }
        alone: dict[str, Any] = {"concurrency_id": "evaluate", "concurrency_limit": 1}
        running: list[Any] = [
            self.gallery_button.click(self.evaluate_gallery, [panel.gallery, self.sample], outputs, **quiet, **alone),
            self.query_button.click(self.evaluate_query, panel.inputs, outputs, **quiet, **alone),
        ]
        self.cancel.click(self.stopped, None, [self.state, self.cancel], cancels=running, **quiet)

    def evaluate_gallery(self, gallery: str | None, sample: float) -> Iterator[tuple[Any, ...]]:
        """Yield the table as it grows, then the plot and the CSV."""
        with as_shown():
            index = self._searcher.indexes.get(gallery or "")
            queries = evaluation.leave_one_out(index, min(int(sample), SAMPLE_MAX))
            about = words.evaluated(index, len(queries.labels))
            yield from self._growing(evaluation.evaluate(index, queries), COMBINATIONS, about, "mAP")

    def evaluate_query(self, *values: Any) -> Iterator[tuple[Any, ...]]:
        """Yield the figures of the query on the left, if its label is known."""
        asked = Asked(*values)
        with as_shown():
            index = self._searcher.indexes.get(asked.gallery or "")
            query = asked.query(index)
            if query.position is None:
                yield words.NO_LABEL, gr.skip(), gr.skip(), gr.skip(), gr.skip()
                return
            entry = index.entry(query.position)
            results = evaluation.average_precision_of(index, self._searcher.embedder, query, entry.label)
            about = words.evaluated_query(words.name_of(entry), entry.label)
            total = len(Metric) if query.text or query.without else COMBINATIONS
            yield from self._growing(results, total, about, "AP")

    def stopped(self) -> tuple[str, gr.Button]:
        """Say that the evaluation was stopped; what was computed so far stays."""
        return words.STOPPED, gr.Button(interactive=False)

    def _growing(self, results: Iterator[Result], total: int, about: str, average: str) -> Iterator[tuple[Any, ...]]:
        done: list[Result] = []
        yield words.progress(about, 0, total), [], gr.Plot(visible=False), gr.skip(), gr.Button(interactive=True)
        for result in results:
            done.append(result)
            state = words.progress(about, len(done), total)
            yield state, words.evaluation_rows(done), gr.skip(), gr.skip(), gr.skip()
        with tempfile.TemporaryDirectory(prefix="evaluation-") as folder:  # gradio keeps a copy of its own
            path = Path(folder) / "evaluation.csv"
            path.write_text(evaluation.to_csv(done), encoding="utf-8")
            yield (
                about,
                words.evaluation_rows(done),
                gr.Plot(value=plot_results(done, average=average), visible=True),
                gr.DownloadButton(value=str(path), visible=True),
                gr.Button(interactive=False),
            )
