"""Plot rankings, maps, evaluations and sweeps with matplotlib, which is slow to import: import this module lazily."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from PIL import Image

from retrieval.analysis.evaluation import Result
from retrieval.analysis.explanation import combination, name_of, number
from retrieval.analysis.gallery_map import COLOURED, LIGHT, OTHER, OTHER_LABELS, map_title, ranked_labels
from retrieval.analysis.robustness import NAMES, Kind, Step, strength
from retrieval.engines import ENGINES
from retrieval.errors import RetrievalError
from retrieval.features import FEATURES, default_first
from retrieval.pictures.loading import fit_within, load_picture
from retrieval.search.query import Query, Ranking
from retrieval.storage.projection import Method
from retrieval.storage.reader import GalleryIndex

# For the feature types in the order of their registry: those colours of Okabe and Ito, "Color Universal Design" (2008),
# that are distinct for every kind of colour vision and have a contrast of at least 3:1 against a white and a slate page
# (WCAG 2.2, 1.4.11).
PALETTE = ("#d55e00", "#0072b2", "#009e73", "#cc79a7")
MARKERS = ("s", "o", "^", "D", "v")

# The colour of text by whether the page is dark; if unknown (None), a grey with a contrast of 4.2:1 on both.
TEXT = {False: "#334155", True: "#e2e8f0", None: "#7b7b7b"}

COLUMNS = 6  # of a plot of a ranking, beside the query
CELL = 2.1  # inches
SHOWN = 60  # results drawn at most
PIXELS = 256

MAP_SIZE = (9.0, 7.0)  # inches
LABEL_LENGTH = 30  # characters in the legend

BARS_WIDTH = 9.0  # inches
BAR = 0.32  # inches
SWEEP_SIZE = (6.4, 7.2)  # inches; narrow, so that the letters are not too small on a phone
SWEEP_COLUMNS = 2
FONT = 11  # points
DPI = 144  # twice a screen's, so that it stays sharp


def colour_of(features: str) -> str:
    """Return the colour of a feature type, by its place in the registry."""
    return PALETTE[list(FEATURES).index(features) % len(PALETTE)]


def marker_of(features: str) -> str:
    """Return the marker of a feature type, since colour alone must not distinguish lines."""
    return MARKERS[list(FEATURES).index(features) % len(MARKERS)]


def plot_ranking(query: Query, ranking: Ranking, index: GalleryIndex, target: Path) -> None:
    """Draw the query and its ranked results into a file, whose suffix determines the format."""
    hits = ranking.hits[:SHOWN]
    rows = -(-(len(hits) + 1) // COLUMNS)
    figure = Figure(figsize=(COLUMNS * CELL, rows * CELL * 1.2 + 0.6), layout="constrained")
    title = f"{combination(ranking.features, ranking.metric)} · {ENGINES[ranking.engine].title}"
    figure.suptitle(f"{title} · {ranking.gallery}, {ranking.size:,} images", fontsize=11)
    cells = figure.subplots(rows, COLUMNS, squeeze=False).flatten()
    for cell in cells:
        cell.axis("off")
    if query.picture is not None:
        cells[0].imshow(fit_within(load_picture(query.picture), PIXELS))
    asked = f"query: {query.text[:40]}" if query.text else "query"
    cells[0].set_title(asked, fontsize=9, fontweight="bold", wrap=True)
    for cell, hit in zip(cells[1:], hits, strict=False):
        cell.imshow(index.picture(hit.position))
        cell.set_title(f"{hit.rank}. {name_of(hit)[:24]}\n{number(hit.score)}", fontsize=8)
    _save(figure, target)


def plot_map(index: GalleryIndex, features: str, method: Method, target: Path) -> None:
    """Draw all images of a gallery as points, coloured by label, into a file, whose suffix determines the format."""
    projection = index.map(features, method)
    labels = np.array(index.labels)
    figure = Figure(figsize=MAP_SIZE, layout="constrained")
    axes = figure.subplots()
    named = [(label, count) for label, count in ranked_labels(index) if label][:COLOURED]
    rest = ~np.isin(labels, [label for label, _ in named])
    size = 14 if len(labels) < 5000 else 4
    x, y = projection.coordinates.T
    if rest.any():
        axes.scatter(x[rest], y[rest], s=size / 2, c=OTHER[False], label=f"{OTHER_LABELS} ({rest.sum():,})")
    for place, (label, count) in enumerate(named):
        axes.scatter(
            x[labels == label],
            y[labels == label],
            s=size,
            c=LIGHT[place % len(LIGHT)],
            marker="o" if place < len(LIGHT) else "^",
            linewidths=0,
            # A dollar sign would start a formula, and an underscore at the beginning would hide the label.
            label=f" {label[:LABEL_LENGTH]} ({count:,})".replace("$", r"\$"),
        )
    axes.set_aspect("equal", adjustable="datalim")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_title(map_title(index, features, method).replace("$", r"\$"), fontsize=11)
    figure.legend(loc="outside right upper", frameon=False, fontsize=9, markerscale=1.6)
    _save(figure, target)


def plot_results(results: Sequence[Result], dark: bool | None = None, average: str = "mAP") -> Figure:
    """Draw P@1, P@5 and, where available, the mean average precision of each combination as bars.

    The background is transparent; `dark` is whether that of the page is dark, None if unknown. `average` is the name of
    `Result.map`: "AP" for a single query.
    """
    panels: list[tuple[str, list[float | None]]] = [
        ("P@1", [result.p_at_1 for result in results]),
        ("P@5", [result.p_at_5 for result in results]),
        (average, [result.map for result in results]),
    ]
    panels = [panel for panel in panels if any(value is not None for value in panel[1])]
    figure = Figure(figsize=(BARS_WIDTH, BAR * len(results) + 0.9), dpi=DPI, layout="constrained")
    figure.patch.set_alpha(0)
    if not panels:
        return figure
    engines = len({each.engine for each in results}) > 1
    names = [
        combination(each.features, each.metric) + (f" · {ENGINES[each.engine].title}" if engines else "")
        for each in results
    ]
    colours = [colour_of(each.features) for each in results]
    for axes, (title, values) in zip(
        figure.subplots(1, len(panels), sharey=True, squeeze=False)[0], panels, strict=True
    ):
        bars = axes.barh(range(len(results)), [value or 0.0 for value in values], color=colours, height=0.72)
        written = ["" if value is None else f"{value:.3f}" for value in values]
        axes.bar_label(bars, written, padding=3, color=TEXT[dark], fontsize=FONT - 1)
        axes.set_yticks(range(len(results)), names)
        axes.set_xlim(0, 1.3)  # the longest bar ends at 1, its number behind it
        axes.set_xticks([0, 0.5, 1])
        _dress(axes, title, "left", TEXT[dark], FONT)
    axes.invert_yaxis()  # the first result on top; the panels share the axis
    return figure


def plot_sweep(steps: Sequence[Step], dark: bool | None = None) -> Image.Image:
    """Draw the overlap of each feature type against the strength of each kind of distortion; see `plot_results`."""
    kinds = list(dict.fromkeys(step.kind for step in steps))
    figure = Figure(figsize=SWEEP_SIZE, dpi=DPI, layout=ConstrainedLayoutEngine(h_pad=0.12, w_pad=0.08))
    figure.patch.set_alpha(0)
    rows = len(kinds) // SWEEP_COLUMNS + 1
    panels = figure.subplots(rows, SWEEP_COLUMNS, sharey=True, squeeze=False).flatten()
    for axes, kind in zip(panels, kinds, strict=False):
        _sweep_panel(axes, kind, [step for step in steps if step.kind is kind], TEXT[dark])
    for axes in panels[len(kinds) :]:  # the last one holds the legend
        axes.axis("off")
    lines, names = panels[0].get_legend_handles_labels()
    panels[-1].legend(lines, names, loc="center", frameon=False, labelcolor=TEXT[dark], fontsize=FONT + 1)
    return as_picture(figure)


def _sweep_panel(axes: Axes, kind: Kind, steps: Sequence[Step], text: str) -> None:
    strengths = ["none", *(strength(kind, step.strength) for step in steps)]
    for features in filter(steps[0].withstood.__contains__, default_first()):
        axes.plot(
            range(len(strengths)),
            [1.0, *(step.overlap(features) for step in steps)],
            color=colour_of(features),
            marker=marker_of(features),
            linewidth=2.2,
            markersize=7,
            label=FEATURES[features].title,
            clip_on=False,
        )
    axes.set_ylim(0, 1)
    axes.set_yticks([0, 0.5, 1])
    axes.set_xticks(range(len(strengths)), strengths)
    axes.grid(axis="y", color=text, alpha=0.25)
    _dress(axes, NAMES[kind], "bottom", text, FONT + 1)


def as_picture(figure: Figure) -> Image.Image:
    """Return a figure as an image; a transparent background stays transparent."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return Image.open(buffer)


def _dress(axes: Axes, title: str, side: str, text: str, size: int) -> None:
    """Set the title of a panel, and keep only one side of its frame, in the colour of the text."""
    axes.set_title(title, color=text, fontsize=FONT + 1, fontweight="bold")
    axes.tick_params(colors=text, labelsize=size, length=0)
    axes.patch.set_alpha(0)
    axes.spines[[each for each in ("top", "right", "bottom", "left") if each != side]].set_visible(False)
    axes.spines[side].set_color(text)


def _save(figure: Figure, target: Path) -> None:
    try:
        # Without a format, matplotlib would append a suffix to a name that has none.
        figure.savefig(target, dpi=110, format=target.suffix[1:] or "png")
    except (OSError, ValueError) as error:
        raise RetrievalError(f"The plot cannot be written to `{target}`: {error}. Name a .png file.") from error
