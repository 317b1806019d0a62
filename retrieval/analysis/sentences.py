"""What the program says about scores and results, in English; shared by the page and the command line."""

import re
from collections.abc import Sequence
from datetime import datetime

from retrieval.analysis.agreement import positions, share_found
from retrieval.analysis.comparison import Cell, equal_by_mathematics
from retrieval.analysis.evaluation import Result
from retrieval.analysis.gallery_map import Marks
from retrieval.analysis.robustness import SWEEP as DISTORTIONS
from retrieval.analysis.robustness import Kind, Step, Withstood, mean_overlaps
from retrieval.engines import ENGINES as ENGINE_TYPES
from retrieval.features import FEATURES as KINDS_OF_FEATURES
from retrieval.features import default_first
from retrieval.features.base import FeatureIdentity
from retrieval.gallery.source import BUNDLED_GALLERY
from retrieval.indexing.progress import Phase, Stage
from retrieval.metrics import DEFINITIONS, Metric
from retrieval.pictures.distortion import UNDISTORTED, Distortion
from retrieval.search.query import Hit, Query, Ranking
from retrieval.storage.manifest import SKIPPED_LISTED, Manifest
from retrieval.storage.projection import Method
from retrieval.storage.reader import Entry, GalleryIndex

FEATURES = {name: kind.title for name, kind in KINDS_OF_FEATURES.items()}
METRICS = {metric: definition.title for metric, definition in DEFINITIONS.items()}
ENGINES = {name: engine.title for name, engine in ENGINE_TYPES.items()}

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
REGION_PART = "Search only a part"
REGION_WHOLE = "Search the whole picture"
REGION_WHERE = "Searched: {left} to {right} across, {top} to {bottom} down."
REGION_KEYS = "Arrow keys move the box, with Shift they resize it, Escape removes it."
LINK = "Link to this search"
COPY = "Copy"
COPIED = "Copied."
LINK_OWN = "Your own picture is not part of it."
LINK_BROKEN = "The link could not be opened as a whole."
EXAMPLES = "Or try one of these"
RESULTS = "Closest pictures"
RESULTS_SAID = "{count} pictures found, the closest: {first}"
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
TEXT_EXAMPLE = "for example: red fruit"
MORE = "More ways to ask"
BALANCE = "Picture and words: 0 picture alone, 1 words alone"
WITHOUT = "Leave out, in words"
WORDS_OFF = "Off: raw pixels know no words. Switch to CLIP features."
LABELS = "Only these classes"
ALIKE = "Show near-duplicates once, from this likeness on (1: show all)"
TRAIL = "Back to"
STEP = "query"
TAB_SEARCH = "Search"
TAB_COMPARE = "Compare"
TAB_EVALUATE = "Evaluate"
BASELINE = "Compared with"
SHOWN_ENGINE = "Show the hits of"
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
OUT_OF_TIME = "Stopped: this page gives nobody more time at once, since others wait. What is there holds; ask for less."
STOPPING = "This page is being stopped. Try again in a minute."
# What /health says.
UNREADY_STARTING = "starting: the model and the index are being loaded"
UNREADY_STOPPING = "stopping: no new searches are taken"
UNREADY_HUNG = "a search does not come back"
UNREADY_INDEX = "the index cannot be searched; the log says why"
UNREADY_MODEL = "the model cannot be used; the log says why"
UNREADY_SEARCH = "a search fails; the log says why"
FIGURES = "Figures"
DOWNLOAD = "Download as CSV"
EVALUATION_COLUMNS = ["Features", "Metric", "P@1", "P@5", "mAP or AP"]
NO_LABEL = "This needs a picture whose label is known. Click a result in the Search tab, then come back."
TAB_MAP = "Map"
METHODS = {Method.PCA: "PCA", Method.TSNE: "t-SNE"}
METHOD_LABEL = "Laid out by"
MAP_NAME = "Map of the gallery: each point is a picture"
MAP_KEYS = (
    "Point at a picture to see it; click makes it the query (touch: tap twice). Drag to move; zoom by the buttons, by "
    "pinching a touchpad, or Ctrl and the wheel. Keys: arrows go from picture to picture, Enter makes it the query, "
    "+ and - zoom, 0 shows all."
)
MAP_ZOOM_IN = "Zoom in"
MAP_ZOOM_OUT = "Zoom out"
MAP_ALL = "Show all"
MAP_QUERY = "your query"
MAP_HITS = "its closest pictures"
MAP_HIT = "hit"
MAP_OTHER = "other labels"
MAP_UNLABELLED = "no label"
MAP_LEGEND = "Labels: click one to see it alone"
NO_MAP = (
    "**This gallery has no map yet.** Its index was made before there were maps. Whoever runs this page adds them in "
    "seconds, without indexing again: `python index_builder.py` with the same flags as before."
)
OWNER = "The index or the model has a fault that only the owner of this page can mend; the log says which."
NO_FILE = "The picture is none that was uploaded here. Upload it again."
NO_PICTURE = "There is no such picture."
NO_IMAGE = "The argument image is missing. Send a picture: handle_file('cat.jpg'), or its bytes in base64."
TOO_LARGE = "The request is too large. Send a smaller picture."
CROWDED = "Too much is sent to this page at once. Try again in a minute."
UNUSED = "This page has no such thing."
FULL = "The disk of this server is full, so it takes no pictures now. Try again later."
NO_ADDRESS = "This server fetches no addresses. Send the picture itself."
NO_BASE64 = "The image is no picture in base64. Send one as data:image/png;base64,... and no address or path of a file."
PICTURE_ARGUMENT = "A file (in Python: handle_file), or its bytes in base64 as data:image/png;base64,..."

TAB_GALLERIES = "Galleries"
BUILD_NOTE = (
    "Make a gallery of your own pictures, and search in it right away. The other tabs keep working meanwhile. "
    "A build goes on when you close this page; open it again to see how far it is. Whoever stops one can go on later."
)
BUILD = {
    "dataset": "Data set",
    "gallery": "Name of the gallery",
    "limit": "Only the first",
    "model": "Model",
    "split": "Split",
    "config": "Configuration",
    "revision": "Revision",
    "image_column": "Column of the pictures",
    "label_column": "Column of the class",
    "caption_column": "Column of the caption",
    "rebuild": "Replace the gallery of this name, if there is one",
}
BUILD_DATASET_EXAMPLE = "~/photos"
BUILD_DATASET_INFO = "A folder of pictures, a parquet file, or a data set on the Hub (org/name)"
BUILD_GALLERY_INFO = "Empty: after the data set"
BUILD_LIMIT_INFO = "Pictures; empty: all"
BUILD_MODEL_SHOWN = "As the gallery shown"
BUILD_MODEL_AUTO = "auto: OpenCLIP if it can be had"
BUILD_MODEL_MINI = "mini: the bundled one"
BUILD_MODEL_INFO = "Or type a Hub id or a folder"
BUILD_MORE = "More: split, revision, columns"
BUILD_STREAMING = "Read row by row, without downloading all first"
BUILD_START = "Build"
BUILD_PROGRESS = "Progress of the build"
BUILD_FOUND = "Found. Its pictures stay where they are; the index keeps small copies."
BUILD_ON_HUB = "Not on this machine, so it is looked up on the Hugging Face Hub. Code from data sets is never run."
BUILD_NO_DATASET = "Say which data set: a folder of pictures, a parquet file, or a data set on the Hub (org/name)."
FOREIGN = "Galleries are only built from this page, opened on the machine that it runs on."
PHASES = {
    Phase.OPENING: "opening the data set; one on the Hub is downloaded first",
    Phase.FINDING: "looking for the model; one on the Hub is downloaded first",
    Phase.LOADING: "loading the model",
    Phase.PICTURES: "working on the first ones",
    Phase.FINISHING: "all pictures are read; writing the index",
}
GALLERIES = "Galleries in the index"
GALLERY_COLUMNS = ["Name", "Data set", "Pictures", "Skipped", "Model", "Built", "On disk"]
BUNDLED_DATASET = "the bundled icons"
SKIPPED = "Skipped pictures"
SKIPPED_COLUMNS = ["Picture", "Reason"]


def on_page(text: str) -> str:
    """Return an error of the builder with the fields' names in place of the flags', unless it gives a command."""
    if "python " in text:
        return text
    return re.sub(
        r"`?--([a-z]+(?:-[a-z]+)?)`?",
        lambda m: f"“{BUILD[key]}”" if (key := m[1].replace("-", "_")) in BUILD else m[0],
        text,
    )


def building(name: str, stage: Stage, now: float, stopping: bool) -> str:
    """Return how far a build is.

    Args:
        name: the gallery.
        stage: what it is at.
        now: `time.monotonic()`, in seconds.
        stopping: whether somebody has asked it to stop.
    """
    if stopping:
        return f"{name}: stopping after the step that it is at ..."
    if stage.phase is not Phase.PICTURES or (stage.total is None and not stage.done):
        return f"{name}: {PHASES[stage.phase]} ... {duration(now - stage.since)}"
    parts = [f"{name}: {stage.done:,}" + (f" of {stage.total:,} pictures" if stage.total is not None else " pictures")]
    if stage.before:
        parts.append(f"{stage.before:,} from before")
    if stage.rate is None:
        parts.append(f"{PHASES[stage.phase]} ...")
    else:
        parts.append(f"{stage.rate:.1f} pictures/s")
    if stage.left is not None:
        parts.append(f"{duration(max(0.0, stage.left - (now - stage.at)))} left")
    return " · ".join(parts)


def duration(seconds: float) -> str:
    """Return seconds as people say them, in the two largest units."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def ready(manifest: Manifest) -> str:
    """Return that a gallery is built."""
    skipped = f", {manifest.skipped:,} skipped" if manifest.skipped else ""
    return f"{manifest.gallery} is ready: {manifest.pictures:,} pictures{skipped}. It is the gallery shown now."


def stopped(stage: Stage) -> str:
    """Return that a build was stopped, and that nothing is lost."""
    kept = f" after {stage.done:,} pictures" if stage.done else ""
    return f"Stopped{kept}. Start the same again, and it goes on from there."


def gallery_row(manifest: Manifest) -> list[str]:
    """Return a gallery's row in the table of galleries."""
    built = datetime.fromisoformat(manifest.created).astimezone()
    source = manifest.source
    dataset = BUNDLED_DATASET if source.path == BUNDLED_GALLERY else source.dataset
    return [
        manifest.gallery,
        dataset + (f" ({source.split})" if source.split else ""),
        f"{manifest.pictures:,}",
        f"{manifest.skipped:,}",
        manifest.model.title,
        f"{built:%Y-%m-%d %H:%M}",
        f"{manifest.bytes / 1e6:,.1f} MB",
    ]


def gallery_unreadable(name: str, error: Exception) -> list[str]:
    """Return the row of a gallery whose manifest cannot be read."""
    return [name, str(error), *[""] * (len(GALLERY_COLUMNS) - 2)]


def skipped(manifest: Manifest) -> str:
    """Return how many pictures of a gallery were skipped."""
    if not manifest.skipped:
        return f"`{manifest.gallery}`: no picture was skipped. Click a gallery to see what was skipped of it."
    listed = f" (the first {SKIPPED_LISTED:,} are listed)" if manifest.skipped > SKIPPED_LISTED else ""
    return f"`{manifest.gallery}`: {manifest.skipped:,} skipped{listed}. Click a gallery to see what was skipped of it."


def about_model(model: FeatureIdentity, why: str) -> str:
    """Return one line on the model in use, and why it is this one."""
    return f"CLIP model: **{model.title}** ({model.dtype}, {model.dimensions} numbers a picture); {why}."


def name_of(entry: Entry | Hit) -> str:
    """Return what a picture is called: its caption, else its label, else its id."""
    return entry.caption or entry.label or entry.id


def number(score: float) -> str:
    """Return a score with four significant digits behind a leading zero, or one decimal when it is large."""
    return f"{score:.1f}" if abs(score) >= 100 else f"{score:.3f}"


def caption(hit: Hit) -> str:
    """Return the line below a result: rank, name, score, and how many near-duplicates it stands for."""
    more = f" · +{hit.duplicates} alike" if hit.duplicates else ""
    return f"{hit.rank}. {name_of(hit)} · {number(hit.score)}{more}"


def explain(query: Query) -> str:
    """Return one line on the score: what it is, which way it points, and which toggles cannot differ."""
    definition = DEFINITIONS[query.metric]
    direction = "smaller is closer" if definition.smaller_is_closer else "larger is closer"
    parts = [f"Score: {definition.title} = {definition.formula}; {direction}, {SCALES[query.metric]}."]
    if query.text and not query.has_picture:
        parts.append("Words and pictures lie apart in CLIP's space, so scores of words are low: read the order.")
    if reason := equal_by_mathematics(query.features, query.metric)[1]:
        parts.append(reason)
    elif KINDS_OF_FEATURES[query.features].near_zero_mean and query.metric is Metric.CORRELATION:
        parts.append("CLIP vectors have a mean close to 0, so correlation nearly repeats cosine.")
    if query.engine == "chroma" and query.metric is Metric.L1:
        parts.append("ChromaDB has no L1: it proposes the nearest by L2, and those are ordered by exact L1.")
    elif query.engine == "chroma":
        parts.append("ChromaDB proposes, and the score is computed exactly; it may miss a picture, never misjudge one.")
    return " ".join(parts)


def meaning(query: Query, ranking: Ranking, index: GalleryIndex) -> str:
    """Return what the best score is worth: its place among random pairs of the gallery. Empty for words."""
    if not ranking.hits or query.text or query.without:
        return ""
    share = index.percentile(query.features, query.metric, ranking.hits[0].score)
    if share is None:
        return ""
    closer = ">99.9%" if share > 0.9995 else f"{share:.1%}"
    place = f"The best hit is closer than {closer} of random pairs of this gallery"
    if share >= CONVINCING:
        return f"{place}."
    return f"**No convincing match.** {place}, which chance alone does among {len(index):,} pictures."


def recall(ranking: Ranking, exact: Ranking) -> str:
    """Return how much of the exact answer an approximate ranking has, and how long each took."""
    wanted = positions(exact)
    share = share_found(positions(ranking), wanted)
    return f" · recall@{len(wanted)} {share:.2f} (exact scan: {exact.timings.search:.1f} ms)"


def map_title(index: GalleryIndex, features: str, method: Method) -> str:
    """Return what a map shows, and how much of the truth is left on it."""
    title = f"{index.manifest.gallery}: {len(index):,} pictures, {FEATURES[features]}, {METHODS[method]}"
    kept = index.map(features, method).kept
    return title if kept is None else f"{title} ({kept:.1%} of the variance)"


def map_note(index: GalleryIndex, features: str, method: Method, drawn: int) -> str:
    """Return how to read a map: what was laid out, by what, and what a distance on it means."""
    projection = index.map(features, method)
    dimensions = index.manifest.dimensions(features)
    shown = f"{len(index):,} pictures" if drawn == len(index) else f"{drawn:,} of {len(index):,} pictures, at random"
    parts = [f"**{shown}, {FEATURES[features]}:** each picture is {dimensions:,} numbers, drawn as 2."]
    sampled = projection.computed_from < len(index)
    if projection.kept is not None:
        parts.append(
            f"PCA keeps the two directions in which the pictures differ most, {projection.kept:.1%} of the variance; "
            "the rest is lost, so far apart here is far apart, but close here may still be far apart."
        )
        if sampled:
            parts.append(f"The directions are those of {projection.computed_from:,} pictures, at random.")
    else:
        parts.append(
            "t-SNE keeps neighbours together; the sizes of groups and the distances between them mean nothing."
        )
        if sampled:
            parts.append(
                f"It was computed from {projection.computed_from:,} pictures, at random; the others lie between their "
                "nearest of those."
            )
    return " ".join(parts)


def map_marks(found: Marks, query: Query) -> str:
    """Return what is marked on a map, and how the query was placed."""
    parts = [f"○ The {len(found.hits)} closest pictures by L2, numbered."]
    if found.query is None:
        parts.append("Words have no place of their own here: CLIP's vectors of words lie apart from all pictures.")
    elif query.text or query.without:
        parts.append("◆ Your picture without the words; the hits are those of both.")
    elif found.estimated:
        parts.append("◆ Your query: t-SNE maps no new pictures, so it lies between its 3 nearest.")
    else:
        parts.append("◆ Your query.")
    return " ".join(parts)


def combination(features: str, metric: Metric) -> str:
    """Return what a combination is called."""
    return f"{FEATURES[features]} · {METRICS[metric]}"


def move(places: int | None) -> str:
    """Return how far a hit stands above or below its place in the baseline."""
    if places is None:
        return "new"
    return "" if places == 0 else f"↑{places}" if places > 0 else f"↓{-places}"


def agreement(shown: Cell, chroma: Cell, is_baseline: bool) -> str:
    """Return how the combination shown agrees with the baseline, and ChromaDB with the exact scan."""
    features, metric = shown.combination.features, shown.combination.metric
    k = len(shown.ranking.hits)
    lines = [f"**{combination(features, metric)}**"]
    if is_baseline:
        lines.append("baseline")
    elif shown.overlap:
        lines.append(f"overlap@{k} {shown.overlap:.2f} · τ {shown.tau:.2f}")
    else:
        lines.append(f"overlap@{k} 0.00")  # without a picture in common there are no two orders to compare
    lines.append(f"ChromaDB: recall@{k} {chroma.recall:.2f}")
    if (same := equal_by_mathematics(features, metric))[1]:
        lines.append(f"*{same[1]}*")
    return "<br>".join(lines)


def evaluated(index: GalleryIndex, queries: int) -> str:
    """Return what was evaluated."""
    return f"{index.manifest.gallery}: leave-one-out over {queries:,} of {len(index):,} pictures, exact scan."


def evaluated_query(name: str, label: str) -> str:
    """Return which query was evaluated."""
    return f"Query {as_text(name)}, label {as_text(label)}: the whole gallery ranked by the exact scan."


def as_text(text: str) -> str:
    """Return a text of a stranger so that Markdown shows its letters, and fetches and links nothing that it names."""
    return re.sub(r"([^\w\s])", lambda sign: f"&#{ord(sign[0])};", text)


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


def best(results: Sequence[Result], average: str) -> str:
    """Return one sentence on the best metrics of each features, by the figures as they are shown; empty without any.

    Args:
        results: of one engine.
        average: what `Result.map` is called, "AP" for a single query.
    """
    parts = list[str]()
    for features in default_first():
        name = KINDS_OF_FEATURES[features].phrase
        shown = {METRICS[r.metric]: f"{r.map:.3f}" for r in results if r.features == features and r.map is not None}
        if shown:
            top = max(shown.values())
            parts.append(f"{top} by {name} with {_listed([metric for metric in shown if shown[metric] == top])}")
    return f"Highest {average}: {'; '.join(sorted(parts, reverse=True))}." if parts else ""


def timings(ranking: Ranking) -> str:
    """Return one line of milliseconds, gallery size, engine, model and dtype."""
    t = ranking.timings
    used = str(ranking.model) if KINDS_OF_FEATURES[ranking.features].has_model else "no model"
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
NOT_AT_ALL = "none"
SWEEP_NOTE = "Tries each distortion alone, weak to strong, and shows the share of hits that CLIP and raw pixels keep."
SWEPT = "Overlap by distortion"
SWEPT_FEATURES = tuple(default_first())
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
    k = len(steps[0].withstood["clip"].undistorted.hits)
    clip, pixels, both = list[str](), list[str](), list[str]()
    for kind, means in mean_overlaps(steps).items():
        a, b = (f"{means[features]:.2f}" for features in default_first())
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
