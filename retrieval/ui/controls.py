"""Controls that several tabs have: the toggles, Cancel, and how figures look."""

from typing import Any, TypeVar

import gradio as gr

from retrieval.engines import DEFAULT_ENGINE, ENGINES
from retrieval.features import DEFAULT_FEATURES, FEATURES, default_first
from retrieval.labels import METRICS
from retrieval.metrics import Metric

Choice = TypeVar("Choice", gr.Radio, gr.Dropdown)

# Events that are not part of the API, with little or no sign of progress.
QUIET: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
PRIVATE: dict[str, Any] = {"api_visibility": "private", "show_progress": "minimal"}


def text_needs() -> str:
    """Return a sentence that names the feature types with text search."""
    return f"Text search needs {' or '.join(each.phrase for each in FEATURES.values() if each.takes_text)}."


def features_radio(elem_id: str, **layout: Any) -> gr.Radio:
    """Return the choice of a feature type, the default first."""
    return gr.Radio(
        [(FEATURES[name].title, name) for name in default_first()],
        value=DEFAULT_FEATURES,
        label="Features",
        elem_id=elem_id,
        min_width=290,
        **layout,
    )


def metric_choice(kind: type[Choice], elem_id: str, **layout: Any) -> Choice:
    """Return the choice of a metric, as radio buttons or as a dropdown."""
    return kind(
        choices=[(METRICS[each], str(each)) for each in Metric],
        value=str(Metric.COSINE),
        label="Metric",
        elem_id=elem_id,
        **layout,
    )


def engine_radio(label: str, elem_id: str, **layout: Any) -> gr.Radio:
    """Return the choice of an engine."""
    return gr.Radio(
        [(engine.title, name) for name, engine in ENGINES.items()],
        value=DEFAULT_ENGINE,
        label=label,
        elem_id=elem_id,
        min_width=290,
        **layout,
    )


def top_k_slider(value: int, maximum: int, elem_id: str, **layout: Any) -> gr.Slider:
    """Return the choice of the number of results."""
    return gr.Slider(1, maximum, value=value, step=1, label="Number of results", elem_id=elem_id, **layout)


def cancel_button(elem_id: str) -> gr.Button:
    """Return a button that stays off until there is something to cancel."""
    return gr.Button("Cancel", elem_id=elem_id, interactive=False)


def figures_table(headers: list[str], label: str, elem_id: str, **layout: Any) -> gr.Dataframe:
    """Return a read-only table."""
    return gr.Dataframe(headers=headers, interactive=False, label=label, elem_id=elem_id, wrap=True, **layout)


def figures_plot(label: str, elem_id: str) -> gr.Image:
    """Return a hidden image for a plot; gr.Plot has no alternative text."""
    return gr.Image(
        label=label, show_label=False, format="png", interactive=False, buttons=[], elem_id=elem_id, visible=False
    )
