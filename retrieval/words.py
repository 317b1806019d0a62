"""What the program says about scores and results, in English; shared by the page and the command line."""

from retrieval.features import Features
from retrieval.features.choice import ModelIdentity
from retrieval.indexes import Entry, GalleryIndex
from retrieval.metrics import DEFINITIONS, Metric
from retrieval.query import Engine, Hit, Query, Ranking

FEATURES = {Features.CLIP: "CLIP features", Features.PIXELS: "Raw pixels"}
METRICS = {metric: definition.title for metric, definition in DEFINITIONS.items()}
ENGINES = {Engine.EXACT: "Exact scan", Engine.CHROMA: "ChromaDB"}

ZERO_AT_BEST = "0 is an identical picture"
ONE_AT_BEST = "1 is the same direction, 0 unrelated, -1 opposite"
SCALES = {Metric.L1: ZERO_AT_BEST, Metric.L2: ZERO_AT_BEST, Metric.COSINE: ONE_AT_BEST, Metric.CORRELATION: ONE_AT_BEST}


# Best hits that were right lay above it (60 photos among 595: 98.7 % at least; 20 icons among 1,852: 19 of them);
# best hits of photos among icons, where nothing is right, lay below it.
CONVINCING = 0.985

TITLE = "Lookalike"
TAGLINE = "Find pictures by picture. Switch from raw pixels to CLIP features and watch what *similar* comes to mean."
QUERY = "Your picture"
DROP = "Drop a picture here, paste one, or click to choose"
QUERY_ALT = "The query picture"
EXAMPLES = "Or try one of these"
RESULTS = "Closest pictures"
FEATURES_LABEL = "Features"
METRIC_LABEL = "Metric"
ENGINE_LABEL = "Engine"
TOP_K_LABEL = "How many"
GALLERY_LABEL = "Gallery"
SEARCH = "Search"
HINT = "**Choose a picture to start:** drop one, click an example, or say it in words."
CLICK = "Click a result to search with it."
HINT_PIXELS = "**Choose a picture:** raw pixels know no words. Or switch to CLIP features."
TEXT = "Or in words"
TEXT_EXAMPLE = "red fruit"
MORE = "More: leave out, balance, classes"
BALANCE = "Picture and words: 0 picture alone, 1 words alone"
WITHOUT = "Leave out, in words"
WORDS_OFF = "Off: raw pixels know no words. Switch to CLIP features."
LABELS = "Only these classes"
TRAIL = "Back to"
STEP = "query"
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


def explain(query: Query) -> str:
    """Return one line on the score: what it is, which way it points, and which toggles cannot differ."""
    definition = DEFINITIONS[query.metric]
    direction = "smaller is closer" if definition.smaller_is_closer else "larger is closer"
    parts = [f"Score: {definition.title} = {definition.formula}; {direction}, {SCALES[query.metric]}."]
    if query.text and not query.has_picture:
        parts.append("Words and pictures lie apart in CLIP's space, so scores of words are low: read the order.")
    if query.features is Features.CLIP and query.metric in (Metric.L2, Metric.COSINE):
        other = Metric.COSINE if query.metric is Metric.L2 else Metric.L2
        parts.append(
            f"CLIP vectors have length 1, so L2² = 2 - 2 · cosine: {METRICS[other]} gives the same order, always."
        )
    elif query.features is Features.CLIP and query.metric is Metric.CORRELATION:
        parts.append("CLIP vectors have a mean close to 0, so correlation nearly repeats cosine.")
    if query.engine is Engine.CHROMA and query.metric is Metric.L1:
        parts.append("ChromaDB has no L1: it proposes the nearest by L2, and those are ordered by exact L1.")
    elif query.engine is Engine.CHROMA:
        parts.append("ChromaDB proposes, and the score is computed exactly; it may miss a picture, never misjudge one.")
    return " ".join(parts)


def meaning(query: Query, ranking: Ranking, index: GalleryIndex) -> str:
    """Return what the best score is worth: its place among random pairs of the gallery. Empty for words."""
    if not ranking.hits or query.text or query.without:
        return ""
    share = index.percentile(query.features, query.metric, ranking.hits[0].score)
    if share is None:
        return ""
    place = f"The best hit is closer than {share:.1%} of random pairs of this gallery."
    return place if share >= CONVINCING else f"**No convincing match.** {place}"


def recall(ranking: Ranking, exact: Ranking) -> str:
    """Return how much of the exact answer an approximate ranking has, and how long each took."""
    wanted = {hit.position for hit in exact.hits}
    share = len(wanted & {hit.position for hit in ranking.hits}) / max(1, len(wanted))
    return f" · recall@{len(wanted)} {share:.2f} (exact scan: {exact.timings.search:.1f} ms)"


def timings(ranking: Ranking) -> str:
    """Return one line of milliseconds, gallery size, engine, model and dtype."""
    t = ranking.timings
    used = str(ranking.model) if ranking.features is Features.CLIP else "no model"
    return (
        f"decode {t.decode:.1f} ms · features {t.features:.1f} ms · search {t.search:.1f} ms · "
        f"total {t.total:.1f} ms · {ranking.size:,} pictures · {ENGINES[ranking.engine]} · {used}"
    )
