"""Explain a ranking in sentences, for the page and the command line: what its scores mean, and how long it took."""

from collections.abc import Sequence

from retrieval.analysis.agreement import positions, share_found
from retrieval.analysis.comparison import equal_by_mathematics
from retrieval.engines import ENGINES
from retrieval.features import FEATURES
from retrieval.labels import METRICS
from retrieval.metrics import DEFINITIONS, Metric
from retrieval.search.chance import Chance
from retrieval.search.query import Hit, Query, Ranking
from retrieval.storage.reader import Entry, GalleryIndex

# In trials, nearly all correct best matches lay above it, and the best matches of photos among icons lay below it.
CONVINCING = 0.985
CONVINCING_TEXT = 0.98  # of the best scores of meaningless texts; foreign and invented words lie below it


def name_of(entry: Entry | Hit) -> str:
    """Return the name of an image: its caption, else its label, else its id."""
    return entry.caption or entry.label or entry.id


def number(score: float) -> str:
    """Return a score with three decimals, or with one if it is 100 or more."""
    return f"{score:.1f}" if abs(score) >= 100 else f"{score:.3f}"


def duplicates(hit: Hit) -> str:
    """Return the number of near-duplicates that a hit hides, or an empty text."""
    return f"+{hit.duplicates} near-duplicate{'' if hit.duplicates == 1 else 's'}" if hit.duplicates else ""


def caption(hit: Hit) -> str:
    """Return the line below a result: rank, name, score, and the number of hidden near-duplicates."""
    return " · ".join(filter(None, [f"{hit.rank}. {name_of(hit)}", number(hit.score), duplicates(hit)]))


def combination(features: str, metric: Metric) -> str:
    """Return the name of a feature type with a metric."""
    return f"{FEATURES[features].title} · {METRICS[metric]}"


def listed(names: Sequence[str]) -> str:
    """Return names with commas and an "and" between them."""
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def explain(query: Query) -> str:
    """Return the formula, direction and scale of a query's scores, and which choices give the same order."""
    definition, used = DEFINITIONS[query.metric], FEATURES[query.features]
    direction = "smaller is closer" if definition.smaller_is_closer else "larger is closer"
    parts = [f"Score: {definition.title} = {definition.formula}; {direction}, {definition.scale}."]
    if query.text and not query.shows:
        parts.append(
            f"{used.title} of texts and images lie apart, so text queries have low scores: compare their order, "
            "not their values."
        )
    if reason := equal_by_mathematics(query.features, query.metric)[1]:
        parts.append(reason)
    elif used.near_zero_mean and query.metric is Metric.CORRELATION:
        parts.append(f"{used.title} have a mean close to 0, so correlation gives nearly the same order as cosine.")
    parts.append(ENGINES[query.engine].about(query.metric))
    return " ".join(filter(None, parts))


def verdict(query: Query, ranking: Ranking, index: GalleryIndex, chance: Chance) -> tuple[bool, str]:
    """Return whether the best result is convincing, and how its score compares with those that chance gives.

    The text is empty for queries of several parts with an image, whose scores are not comparable with others.
    """
    if not ranking.hits:
        return True, ""
    share = chance.share(index, query, ranking.hits[0].score)
    if share is None:
        return True, ""
    if query.has_text:
        if not chance.reads(index, query):
            return False, "No convincing match: the model does not know these words or characters."
        if share < CONVINCING_TEXT:
            return False, "No convincing match: random letters would score about as well."
        return True, "The best match scores higher than random letters do."
    if share < CONVINCING:
        return False, "No convincing match: a random image would score about as well."
    closer = "99.9%" if share > 0.9995 else f"{share:.1%}"
    return True, f"Convincing match: closer than {closer} of random pairs in this gallery."


def recall(ranking: Ranking, exact: Ranking) -> str:
    """Return the share of the exact results that an approximate ranking found, and how long the exact scan took."""
    wanted = positions(exact)
    share = share_found(positions(ranking), wanted)
    return f" · recall@{len(wanted)} {share:.2f} ({ENGINES[exact.engine].title.lower()}: {exact.timings.search:.1f} ms)"


def timings(ranking: Ranking) -> str:
    """Return one line of milliseconds, gallery size, engine, model and dtype."""
    t = ranking.timings
    used = str(ranking.model) if FEATURES[ranking.features].has_model else "no model"
    return (
        f"decode {t.decode:.1f} ms · features {t.features:.1f} ms · search {t.search:.1f} ms · "
        f"total {t.total:.1f} ms · {ranking.size:,} images · {ENGINES[ranking.engine].title} · {used}"
    )
