"""Plot rankings, maps, evaluations and sweeps with matplotlib, which is slow to import: import this module lazily."""

import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from PIL import Image

from retrieval.analysis.explanation import combination, name_of, number
from retrieval.analysis.gallery_map import COLOURED, LIGHT, OTHER, OTHER_LABELS, map_title, ranked_labels
from retrieval.analysis.leaderboard import Figure as Summary
from retrieval.analysis.leaderboard import Leaderboard
from retrieval.analysis.pareto import Cost
from retrieval.analysis.results import shown_measures
from retrieval.analysis.robustness import NAMES, Kind, Step, strength
from retrieval.analysis.why import ABOUT, Why, highlighted
from retrieval.engines import ENGINES
from retrieval.engines.recall import GraphPoint
from retrieval.errors import RetrievalError
from retrieval.features import FEATURES, default_first
from retrieval.pictures.loading import fit_within, load_picture
from retrieval.search.query import Query, Ranking
from retrieval.storage.projection import Method
from retrieval.storage.reader import GalleryIndex

# For the feature types, the default one first: those colours of Okabe and Ito, "Color Universal Design" (2008), that
# are distinct for every kind of colour vision and have a contrast of at least 3:1 against a white and a slate page
# (WCAG 2.2, 1.4.11), then others with that contrast, which may need their markers to be told apart.
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#8f7ad6", "#9a7f2e", "#6f8ba6")
MARKERS = ("o", "s", "^", "D", "v")

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
COSTS_SIZE = (7.2, 4.8)  # inches
SWEEP_SIZE = (6.4, 7.2)  # inches; narrow, so that the letters are not too small on a phone
SWEEP_COLUMNS = 2
GRAPHS_SIZE = (7.2, 4.0)  # inches
FONT = 11  # points
DPI = 144  # twice a screen's, so that it stays sharp


def style_of(features: str, drawn: Iterable[str]) -> tuple[str, str]:
    """Return the colour and the marker of one of the feature types that are drawn; a built-in one always has the same.

    Lines have markers because colour alone must not distinguish them.
    """
    place = default_first(dict.fromkeys([*FEATURES, *drawn])).index(features)
    return PALETTE[place % len(PALETTE)], MARKERS[place % len(MARKERS)]


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
    parts = [query.text[:40], f"{len(query.added)} added" if query.added else ""]
    asked = ", ".join(filter(None, ["query", *parts]))
    cells[0].set_title(asked, fontsize=9, fontweight="bold", wrap=True)
    for cell, hit in zip(cells[1:], hits, strict=False):
        cell.imshow(index.picture(hit.position))
        cell.set_title(f"{hit.rank}. {name_of(hit)[:24]}\n{number(hit.score)}", fontsize=8)
    save_figure(figure, target)


def plot_why(why: Why, query: Image.Image, result: Image.Image, target: Path) -> None:
    """Draw a query image and a result, each with its map, into a file, whose suffix determines the format."""
    figure = Figure(figsize=(4 * CELL, 1.4 * CELL), layout="constrained")
    figure.suptitle(f"{combination(why.features, why.metric)}: {number(why.score)} · {ABOUT[why.method]}", fontsize=9)
    drawn = [("query", query, why.query), ("result", result, why.result)]
    cells = iter(figure.subplots(1, 4))
    for title, picture, heat in drawn:
        small = fit_within(picture, PIXELS)
        shown = highlighted(small, heat, why.metric) if heat else small
        for name, image in ((title, small), (f"{title}: bright parts count most", shown)):
            axes = next(cells)
            axes.imshow(image)
            axes.axis("off")
            axes.set_title(name, fontsize=8)
    save_figure(figure, target)


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
    save_figure(figure, target)


def plot_results(board: Leaderboard, dark: bool | None = None) -> Figure:
    """Draw P@1, P@5 and mAP of each configuration as bars with 95 % intervals, and the chance level as a dotted line.

    A measure that an engine cannot give is left out. The background is transparent; `dark` is whether that of the page
    is dark, None if unknown.
    """
    rows = board.rows
    panels = [
        name
        for name in shown_measures(board.evaluation.names)
        if any(row.figures[name].value is not None for row in rows)
    ]
    figure = Figure(figsize=(BARS_WIDTH, BAR * len(rows) + 0.9), dpi=DPI, layout="constrained")
    figure.patch.set_alpha(0)
    titles = [f"{row.place}  {row.result.title}".replace("$", r"\$") for row in rows]
    drawn = [row.result.by.features for row in rows if row.result.by]
    colours = [style_of(row.result.by.features, drawn)[0] if row.result.by else PALETTE[-1] for row in rows]
    for axes, name in zip(figure.subplots(1, len(panels), sharey=True, squeeze=False)[0], panels, strict=True):
        figures = [row.figures[name] for row in rows]
        values = [each.value or 0.0 for each in figures]
        around = np.concatenate([_around(each) for each in figures], axis=1)
        line = {"ecolor": TEXT[dark], "capsize": 2.5, "elinewidth": 1.2}
        bars = axes.barh(range(len(rows)), values, xerr=around, color=colours, height=0.72, error_kw=line)
        written = ["" if each.value is None else f"{each.value:.3f}" for each in figures]
        axes.bar_label(bars, written, padding=3, color=TEXT[dark], fontsize=FONT - 1)
        axes.axvline(board.chance[name], color=TEXT[dark], linestyle=":", linewidth=1.2)
        axes.set_yticks(range(len(rows)), titles)
        axes.set_xlim(0, 1.3)  # the longest bar ends at 1, its number behind it
        axes.set_xticks([0, 0.5, 1])
        _dress(axes, name, "left", TEXT[dark], FONT)
    axes.invert_yaxis()  # the first result on top; the panels share the axis
    return figure


def plot_costs(found: Sequence[Cost], dark: bool | None = None) -> Figure:
    """Draw mAP against milliseconds per query with 95 % intervals, and the Pareto front as a line; see `plot_results`.

    The size of a point grows with the bytes per image.
    """
    figure = Figure(figsize=COSTS_SIZE, dpi=DPI, layout="constrained")
    figure.patch.set_alpha(0)
    axes, text = figure.subplots(), TEXT[dark]
    drawn = [each.row.result.by.features for each in found if each.row.result.by]
    for features in default_first(dict.fromkeys(drawn)):
        some = [each for each in found if each.row.result.by and each.row.result.by.features == features]
        colour, marker = style_of(features, drawn)
        title = f"{FEATURES[features].title}, {some[0].bytes:,} bytes"
        for each in some:
            quality, spent = each.row.figures["mAP"], each.milliseconds
            axes.errorbar(
                spent.value or 0,
                quality.value or 0,
                xerr=_around(spent),
                yerr=_around(quality),
                color=colour,
                marker=marker,
                markersize=4 + each.bytes**0.25,
                markeredgecolor=text if each.best else "none",
                markeredgewidth=2,
                elinewidth=1,
                label=title,
            )
            title = "_"  # once in the legend
    best = sorted((each.milliseconds.value or 0, each.row.figures["mAP"].value or 0) for each in found if each.best)
    axes.plot(*zip(*best, strict=True), color=text, linestyle="--", linewidth=1, label="Pareto front")
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")  # not as powers of ten
    axes.set_xlabel("milliseconds per query", color=text, fontsize=FONT)
    _dress(axes, "mAP and time", "left", text, FONT)
    axes.set_ylabel("mAP", color=text, fontsize=FONT)
    axes.spines["bottom"].set_visible(True)
    axes.spines["bottom"].set_color(text)
    axes.legend(frameon=False, labelcolor=text, fontsize=FONT)
    return figure


def _around(figure: Summary) -> list[list[float]]:
    """Return how far an interval extends below and above its value."""
    value = figure.value or 0.0
    low, high = (value if limit is None else limit for limit in (figure.low, figure.high))
    # The median of resampled values can lie beside that of the values.
    return [[max(value - low, 0.0)], [max(high - value, 0.0)]]


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
    for features in default_first(steps[0].withstood):
        colour, marker = style_of(features, steps[0].withstood)
        axes.plot(
            range(len(strengths)),
            [1.0, *(step.overlap(features) for step in steps)],
            color=colour,
            marker=marker,
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


def plot_graphs(curves: Mapping[str, Sequence[GraphPoint]], dark: bool | None = None) -> Image.Image:
    """Draw recall against milliseconds per query for each `ef_search`, a line per graph; see `plot_results`."""
    figure = Figure(figsize=GRAPHS_SIZE, dpi=DPI, layout="constrained")
    figure.patch.set_alpha(0)
    axes, text = figure.subplots(), TEXT[dark]
    for (title, points), colour, marker in zip(curves.items(), PALETTE, MARKERS, strict=False):
        x, y = [each.ms for each in points], [each.recall for each in points]
        axes.plot(x, y, color=colour, marker=marker, label=title)
        for each in points:
            at, beside = (each.ms, each.recall), (4, -12)
            axes.annotate(f"{each.ef_search}", at, beside, textcoords="offset points", color=text, fontsize=FONT)
    axes.set_xlabel("milliseconds per query (median); numbers: ef_search", color=text, fontsize=FONT)
    axes.set_ylabel("recall@10", color=text, fontsize=FONT)
    axes.set_xlim(0)
    axes.grid(axis="y", color=text, alpha=0.25)
    axes.legend(loc="lower right", frameon=False, labelcolor=text, fontsize=FONT)
    _dress(axes, "", "bottom", text, FONT)
    return as_picture(figure)


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


def save_figure(figure: Figure, target: Path) -> None:
    """Write a figure into a file, whose suffix determines the format; raise RetrievalError if that is not possible."""
    try:
        # Without a format, matplotlib would append a suffix to a name that has none.
        figure.savefig(target, dpi=110, format=target.suffix[1:] or "png")
    except (OSError, ValueError) as error:
        raise RetrievalError(f"The plot cannot be written to `{target}`: {error}. Name a .png file.") from error
