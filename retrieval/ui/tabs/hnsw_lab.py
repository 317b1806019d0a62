"""The HNSW lab of the Compare tab: what the parameters of a graph do to recall and time, on images of the gallery."""

from typing import Any

import gradio as gr

from retrieval.analysis.explanation import combination
from retrieval.engines.choice import about_recall
from retrieval.engines.chroma import ChromaEngine
from retrieval.engines.chroma_lab import CONSTRUCTION, NEIGHBOURS, SAMPLE, Graph, measure_graph, sample_of
from retrieval.errors import QueryError
from retrieval.metrics import Metric
from retrieval.search.validation import checked_features, one_of
from retrieval.ui.controls import PRIVATE, FeaturesDropdown, figures_plot, metric_choice
from retrieval.ui.errors import as_shown, warn
from retrieval.ui.query_panel import Updates
from retrieval.ui.serving.limits import LONG
from retrieval.ui.tabs.tab import TabContext

NOTE = (
    "ChromaDB links each image to some of its neighbours, and a search follows the links. More links and a more "
    "careful construction make a better graph; a larger ef_search follows more links. All of them cost time. This "
    f"builds a graph of at most {SAMPLE:,} images of the gallery, in a separate folder, so no search is affected."
)
# The last input is whether the page is dark.
DARK = """(...values) => [...values.slice(0, -1), document.body.classList.contains("dark")]"""


class HnswLab:
    """A collapsible section with the parameters of a graph and its curve."""

    def __init__(self, context: TabContext) -> None:
        """Add the section to the current container."""
        self._indexes = context.searcher.indexes
        self._limits = context.limits
        names = list(context.features)
        with gr.Accordion("HNSW lab: recall and time of ChromaDB's graph", open=False, elem_id="hnsw_lab"):
            gr.Markdown(NOTE)
            with gr.Row():
                features = FeaturesDropdown(
                    names, value=names[0] if names else None, label="Features", elem_id="lab_features", min_width=160
                )
                metric = metric_choice(gr.Dropdown, "lab_metric", min_width=160)
                neighbours = gr.Dropdown(
                    list(NEIGHBOURS), value=16, label="Links per image (max_neighbors)", elem_id="lab_neighbours"
                )
                construction = gr.Dropdown(
                    list(CONSTRUCTION),
                    value=100,
                    label="Candidates during construction (ef_construction)",
                    elem_id="lab_construction",
                )
            button = gr.Button("Build a graph", elem_id="lab_build")
            self.state = gr.Markdown(elem_id="lab_state")
            self.plot = figures_plot("Recall and time of a graph by ef_search", "lab_plot")
        dark = gr.Checkbox(visible=False)  # set by the script
        asked = {"features": features, "metric": metric, "neighbours": neighbours, "construction": construction}
        button.click(
            self.run,
            inputs_kwargs={"gallery": context.panel.gallery, **asked, "dark": dark},
            outputs=[self.state, self.plot],
            js=DARK,
            show_progress_on=self.state,
            **LONG,
            **PRIVATE,
        )

    def run(
        self, gallery: str | None, features: Any, metric: Any, neighbours: Any, construction: Any, dark: bool
    ) -> Updates:
        """Build a graph of a sample of the gallery, and draw its recall and time for each `ef_search`."""
        try:
            with as_shown():
                index = self._indexes.get(gallery or "")
                name, by = checked_features(features), one_of(Metric, metric)
                index.vectors(name)
                if neighbours not in NEIGHBOURS or construction not in CONSTRUCTION:
                    raise QueryError("Choose one of the values in the lists.")
                sample = sample_of(index.in_folder, name)
                curve = measure_graph(sample, by, Graph(neighbours, construction), self._limits.check())
        except gr.Error as error:
            return {self.state: warn(error), self.plot: gr.Image(visible=False)}
        if not curve:
            return {self.state: "The gallery has too few images.", self.plot: gr.Image(visible=False)}
        from retrieval.analysis.plots import plot_graphs  # with matplotlib, which the page starts without

        measured = index.recall(ChromaEngine.name)
        built = [each for each in measured.curve if (each.features, each.metric) == (name, by)] if measured else []
        best = max(curve, key=lambda point: (point.recall, -point.ms))
        whole = about_recall(ChromaEngine.name, index, (name, by))
        text = (
            f"{combination(name, by)}: a graph of {len(sample):,} images finds at most {best.recall:.3f} of the "
            f"10 closest, with ef_search {best.ef_search}. ChromaDB as built: {whole}."
        )
        titles = {f"{len(sample):,} images, this graph": curve, f"{len(index):,} images, as built": tuple(built)}
        drawn = plot_graphs({title: each for title, each in titles.items() if each}, bool(dark))
        return {self.state: text, self.plot: gr.Image(value=drawn, alt_text=text, visible=True)}
