"""What the program says about scores and results, in English; shared by the page and the command line."""

from collections.abc import Sequence

from retrieval.comparison import Cell, equal_by_mathematics, positions, share_found
from retrieval.distortion import UNDISTORTED, Distortion
from retrieval.evaluation import Result
from retrieval.features import Features
from retrieval.features.choice import ModelIdentity
from retrieval.indexes import Entry, GalleryIndex
from retrieval.metrics import DEFINITIONS, Metric
from retrieval.query import Engine, Hit, Query, Ranking
from retrieval.robustness import SWEEP as DISTORTIONS
from retrieval.robustness import Kind, Step, Withstood, mean_overlaps

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
TAB_SEARCH = "Search"
TAB_COMPARE = "Compare"
TAB_EVALUATE = "Evaluate"
BASELINE = "Compared with"
COMPARE = "Compare"
COMPARE_NOTE = (
    "Overlap: share of the baseline's pictures. τ: Kendall's agreement of both orders, 1 the same, -1 reversed. "
    "Recall: what ChromaDB finds of the exact answer. ↑ ↓: places above or below the baseline; new: not among its hits."
)
EVALUATE_NOTE = (
    "Each picture of a sample searches the rest of the gallery; a hit with its label is right. "
    "**P@k**: share of the first k hits that are right. **mAP**: mean over all queries of the average precision."
)
SAMPLE = "Pictures in the sample"
EVALUATE = "Evaluate the gallery"
EVALUATE_QUERY = "Evaluate this query"
CANCEL = "Cancel"
STOPPED = "Stopped."
FIGURES = "Figures"
DOWNLOAD = "Download as CSV"
EVALUATION_COLUMNS = ["Features", "Metric", "P@1", "P@5", "mAP or AP"]
NO_LABEL = "The label of your own picture is not known. Click a result in the Search tab, then come back."
SURPRISE = "Something went wrong on our side, and it was written to the log. Try again, or try another picture."
OWNER = "The index or the model has a fault that only the owner of this page can mend; the log says which."
NO_FILE = "The picture is none that was uploaded here. Upload it again."


def about_model(model: ModelIdentity, why: str) -> str:
    """Return one line on the model in use, and why it is this one."""
    return f"CLIP model: **{model.title}** ({model.dtype}, {model.dimensions} numbers a picture); {why}."


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
    if reason := equal_by_mathematics(query.features, query.metric)[1]:
        parts.append(reason)
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
    wanted = positions(exact)
    share = share_found(positions(ranking), wanted)
    return f" · recall@{len(wanted)} {share:.2f} (exact scan: {exact.timings.search:.1f} ms)"


def combination(features: Features, metric: Metric) -> str:
    """Return what a combination is called."""
    return f"{FEATURES[features]} · {METRICS[metric]}"


def move(places: int | None) -> str:
    """Return how far a hit stands above or below its place in the baseline."""
    if places is None:
        return "new"
    return "" if places == 0 else f"↑{places}" if places > 0 else f"↓{-places}"


def agreement(exact: Cell, chroma: Cell, is_baseline: bool) -> str:
    """Return how a combination agrees with the baseline, and ChromaDB with the exact scan."""
    features, metric, _ = exact.combination
    k = len(exact.ranking.hits)
    lines = [f"**{combination(features, metric)}**"]
    lines.append("baseline" if is_baseline else f"overlap@{k} {exact.overlap:.2f} · τ {exact.tau:.2f}")
    lines.append(f"ChromaDB: recall@{k} {chroma.recall:.2f}")
    if (same := equal_by_mathematics(features, metric))[1]:
        lines.append(f"*{same[1]}*")
    return "<br>".join(lines)


def evaluated(index: GalleryIndex, queries: int) -> str:
    """Return what was evaluated."""
    return f"{index.manifest.gallery}: leave-one-out over {queries:,} of {len(index):,} pictures, exact scan."


def evaluated_query(name: str, label: str) -> str:
    """Return which query was evaluated."""
    return f"Query {name}, label {label}: the whole gallery ranked by the exact scan."


def progress(about: str, done: int, total: int) -> str:
    """Return how far an evaluation is."""
    return f"{about} {done} of {total} combinations ..."


def evaluation_rows(results: Sequence[Result]) -> list[list[str]]:
    """Return the table of an evaluation, three digits each."""
    return [
        [
            FEATURES[r.features],
            METRICS[r.metric],
            f"{r.p_at_1:.3f}",
            f"{r.p_at_5:.3f}",
            "" if r.map is None else f"{r.map:.3f}",
        ]
        for r in results
    ]


def timings(ranking: Ranking) -> str:
    """Return one line of milliseconds, gallery size, engine, model and dtype."""
    t = ranking.timings
    used = str(ranking.model) if ranking.features is Features.CLIP else "no model"
    return (
        f"decode {t.decode:.1f} ms · features {t.features:.1f} ms · search {t.search:.1f} ms · "
        f"total {t.total:.1f} ms · {ranking.size:,} pictures · {ENGINES[ranking.engine]} · {used}"
    )


TAB_ROBUSTNESS = "Robustness"
ROBUSTNESS_NOTE = (
    "Overlap: share of the undistorted picture's hits that are still found. τ: Kendall's agreement of both orders, "
    "1 the same. Cosine: between the vectors of both pictures. ↑ ↓: places won or lost; new: not found before."
)
ROBUSTNESS_START = "**Nothing is distorted yet:** move a slider and watch which hits stay."
ROBUSTNESS_WORDS = "**Choose a picture:** words cannot be turned or blurred."
WORDS_LEFT_OUT = "Only the picture counts here, not the words."
SLIDERS = {
    Kind.ROTATION: "Rotation (degrees)",
    Kind.CROP: "Crop (% cut away)",
    Kind.BLUR: "Blur (% of the shorter side)",
    Kind.GREY: "Grey (% mixed in)",
    Kind.QUALITY: "JPEG quality (100 is off)",
}
KINDS = {
    Kind.ROTATION: "Rotation",
    Kind.CROP: "Crop",
    Kind.BLUR: "Blur",
    Kind.GREY: "Grey",
    Kind.QUALITY: "JPEG quality",
}
RESET = "Back to none"
DISTORTED = "What is searched"
AS_IT_IS = "as it is"
AS_DISTORTED = "distorted"
SWEEP = "Try every distortion"
SWEEP_NOTE = "Tries each distortion alone, weak to strong, and shows the share of hits that CLIP and raw pixels keep."
SWEPT = "Overlap by distortion"
SWEPT_FEATURES = (Features.CLIP, Features.PIXELS)
PENDING = "…"


def strength(kind: Kind, value: float) -> str:
    """Return how strong a distortion is, with its unit."""
    if kind is Kind.ROTATION:
        return f"{value:g}°"
    return f"{value:g}" if kind is Kind.QUALITY else f"{value * 100:g} %"


def about_distortion(distortion: Distortion) -> str:
    """Return what was done to a picture, for who cannot see it."""
    verbs = {
        Kind.ROTATION: "rotated by {}",
        Kind.CROP: "cropped by {}",
        Kind.BLUR: "blurred by {} of its shorter side",
        Kind.GREY: "{} grey",
        Kind.QUALITY: "saved as JPEG of quality {}",
    }
    done = [
        verb.format(strength(kind, getattr(distortion, kind)))
        for kind, verb in verbs.items()
        if getattr(distortion, kind) != getattr(UNDISTORTED, kind)
    ]
    return f"The query picture, {', '.join(done) or 'undistorted'}"


def withstood(result: Withstood) -> str:
    """Return what a distortion left of a ranking."""
    k = len(result.undistorted.hits)
    return (
        f"**{FEATURES[result.distorted.features]}** · overlap@{k} {result.overlap:.2f} · τ {result.tau:.2f} · "
        f"cosine {result.cosine:.2f}"
    )


def sweep_columns() -> list[str]:
    """Return the heads of the table of a sweep."""
    return ["Distortion", *(FEATURES[features] for features in SWEPT_FEATURES)]


def sweep_rows(steps: Sequence[Step]) -> list[list[str]]:
    """Return the table of a sweep, with what is not tried yet left open."""
    done = {(step.kind, step.distortion): step for step in steps}
    return [
        [
            f"{KINDS[kind]} {strength(kind, getattr(distortion, kind))}",
            *(
                f"{step.overlap(features):.2f}" if (step := done.get((kind, distortion))) else PENDING
                for features in SWEPT_FEATURES
            ),
        ]
        for kind, distortions in DISTORTIONS.items()
        for distortion in distortions
    ]


def sweep_progress(done: int, total: int) -> str:
    """Return how far a sweep is."""
    return f"{done} of {total} distortions tried ..."


def lesson(steps: Sequence[Step]) -> str:
    """Return one sentence on which features kept more of their hits under what, by the figures as they are shown."""
    k = len(steps[0].withstood[Features.CLIP].undistorted.hits)
    clip, pixels, both = list[str](), list[str](), list[str]()
    for kind, means in mean_overlaps(steps).items():
        a, b = (f"{means[features]:.2f}" for features in (Features.CLIP, Features.PIXELS))
        name = "JPEG" if kind is Kind.QUALITY else KINDS[kind].lower()
        if a == b:
            both.append(f"{name} ({a})")
        elif float(a) > float(b):
            clip.append(f"{name} ({a} against {b})")
        else:
            pixels.append(f"{name} ({b} against {a})")
    parts = [
        f"{who} under {_listed(what)}"
        for who, what in (
            ("CLIP features keep more", clip),
            ("raw pixels keep more", pixels),
            ("both keep the same", both),
        )
        if what
    ]
    return f"Mean overlap@{k} for this picture: {'; '.join(parts)}."


def _listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
