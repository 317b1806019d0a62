"""Results of an evaluation as bars, one panel a figure of merit, to be laid on a light or a dark page."""

import io
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from retrieval.analysis import sentences as words
from retrieval.analysis.evaluation import Result

# Blue and vermilion of Okabe and Ito, "Color Universal Design" (2008): apart for every kind of colour vision,
# and at least 3:1 against a white and a slate page (WCAG 2.2, 1.4.11).
COLOURS = {"pixels": "#d55e00", "clip": "#0072b2"}

# The colour of text by page: light, dark, or not known, then a grey that is 4.2:1 on both.
TEXT = {False: "#334155", True: "#e2e8f0", None: "#7b7b7b"}

WIDTH = 9.0  # inches
ROW = 0.32  # inches a bar
FONT = 11  # points
DPI = 144  # twice a screen's, so that it stays sharp


def plot_results(results: Sequence[Result], dark: bool | None = None, average: str = "mAP") -> Figure:
    """Draw P@1, P@5 and, where there is one, the mean average precision of each combination.

    The background is transparent.

    Args:
        results: what `evaluate` or `average_precision_of` yields.
        dark: whether the page is dark; None if that is not known.
        average: what `Result.map` is called, "AP" for a single query.
    """
    panels: list[tuple[str, list[float | None]]] = [
        ("P@1", [result.p_at_1 for result in results]),
        ("P@5", [result.p_at_5 for result in results]),
        (average, [result.map for result in results]),
    ]
    panels = [panel for panel in panels if any(value is not None for value in panel[1])]
    figure = Figure(figsize=(WIDTH, ROW * len(results) + 0.9), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    figure.patch.set_alpha(0)
    if not panels:
        return figure
    engines = len({each.engine for each in results}) > 1
    names = [
        f"{words.FEATURES[each.features]} · {words.METRICS[each.metric]}"
        + (f" · {words.ENGINES[each.engine]}" if engines else "")
        for each in results
    ]
    colours = [COLOURS[each.features] for each in results]
    for axes, (title, values) in zip(
        figure.subplots(1, len(panels), sharey=True, squeeze=False)[0], panels, strict=True
    ):
        bars = axes.barh(range(len(results)), [value or 0.0 for value in values], color=colours, height=0.72)
        axes.bar_label(
            bars,
            ["" if value is None else f"{value:.3f}" for value in values],
            padding=3,
            color=TEXT[dark],
            fontsize=FONT - 1,
        )
        axes.set_yticks(range(len(results)), names)
        _clear(axes, title, TEXT[dark])
    axes.invert_yaxis()  # the first result on top; the panels share the axis
    return figure


def as_picture(figure: Figure) -> Image.Image:
    """Return a figure as a picture, its background transparent if the figure's is."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return Image.open(buffer)


def _clear(axes: Axes, title: str, text: str) -> None:
    """Leave of a panel's frame what is needed to read it, in the colour of the text."""
    axes.set_title(title, color=text, fontsize=FONT + 1, fontweight="bold")
    axes.set_xlim(0, 1.3)  # the longest bar ends at 1, its number behind it
    axes.set_xticks([0, 0.5, 1])
    axes.tick_params(colors=text, labelsize=FONT, length=0)
    axes.patch.set_alpha(0)
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    axes.spines["left"].set_color(text)
