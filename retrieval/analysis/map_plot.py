"""How the labels of a map look, on the page and in a file: few colours that all eyes can tell apart, two shapes."""

from pathlib import Path

import numpy as np

from retrieval.analysis import sentences as words
from retrieval.analysis.gallery_map import COLOURED, ranked_labels
from retrieval.errors import RetrievalError
from retrieval.storage.projection import Method
from retrieval.storage.reader import GalleryIndex

# Five colours for a white and five for a slate page, each at least 3:1 against it (WCAG 2.2, 1.4.11), and apart for
# every kind of colour vision (simulated as by Machado et al. 2009; the tests compute both). No ten are, so a label is
# a colour and a shape: the first five labels are discs, the next five triangles.
LIGHT = ("#1f3fd0", "#e07000", "#10101c", "#8f1f00", "#8c8ce0")
DARK = ("#8cc4fc", "#e08c00", "#f5ee30", "#d4187c", "#1f76fc")
OTHER = {False: "#8a94a3", True: "#64748b"}

SIZE = (9.0, 7.0)  # inches
LABEL_LENGTH = 30  # characters in the legend


def plot_map(index: GalleryIndex, features: str, method: Method, target: Path) -> None:
    """Draw all pictures of a gallery as points, coloured by label, into a file; the suffix decides the format.

    Raises:
        RetrievalError: the gallery has no such map, or the file cannot be written.
    """
    # Imported here, since the page needs the colours alone.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    projection = index.map(features, method)
    labels = np.array(index.labels)
    figure = Figure(figsize=SIZE, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    named = [(label, count) for label, count in ranked_labels(index) if label][:COLOURED]
    rest = ~np.isin(labels, [label for label, _ in named])
    size = 14 if len(labels) < 5000 else 4
    x, y = projection.coordinates.T
    if rest.any():
        axes.scatter(x[rest], y[rest], s=size / 2, c=OTHER[False], label=f"{words.MAP_OTHER} ({rest.sum():,})")
    for place, (label, count) in enumerate(named):
        axes.scatter(
            x[labels == label],
            y[labels == label],
            s=size,
            c=LIGHT[place % len(LIGHT)],
            marker="o" if place < len(LIGHT) else "^",
            linewidths=0,
            # A dollar sign would start a formula, and an underscore at the front hide the label.
            label=f" {label[:LABEL_LENGTH]} ({count:,})".replace("$", r"\$"),
        )
    axes.set_aspect("equal", adjustable="datalim")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_title(words.map_title(index, features, method).replace("$", r"\$"), fontsize=11)
    figure.legend(loc="outside right upper", frameon=False, fontsize=9, markerscale=1.6)
    try:
        figure.savefig(target, dpi=110, format=target.suffix[1:] or "png")
    except (OSError, ValueError) as error:
        raise RetrievalError(f"The plot cannot be written to {target}: {error}. Name a .png file.") from error
