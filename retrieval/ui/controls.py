"""Controls that several tabs have: the toggles, Cancel, and how figures look."""

import html
import re
from collections.abc import Sequence
from typing import Any, TypeVar

import gradio as gr
from typing_extensions import override

from retrieval.engines import AUTO, ENGINES
from retrieval.features import FEATURES, default_first
from retrieval.labels import METRICS
from retrieval.metrics import Metric
from retrieval.storage.reader import GalleryIndex

Choice = TypeVar("Choice", gr.Radio, gr.Dropdown)

# Events that are not part of the API, with little or no sign of progress.
QUIET: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
PRIVATE: dict[str, Any] = {"api_visibility": "private", "show_progress": "minimal"}


class FeaturesRadio(gr.Radio):
    """Radio buttons whose choices change with the gallery; whoever uses the value checks it."""

    is_template = True  # it has the front end of its base class, so gradio must use that name

    @override
    def preprocess(self, payload: str | int | float | None) -> str | int | float | None:
        return payload  # gradio would refuse a choice that was made just before the choices changed


class FeaturesCheckboxes(gr.CheckboxGroup):
    """The same for several choices."""

    is_template = True

    @override
    def preprocess(self, payload: Any) -> list[str | int | float]:
        return [str(each) for each in payload] if isinstance(payload, list) else []


class FeaturesDropdown(gr.Dropdown):
    """The same as a list."""

    is_template = True

    @override
    def preprocess(self, payload: Any) -> Any:
        return payload


def as_text(text: str) -> str:
    """Escape the signs in a text from a dataset or a visitor, so that Markdown neither formats, links nor loads it."""
    return re.sub(r"([^\w\s])", lambda sign: f"&#{ord(sign[0])};", text)


def status_line(text: str) -> str:
    """Return HTML that shows a text, and that a screen reader reads when it can."""
    return f'<p role="status">{html.escape(text)}</p>'


def alert_line(escaped: str) -> str:
    """Return HTML that shows an error, and that a screen reader reads at once."""
    return f'<p role="alert">{escaped}</p>'


def features_radio(names: Sequence[str], elem_id: str, **layout: Any) -> gr.Radio:
    """Return the choice of a feature type of a gallery, the first by default."""
    layout = {"value": names[0] if names else None, "visible": len(names) > 1, **layout}
    return FeaturesRadio(_titled(names), label="Features", elem_id=elem_id, min_width=290, **layout)


def offered_features(names: Sequence[str], chosen: str, shown: str) -> gr.Radio:
    """Return an update of `features_radio` for another gallery, where `chosen` replaces the choice that is `shown`."""
    # Set only if it is not the one shown, since the visitor may have chosen another one in the meantime.
    value: dict[str, Any] = {} if chosen == shown else {"value": chosen}
    return gr.Radio(_titled(names), visible=len(names) > 1, **value)


def _titled(names: Sequence[str]) -> list[tuple[str, str]]:
    return [(FEATURES[name].title, name) for name in names]


def lane_order(names: Sequence[str]) -> list[str]:
    """Return feature types in the order of their lanes: from simple ones to models."""
    order = list(FEATURES)
    return sorted(names, key=lambda name: order.index(name) if name in order else len(order))


def first_lanes(names: Sequence[str]) -> list[str]:
    """Return the feature types to begin with: the simplest, usually raw pixels, and the default one."""
    lanes = lane_order(names)
    return [name for name in lanes if name in (lanes[0], default_first(names)[0])]


def features_choice(names: Sequence[str], elem_id: str, **layout: Any) -> gr.CheckboxGroup:
    """Return the choice of some of a gallery's feature types."""
    lanes, chosen = lane_order(names), first_lanes(names)
    layout = {"value": chosen, "label": "Features", "min_width": 290, **layout}
    return FeaturesCheckboxes(_titled(lanes), elem_id=elem_id, **layout)


def features_of(index: GalleryIndex, chosen: Sequence[str] | None) -> gr.CheckboxGroup:
    """Return an update of `features_choice` for another gallery; None keeps what is chosen."""
    value: dict[str, Any] = {} if chosen is None else {"value": list(chosen)}
    return gr.CheckboxGroup(_titled(lane_order(index.features)), **value)


def metric_choice(kind: type[Choice], elem_id: str, **layout: Any) -> Choice:
    """Return the choice of a metric, as radio buttons or as a dropdown."""
    return kind(
        choices=[(METRICS[each], str(each)) for each in Metric],
        value=str(Metric.COSINE),
        label="Metric",
        elem_id=elem_id,
        **layout,
    )


def engine_radio(label: str, elem_id: str, engines: Sequence[str], auto: bool = False, **layout: Any) -> gr.Radio:
    """Return the choice of an engine of a gallery, the first one chosen; `auto` leaves the choice open."""
    choices, layout = [(ENGINES[name].title, name) for name in engines], {"min_width": 290, **layout}
    choices += [("Auto", AUTO)] if auto else []
    return gr.Radio(choices, value=engines[0], label=label, elem_id=elem_id, **layout)


def top_k_slider(value: int, maximum: int, elem_id: str, **layout: Any) -> gr.Slider:
    """Return the choice of the number of results."""
    return gr.Slider(1, maximum, value=value, step=1, label="Number of results", elem_id=elem_id, **layout)


def cancel_button(elem_id: str) -> gr.Button:
    """Return a button that stays off until there is something to cancel."""
    return gr.Button("Cancel", elem_id=elem_id, interactive=False, min_width=80)


def figures_table(headers: list[str], label: str, elem_id: str, **layout: Any) -> gr.Dataframe:
    """Return a read-only table."""
    return gr.Dataframe(headers=headers, interactive=False, label=label, elem_id=elem_id, wrap=True, **layout)


def figures_plot(label: str, elem_id: str) -> gr.Image:
    """Return a hidden image for a plot; gr.Plot has no alternative text."""
    return gr.Image(
        label=label, show_label=False, format="png", interactive=False, buttons=[], elem_id=elem_id, visible=False
    )
