"""A picture of a ranking: the query and its results, in order, with their scores."""

from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from retrieval.analysis import sentences as words
from retrieval.errors import RetrievalError
from retrieval.pictures.loading import fit_within, load_picture
from retrieval.search.query import Query, Ranking
from retrieval.storage.reader import GalleryIndex

COLUMNS = 6
CELL = 2.1  # inches
SHOWN = 60  # results drawn at most
PIXELS = 256


def plot_ranking(query: Query, ranking: Ranking, index: GalleryIndex, target: Path) -> None:
    """Draw the query and its ranked results into a file; the suffix decides the format.

    Raises:
        RetrievalError: the file cannot be written.
        IndexingError: a thumbnail is damaged.
    """
    hits = ranking.hits[:SHOWN]
    rows = -(-(len(hits) + 1) // COLUMNS)
    figure = Figure(figsize=(COLUMNS * CELL, rows * CELL * 1.2 + 0.6), layout="constrained")
    FigureCanvasAgg(figure)
    title = f"{words.FEATURES[ranking.features]} · {words.METRICS[ranking.metric]} · {words.ENGINES[ranking.engine]}"
    figure.suptitle(f"{title} · {ranking.gallery}, {ranking.size:,} pictures", fontsize=11)
    cells = figure.subplots(rows, COLUMNS, squeeze=False).flatten()
    for cell in cells:
        cell.axis("off")
    if query.picture is not None:
        cells[0].imshow(fit_within(load_picture(query.picture), PIXELS))
    asked = f"query: {query.text[:40]}" if query.text else "query"
    cells[0].set_title(asked, fontsize=9, fontweight="bold", wrap=True)
    for cell, hit in zip(cells[1:], hits, strict=False):
        cell.imshow(index.picture(hit.position))
        name = words.name_of(hit)
        cell.set_title(f"{hit.rank}. {name[:24]}\n{words.number(hit.score)}", fontsize=8)
    try:
        # The format is given, since matplotlib would else append a suffix to a name that has none.
        figure.savefig(target, dpi=110, format=target.suffix[1:] or "png")
    except (OSError, ValueError) as error:
        raise RetrievalError(f"The plot cannot be written to {target}: {error}. Name a .png file.") from error
