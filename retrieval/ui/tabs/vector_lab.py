"""The vector lab on the Evaluate tab: change the vectors of the gallery, and see what that does to its figures."""

from collections.abc import Sequence
from typing import Any

import gradio as gr

from retrieval.analysis.vector_lab import CHANGES, OVERLAP, SHOWN, Change, Experiment, Fusion, Outcome, run, title
from retrieval.features import FEATURES, default_first
from retrieval.metrics import Metric
from retrieval.search.validation import checked_balance, checked_dimensions, checked_features, one_of
from retrieval.ui.controls import QUIET, FeaturesDropdown, figures_table, metric_choice
from retrieval.ui.errors import as_shown, warn
from retrieval.ui.query_panel import Updates
from retrieval.ui.tabs.tab import TabContext, run_on

ABOUT = (
    "What happens to the results if vectors are centred, whitened, shortened or rounded, or if two feature types are "
    "combined? "
    "The figures are those of leave-one-out over at most 2,000 images of this gallery."
)
COLUMNS = ["", *SHOWN, f"first {OVERLAP} kept", "bytes per image"]
NOTHING = "(none)"
FUSIONS = [("by weights: one vector of both", str(Fusion.WEIGHTS)), ("by ranks", str(Fusion.RANKS))]


class VectorLab:
    """A collapsible section; its experiments run when a setting changes."""

    def __init__(self, context: TabContext) -> None:
        self._searcher = context.searcher
        with gr.Accordion("Vector lab", open=False, elem_id="lab") as lab:
            gr.Markdown(ABOUT)
            with gr.Row():
                names = default_first(context.shown)
                self.features = FeaturesDropdown(
                    _titled(names), value=names[0] if names else None, label="Features", elem_id="lab_features"
                )
                changes = [(text, str(change)) for change, text in CHANGES.items()]
                self.change = gr.Dropdown(changes, value=str(Change.CENTRED), label="Change", elem_id="lab_change")
                self.metric = metric_choice(gr.Dropdown, "lab_metric")
            with gr.Row():
                self.other = FeaturesDropdown(
                    [(NOTHING, ""), *_titled(names)], value="", label="Together with", elem_id="lab_other"
                )
                self.fusion = gr.Dropdown(FUSIONS, value=str(Fusion.WEIGHTS), label="Combined", elem_id="lab_fusion")
                weight = "Weight of the second (0: only the first)"
                self.weight = gr.Slider(0, 1, value=0.5, step=0.05, label=weight, elem_id="lab_weight")
                numbers = "Numbers to keep when whitened or truncated (0: all)"
                self.dimensions = gr.Slider(0, 512, value=0, step=8, label=numbers, elem_id="lab_dimensions")
            self.state = gr.Markdown(elem_id="lab_state")
            self.table = figures_table(COLUMNS, "Before and after", "lab_table")
        self._wire(context, lab)

    def _wire(self, context: TabContext, lab: gr.Accordion) -> None:
        settings: dict[str, Any] = {
            "features": self.features,
            "change": self.change,
            "metric": self.metric,
            "other": self.other,
            "fusion": self.fusion,
            "weight": self.weight,
            "dimensions": self.dimensions,
        }
        chosen = [each.input for each in (self.features, self.change, self.metric, self.other, self.fusion)]
        moved = [self.weight.release, self.dimensions.release]
        event = run_on(
            self.run,
            [context.panel.renewed.change, *chosen, *moved],
            "lab_state",
            inputs_kwargs={"gallery": context.panel.gallery, **settings},
            outputs=[self.features, self.other, self.state, self.table],
            **QUIET,
        )
        lab.expand(**event)

    def run(self, gallery: str | None, **settings: Any) -> Updates:
        """Return the figures before and after; an error takes their place."""
        try:
            with as_shown():
                index = self._searcher.indexes.get(gallery or "")
                names = default_first(index.features)
                asked = _experiment(settings, names)
                outcome = run(index, asked)
        except gr.Error as error:
            return {self.state: warn(error), self.table: []}
        chosen: dict[str, Any] = {"value": asked.features} if asked.features != settings["features"] else {}
        second: dict[str, Any] = {"value": asked.other or ""} if (asked.other or "") != settings["other"] else {}
        return {
            self.features: gr.Dropdown(_titled(names), **chosen),
            self.other: gr.Dropdown([(NOTHING, ""), *_titled(names)], **second),
            self.state: f"**{title(asked)}**. {outcome.sentence}",
            self.table: _rows(asked, outcome),
        }


def _experiment(settings: dict[str, Any], names: Sequence[str]) -> Experiment:
    """Return the experiment with checked settings; a feature type that the gallery lacks is replaced."""
    features, other = (checked_features(settings[key]) if settings[key] else None for key in ("features", "other"))
    return Experiment(
        features=features if features in names and features else names[0],
        change=one_of(Change, settings["change"]),
        dimensions=checked_dimensions(settings["dimensions"]),
        metric=one_of(Metric, settings["metric"]),
        other=other if other in names else None,
        fusion=one_of(Fusion, settings["fusion"]),
        weight=checked_balance(settings["weight"]),
    )


def _rows(asked: Experiment, outcome: Outcome) -> list[list[str]]:
    before = [str(outcome.before[name]) for name in SHOWN]
    after = [str(outcome.after[name]) for name in SHOWN]
    return [
        [FEATURES[asked.features].title, *before, "", f"{outcome.bytes_before:,}"],
        [title(asked), *after, f"{outcome.overlap:.0%}", f"{outcome.bytes_after:,}"],
    ]


def _titled(names: Sequence[str]) -> list[tuple[str, str]]:
    return [(FEATURES[name].title, name) for name in names]
