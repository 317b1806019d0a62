"""What the program says about scores and results, in English; shared by the page and the command line."""

from retrieval.features import Features
from retrieval.features.choice import ModelIdentity
from retrieval.indexes import Entry
from retrieval.metrics import DEFINITIONS, Metric
from retrieval.query import Engine, Hit, Ranking

FEATURES = {Features.CLIP: "CLIP features", Features.PIXELS: "Raw pixels"}
METRICS = {metric: definition.title for metric, definition in DEFINITIONS.items()}
ENGINES = {Engine.EXACT: "Exact scan", Engine.CHROMA: "ChromaDB"}

ZERO_AT_BEST = "0 is an identical picture"
ONE_AT_BEST = "1 is the same direction, 0 unrelated, -1 opposite"
SCALES = {Metric.L1: ZERO_AT_BEST, Metric.L2: ZERO_AT_BEST, Metric.COSINE: ONE_AT_BEST, Metric.CORRELATION: ONE_AT_BEST}


TITLE = "Lookalike"
TAGLINE = "Find pictures by picture. Switch from raw pixels to CLIP features and watch what *similar* comes to mean."
QUERY = "Your picture"
DROP = "Drop a picture here, paste one, or click to choose"
QUERY_ALT = "The query picture"
EXAMPLES = "Or try one of these"
RESULTS = "Closest pictures"
FEATURES_LABEL = "Features"
FEATURES_INFO = "what is compared"
METRIC_LABEL = "Metric"
METRIC_INFO = "how two vectors are compared"
ENGINE_LABEL = "Engine"
ENGINE_INFO = "who looks through the gallery"
TOP_K_LABEL = "How many"
GALLERY_LABEL = "Gallery"
SEARCH = "Search"
HINT = "**Choose a picture to start:** drop one on the left, or click an example."
CLICK = "Click a result to search with it."
SURPRISE = "Something went wrong on our side, and it was written to the log. Try again, or try another picture."
NO_FILE = "The picture came without a file. Upload it again."


def about_model(model: ModelIdentity, why: str) -> str:
    """Return one line on the model in use, and why it is this one."""
    return f"CLIP model: **{model.name}** ({model.dtype}, {model.dimensions} numbers a picture); {why}."


def name_of(entry: Entry | Hit) -> str:
    """Return what a picture is called: its caption, else its label, else its id."""
    return entry.caption or entry.label or entry.id


def number(score: float) -> str:
    """Return a score with four significant digits behind a leading zero, or one decimal when it is large."""
    return f"{score:.1f}" if abs(score) >= 100 else f"{score:.3f}"


def caption(hit: Hit) -> str:
    """Return the line below a result: rank, name and score."""
    return f"{hit.rank}. {name_of(hit)} · {number(hit.score)}"


def explain(features: Features, metric: Metric, engine: Engine) -> str:
    """Return one line on the score: what it is, which way it points, and which toggles cannot differ."""
    definition = DEFINITIONS[metric]
    direction = "smaller is closer" if definition.smaller_is_closer else "larger is closer"
    parts = [f"Score: {definition.title} = {definition.formula}; {direction}, {SCALES[metric]}."]
    if features is Features.CLIP and metric in (Metric.L2, Metric.COSINE):
        other = Metric.COSINE if metric is Metric.L2 else Metric.L2
        parts.append(
            f"CLIP vectors have length 1, so L2² = 2 - 2 · cosine: {METRICS[other]} gives the same order, always."
        )
    elif features is Features.CLIP and metric is Metric.CORRELATION:
        parts.append("CLIP vectors have a mean close to 0, so correlation nearly repeats cosine.")
    if engine is Engine.CHROMA and metric is Metric.L1:
        parts.append("ChromaDB has no L1: it proposes the nearest by L2, and those are ordered by exact L1.")
    elif engine is Engine.CHROMA:
        parts.append("ChromaDB proposes, and the score is computed exactly; it may miss a picture, never misjudge one.")
    return " ".join(parts)


def timings(ranking: Ranking) -> str:
    """Return one line of milliseconds, gallery size, engine, model and dtype."""
    t = ranking.timings
    used = str(ranking.model) if ranking.features is Features.CLIP else "no model"
    return (
        f"decode {t.decode:.1f} ms · features {t.features:.1f} ms · search {t.search:.1f} ms · "
        f"total {t.total:.1f} ms · {ranking.size:,} pictures · {ENGINES[ranking.engine]} · {used}"
    )
