"""The Evaluate tab: how well each feature type x metric finds images with the label of the query."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any

import gradio as gr
from typing_extensions import override

from retrieval.analysis import pareto
from retrieval.analysis.evaluation import Evaluation, Result, of_query
from retrieval.analysis.explanation import name_of
from retrieval.analysis.export import save
from retrieval.analysis.leaderboard import Leaderboard, Row, leaderboard
from retrieval.analysis.queries import leave_one_out
from retrieval.analysis.results import sentences, shown_measures
from retrieval.metrics import Metric
from retrieval.ui.arguments import SAMPLE
from retrieval.ui.controls import QUIET, as_text, cancel_button, figures_plot, figures_table
from retrieval.ui.errors import as_shown, warn
from retrieval.ui.query_panel import SKIP, Asked, QueryPanel, Updates
from retrieval.ui.serving.limits import LONG
from retrieval.ui.tabs.stopping import NOW, Job, Stopped, Stops
from retrieval.ui.tabs.tab import Tab, TabContext
from retrieval.ui.tabs.vector_lab import VectorLab

NOTE = (
    "Each image of a sample searches the rest of the gallery; a result with the same label is correct. "
    "**P@k**: share of the first k results that are correct. **mAP**: mean over all queries of the average precision. "
    "Brackets are 95 % intervals. Configurations that cannot be distinguished share a place."
)
NO_LABEL = (
    "This needs an image whose label is known. Open a result in the Search tab and choose **Search with this**, then "
    "come back."
)
LEAST = 50  # images in a sample
COLUMNS = ["Place", "Configuration", "P@1", "P@5", "mAP or AP"]
# File of an evaluation -> the button that downloads it.
DOWNLOADS = {
    "leaderboard.csv": "Download as CSV",
    "results.json": "Download results.json",
    "report.html": "Download report",
    "pareto.csv": "Download times as CSV",
}

# The last three inputs are the times of the job and whether the page is dark.
STARTED = f"""(...values) => [...values.slice(0, -2), {NOW}, document.body.classList.contains("dark")]"""


@dataclass(frozen=True)
class Evaluated:
    """A sentence about what is evaluated, and whether times are measured too."""

    about: str
    timed: bool
    evaluation: Evaluation

    def progress(self) -> str:
        """Return a sentence with how many results are done."""
        total = len(self.evaluation.queries.vectors) * len(Metric)
        return f"{self.about} {len(self.evaluation.results)} of {total} combinations ..."


def _warned(run: Callable[..., Iterator[Updates]]) -> Callable[..., Iterator[Updates]]:
    """Let a job of the tab show its error as a toast and in the state, without the results of an earlier job."""

    @wraps(run)
    def warned(tab: "EvaluateTab", *values: Any, **named: Any) -> Iterator[Updates]:
        try:
            with as_shown():
                yield from run(tab, *values, **named)
        except gr.Error as error:
            yield tab.cleared(warn(error), running=False)

    return warned


class EvaluateTab(Tab):
    """Leave-one-out over a sample of the gallery, and the figures of the panel's query."""

    title = "Evaluate"

    @override
    def __init__(self, context: TabContext, tab: gr.Tab) -> None:
        super().__init__(context, tab)
        gr.Markdown(NOTE)
        self.sample = gr.Slider(LEAST, self._limits.sample, value=SAMPLE, step=1, label="Sample", elem_id="sample")
        with gr.Row():
            self.gallery_button = gr.Button("Evaluate the gallery", variant="primary", elem_id="evaluate")
            self.query_button = gr.Button("Evaluate this query", elem_id="evaluate_query")
            self.cancel = cancel_button("cancel")
        self.state = gr.Markdown(elem_id="evaluate_state")
        widths: list[str | int] = ["8%", "29%", "21%", "21%", "21%"]
        self.table = figures_table(COLUMNS, "Figures", "figures", max_height=900, column_widths=widths, visible=False)
        self.plot = figures_plot("Figures", "figures_plot")
        self.costs = figures_plot("Quality and time", "costs_plot")
        with gr.Row():
            self.downloads = {
                name: gr.DownloadButton(text, visible=False, elem_id=name.replace(".", "_"))
                for name, text in DOWNLOADS.items()
            }
        VectorLab(context)
        self._wire(context.panel)
        gallery = context.panel.gallery
        tab.select(self.limit_sample, [gallery, self.sample], self.sample, **QUIET)
        gallery.change(self.limit_sample, gallery, self.sample, **QUIET)

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
                outputs=[self.state, self.table, self.plot, self.costs, *self.downloads.values(), self.cancel],
                js=STARTED,
                trigger_mode="multiple",
                show_progress="minimal",
                show_progress_on=self.state,
                api_visibility="private",
                **LONG,
            )
        self.cancel.click(**stops.event)

    def limit_sample(self, gallery: str | None, sample: float = SAMPLE) -> gr.Slider:
        """Limit a sample to the gallery, and hide its slider for a gallery that is always evaluated as a whole."""
        with as_shown():
            size = len(self._searcher.indexes.get(gallery or ""))
        most = min(size, self._limits.sample)
        label = f"Images in the sample (of {size:,})"
        return gr.Slider(
            maximum=max(most, LEAST + 1), value=min(sample, max(most, LEAST)), label=label, visible=most > LEAST
        )

    def cleared(self, state: str, running: bool) -> Updates:
        """Return updates that show a sentence and no results."""
        return {
            self.state: state,
            self.table: gr.Dataframe(value=[], visible=running),
            self.plot: gr.Image(value=None, visible=False),
            self.costs: gr.Image(value=None, visible=False),
            **{button: gr.DownloadButton(visible=False) for button in self.downloads.values()},
            self.cancel: gr.Button(interactive=running),
        }

    @_warned
    def evaluate_gallery(
        self, gallery: str | None, sample: float, stopped: Stopped, began: float, dark: bool
    ) -> Iterator[Updates]:
        """Yield the table as it fills, then the plots and the downloads; end when the visitor stops it."""
        index = self._searcher.indexes.get(gallery or "")
        queries = leave_one_out(index, min(int(sample), self._limits.sample))
        about = as_text(f"{index.manifest.gallery}: {queries.about}, exact scan.")
        job = Job(stopped, began, self._limits.deadline())
        yield from self._growing(Evaluated(about, True, Evaluation(index, queries)), job, dark)

    @_warned
    def evaluate_query(self, stopped: Stopped, began: float, dark: bool, **panel: Any) -> Iterator[Updates]:
        """Yield the figures of the panel's query if its label is known; end when the visitor stops it."""
        asked = Asked(**panel)
        index = self._searcher.indexes.get(asked.gallery or "")
        query = asked.query(index)
        if query.position is None:
            yield self.cleared(NO_LABEL, running=False)
            return
        entry = index.entry(query.position)
        evaluation = of_query(index, self._searcher.embedder, query, entry.label)
        name, label = as_text(name_of(entry)), as_text(entry.label)
        about = f"Query {name}, label {label}: the whole gallery ranked by the exact scan."
        job = Job(stopped, began, self._limits.deadline())
        yield from self._growing(Evaluated(about, False, evaluation), job, dark)

    def _growing(self, asked: Evaluated, job: Job, dark: bool) -> Iterator[Updates]:
        if job.ended():
            yield SKIP
            return
        evaluation = asked.evaluation
        yield self.cleared(asked.progress(), running=True)
        for _ in evaluation.run():
            if why := job.over():
                yield {self.state: why, self.cancel: gr.Button(interactive=False)}
                return
            yield {self.state: asked.progress(), self.table: _shown([_row(each) for each in evaluation.results])}
        board = leaderboard(evaluation)
        costs = pareto.costs(board, self._searcher.embedder) if asked.timed and not job.over() else []
        with tempfile.TemporaryDirectory(prefix="evaluation-") as folder:  # gradio keeps copies of its own
            written = save(board, Path(folder), costs=costs)
            yield self._finished(asked.about, board, costs, dark) | self._offered(written)

    def _offered(self, written: Sequence[Path]) -> Updates:
        files = {path.name: path for path in written}
        return {
            button: gr.DownloadButton(value=str(files[name]), visible=True)
            for name, button in self.downloads.items()
            if name in files
        }

    def _finished(self, about: str, board: Leaderboard, costs: list[pareto.Cost], dark: bool) -> Updates:
        # Imported here: it brings matplotlib, which the page starts without.
        from retrieval.analysis.plots import as_picture, plot_costs, plot_results

        updates: Updates = {
            self.state: _summary(about, board),
            self.table: _shown([_placed(row) for row in board.rows]),
            self.plot: gr.Image(value=as_picture(plot_results(board, dark)), alt_text=board.verdict, visible=True),
            self.cancel: gr.Button(interactive=False),
        }
        if costs:
            drawn, said = as_picture(plot_costs(costs, dark)), pareto.sentence(costs)
            updates[self.costs] = gr.Image(value=drawn, alt_text=said, visible=True)
        return updates


def _summary(about: str, board: Leaderboard) -> str:
    """Return the verdict, what was evaluated, and the details, folded, as Markdown."""
    said = [as_text(each) for each in sentences(board)]
    first = [f"**{said.pop(0)}**"] if board.verdict else []
    details = [f"- {each}" for each in said]
    opened = "<details><summary>How far these figures can be trusted</summary>"
    return "\n\n".join([*first, about, opened, "\n".join(details), "</details>"])


def _shown(rows: list[list[str]]) -> gr.Dataframe:
    # Each answer shows the table: if the first one comes at the same moment as the next, the page can lose it.
    return gr.Dataframe(value=rows, visible=True)


def _row(result: Result) -> list[str]:
    """Return the row of a result that has no place yet."""
    values = (result.mean(name) for name in shown_measures(result.names))
    return ["", result.title, *("" if value is None else f"{value:.3f}" for value in values)]


def _placed(row: Row) -> list[str]:
    return [str(row.place), row.result.title, *(str(row.figures[name]) for name in shown_measures(row.result.names))]
