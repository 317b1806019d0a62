"""A sweep of distortions as lines, one panel a kind, to be laid on a light or a dark page."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from PIL import Image

from retrieval.analysis import sentences as words
from retrieval.analysis.evaluation_plot import COLOURS, DPI, TEXT, as_picture
from retrieval.analysis.robustness import Kind, Step

WIDTH, HEIGHT = 6.4, 7.2  # inches; narrow, so that the letters are not too small on a phone
COLUMNS = 2
FONT = 12  # points
MARKERS = {"clip": "o", "pixels": "s"}  # so that colour is not all that tells the lines apart


def plot_sweep(steps: Sequence[Step], dark: bool | None = None) -> Image.Image:
    """Return a drawing of the overlap of each features against the strength of each kind of distortion, from none on.

    The background is transparent; the last panel is the legend.

    Args:
        steps: what `sweep` yields.
        dark: whether the page is dark; None if that is not known.
    """
    kinds = list(dict.fromkeys(step.kind for step in steps))
    figure = Figure(figsize=(WIDTH, HEIGHT), dpi=DPI, layout=ConstrainedLayoutEngine(h_pad=0.12, w_pad=0.08))
    figure.patch.set_alpha(0)
    rows = len(kinds) // COLUMNS + 1
    panels = figure.subplots(rows, COLUMNS, sharey=True, squeeze=False).flatten()
    for axes, kind in zip(panels, kinds, strict=False):
        _panel(axes, kind, [step for step in steps if step.kind is kind], TEXT[dark])
    for axes in panels[len(kinds) :]:
        axes.axis("off")
    lines, names = panels[0].get_legend_handles_labels()
    panels[-1].legend(lines, names, loc="center", frameon=False, labelcolor=TEXT[dark], fontsize=FONT)
    return as_picture(figure)


def _panel(axes: Axes, kind: Kind, steps: Sequence[Step], text: str) -> None:
    strengths = [words.NOT_AT_ALL, *(words.strength(kind, step.strength) for step in steps)]
    for features in words.SWEPT_FEATURES:
        axes.plot(
            range(len(strengths)),
            [1.0, *(step.overlap(features) for step in steps)],
            color=COLOURS[features],
            marker=MARKERS[features],
            linewidth=2.2,
            markersize=7,
            label=words.FEATURES[features],
            clip_on=False,
        )
    axes.set_title(words.KINDS[kind], color=text, fontsize=FONT, fontweight="bold")
    axes.set_ylim(0, 1)
    axes.set_yticks([0, 0.5, 1])
    axes.set_xticks(range(len(strengths)), strengths)
    axes.tick_params(colors=text, labelsize=FONT, length=0)
    axes.grid(axis="y", color=text, alpha=0.25)
    axes.patch.set_alpha(0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(text)
