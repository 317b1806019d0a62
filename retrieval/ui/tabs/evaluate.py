"""The Evaluate tab: how well each feature type x metric finds images with the label of the query."""

import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any

import gradio as gr
from typing_extensions import override

from retrieval.analysis import evaluation
from retrieval.analysis.evaluation import Result
from retrieval.analysis.explanation import listed, name_of
from retrieval.features import FEATURES, default_first
from retrieval.labels import METRICS
from retrieval.metrics import Metric
from retrieval.ui.controls import cancel_button, figures_plot, figures_table
from retrieval.ui.errors import as_shown, warn
from retrieval.ui.query_panel import SKIP, Asked, QueryPanel, Updates
from retrieval.ui.serving.limits import LONG
from retrieval.ui.tabs.stopping import NOW, Job, Stopped, Stops
from retrieval.ui.tabs.tab import Tab, TabContext

SAMPLE = 500  # queries by default, which take seconds on 2 cores

NOTE = (
    "Each image of a sample searches the rest of the gallery; a result with the same label is correct. "
    "**P@k**: share of the first k results that are correct. **mAP**: mean over all queries of the average precision."
)
NO_LABEL = "This needs an image whose label is known. Click a result in the Search tab, then come back."
COLUMNS = ["Features", "Metric", "P@1", "P@5", "mAP or AP"]

# The last three inputs are the times of the job and whether the page is dark.
STARTED = f"""(...values) => [...values.slice(0, -2), {NOW}, document.body.classList.contains("dark")]"""


@dataclass(frozen=True)
class Evaluation:
    """What is evaluated: a sentence about it, the number of results, and the name of `Result.map`."""

    about: str
    total: int
    average: str

    def progress(self, done: int) -> str:
        """Return a sentence with how many results are done."""
        return f"{self.about} {done} of {self.total} combinations ..."


def _warned(run: Callable[..., Iterator[Updates]]) -> Callable[..., Iterator[Updates]]:
    """Let a job of the tab show its error as a toast and in the state."""

    @wraps(run)
    def warned(tab: "EvaluateTab", *values: Any, **named: Any) -> Iterator[Updates]:
        try:
            with as_shown():
                yield from run(tab, *values, **named)
        except gr.Error as error:
            yield {tab.state: warn(error), tab.cancel: gr.Button(interactive=False)}

    return warned


class EvaluateTab(Tab):
    """Leave-one-out over a sample of the gallery, and the figures of the panel's query."""

    title = "Evaluate"

    @override
    def __init__(self, context: TabContext, tab: gr.Tab) -> None:
        super().__init__(context, tab)
        gr.Markdown(NOTE)
        most = self._limits.sample
        self.sample = gr.Slider(50, most, value=SAMPLE, step=50, label="Images in the sample", elem_id="sample")
        with gr.Row():
            self.gallery_button = gr.Button("Evaluate the gallery", variant="primary", elem_id="evaluate")
            self.query_button = gr.Button("Evaluate this query", elem_id="evaluate_query")
            self.cancel = cancel_button("cancel")
        self.state = gr.Markdown(elem_id="evaluate_state")
        widths: list[str | int] = ["26%", "25%", "16%", "16%", "17%"]
        self.table = figures_table(COLUMNS, "Figures", "figures", max_height=720, column_widths=widths)
        self.plot = figures_plot("Figures", "figures_plot")
        self.download = gr.DownloadButton("Download as CSV", visible=False, elem_id="csv")
        self._wire(context.panel)

    def _wire(self, panel: QueryPanel) -> None:
        dark = gr.Checkbox(visible=False)  # set by the script
        stops = Stops()
        starts: list[tuple[gr.Button, Callable[..., Iterator[Updates]], dict[str, Any]]] = [
            (self.gallery_button, self.evaluate_gallery, {"gallery": panel.gallery, "sample": self.sample}),
            (self.query_button, self.evaluate_query, panel.inputs),
        ]
        for button, run, inputs in starts:
            # The first event stops a job that is still running.
            button.click(**stops.event).then(
                run,
                inputs_kwargs={**inputs, **stops.inputs, "dark": dark},
                outputs=[self.state, self.table, self.plot, self.download, self.cancel],
                js=STARTED,
                trigger_mode="multiple",
                show_progress="minimal",
                show_progress_on=self.state,
                api_visibility="private",
                **LONG,
            )
        self.cancel.click(**stops.event)

    @_warned
    def evaluate_gallery(
        self, gallery: str | None, sample: float, stopped: Stopped, began: float, dark: bool
    ) -> Iterator[Updates]:
        """Yield the table as it fills, then the plot and the CSV; end when the visitor stops it."""
        index = self._searcher.indexes.get(gallery or "")
        queries = evaluation.leave_one_out(index, min(int(sample), self._limits.sample))
        count, size = len(queries.labels), len(index)
        about = f"{index.manifest.gallery}: leave-one-out over {count:,} of {size:,} images, exact scan."
        asked = Evaluation(about, len(index.features) * len(Metric), "mAP")
        job = Job(stopped, began, self._limits.deadline())
        yield from self._growing(evaluation.evaluate(index, queries), asked, job, dark)

    @_warned
    def evaluate_query(self, stopped: Stopped, began: float, dark: bool, **panel: Any) -> Iterator[Updates]:
        """Yield the figures of the panel's query if its label is known; end when the visitor stops it."""
        asked = Asked(**panel)
        index = self._searcher.indexes.get(asked.gallery or "")
        query = asked.query(index)
        if query.position is None:
            yield {self.state: NO_LABEL}
            return
        entry = index.entry(query.position)
        results = evaluation.average_precision_of(index, self._searcher.embedder, query, entry.label)
        used = [name for name in index.features if FEATURES[name].takes_text or not (query.text or query.without)]
        name, label = _as_text(name_of(entry)), _as_text(entry.label)
        about = f"Query {name}, label {label}: the whole gallery ranked by the exact scan."
        job = Job(stopped, began, self._limits.deadline())
        yield from self._growing(results, Evaluation(about, len(used) * len(Metric), "AP"), job, dark)

    def _growing(self, results: Iterator[Result], asked: Evaluation, job: Job, dark: bool) -> Iterator[Updates]:
        done: list[Result] = []
        if job.ended():
            yield SKIP
            return
        yield {
            self.state: asked.progress(0),
            self.table: [],
            self.plot: gr.Image(value=None, visible=False),
            self.download: gr.DownloadButton(visible=False),
            self.cancel: gr.Button(interactive=True),
        }
        for result in results:
            if why := job.over():
                yield {self.state: why, self.cancel: gr.Button(interactive=False)}
                return
            done.append(result)
            yield {self.state: asked.progress(len(done)), self.table: rows(done)}
        # Imported here: it brings matplotlib, which the page starts without.
        from retrieval.analysis.plots import as_picture, plot_results

        sentence = best(done, asked.average)
        drawn = as_picture(plot_results(done, dark, asked.average))
        with tempfile.TemporaryDirectory(prefix="evaluation-") as folder:  # gradio keeps a copy of its own
            path = Path(folder) / "evaluation.csv"
            path.write_text(evaluation.to_csv(done), encoding="utf-8")
            yield {
                self.state: f"{asked.about} {sentence}",
                self.table: rows(done),
                self.plot: gr.Image(value=drawn, alt_text=sentence, visible=True),
                self.download: gr.DownloadButton(value=str(path), visible=True),
                self.cancel: gr.Button(interactive=False),
            }


def _as_text(text: str) -> str:
    """Escape the signs in a text from a dataset, so that Markdown neither formats, links nor loads anything."""
    return re.sub(r"([^\w\s])", lambda sign: f"&#{ord(sign[0])};", text)


def rows(results: Sequence[Result]) -> list[list[str]]:
    """Return the table of an evaluation, with three decimals."""

    def row(of: Result) -> list[str]:
        average = "" if of.map is None else f"{of.map:.3f}"
        return [FEATURES[of.features].title, METRICS[of.metric], f"{of.p_at_1:.3f}", f"{of.p_at_5:.3f}", average]

    return [row(each) for each in results]


def best(results: Sequence[Result], average: str) -> str:
    """Return a sentence on the best metrics of each feature type by the rounded figures; empty if there are none."""
    parts = list[str]()
    for features in default_first():
        shown = {METRICS[r.metric]: f"{r.map:.3f}" for r in results if r.features == features and r.map is not None}
        if shown:
            top = max(shown.values())
            metrics = listed([metric for metric in shown if shown[metric] == top])
            parts.append(f"{top} by {FEATURES[features].phrase} with {metrics}")
    return f"Highest {average}: {'; '.join(sorted(parts, reverse=True))}." if parts else ""
