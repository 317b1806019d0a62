"""Scores that chance gives: random pairs for images, meaningless texts for texts; and the verdict from them."""

import numpy as np
import pytest

from retrieval.analysis.explanation import CONVINCING, verdict
from retrieval.errors import QueryError
from retrieval.metrics import DEFINITIONS, QUANTILES, Metric, closeness
from retrieval.search.query import Query
from retrieval.search.validation import checked_cutoff, checked_min_score

RANDOM = [
    "qzx",
    "vbnwk",
    "rtplk",
    "xxyz",
    "jjwq",
    "mnbvt",
    "kdfgj",
    "zzkp",
    "wqrtz",
    "plkmh",
    "fgdsx",
    "hjkqw",
    "bvcxz",
]
FOREIGN = [
    "rote Früchte",
    "una casa en la montaña",
    "ciseaux",
    "ryba",
    "pomme rouge",
    "perro",
    "poisson",
    "Vogel",
    "Schloss",
]
UNREADABLE = ["кошка", "猫", "собака на траве"]
MEANT = [
    "cat",
    "pizza",
    "guitar",
    "violin",
    "rocket",
    "umbrella",
    "a smiling face",
    "house",
    "bicycle",
    "snake",
    "lion",
    "heart",
]


def convincing(searcher, text, metric=Metric.COSINE):
    index = searcher.indexes.get()
    query = Query(text=text, metric=metric, top_k=1)
    found, said = verdict(query, searcher.search(query, index), index, searcher.chance)
    assert said
    return found


@pytest.mark.parametrize("metric", Metric)
def test_random_and_foreign_texts_have_no_convincing_match(icons_searcher, metric):
    texts = [*RANDOM, *FOREIGN, *UNREADABLE]
    found = [text for text in texts if convincing(icons_searcher, text, metric)]
    assert len(found) <= len(texts) // 10, found
    assert not any(text in found for text in UNREADABLE)


@pytest.mark.parametrize("metric", Metric)
def test_english_texts_have_a_convincing_match(icons_searcher, metric):
    assert all(convincing(icons_searcher, text, metric) for text in MEANT)


@pytest.mark.parametrize("metric", Metric)
@pytest.mark.parametrize("query", [Query(position=3), Query(text="pizza")], ids=["image", "text"])
def test_score_is_the_inverse_of_the_share(icons_searcher, metric, query):
    query = Query(**{**vars(query), "metric": metric})
    index, chance = icons_searcher.indexes.get(), icons_searcher.chance
    scores = [chance.score(index, query, share) for share in (0.05, 0.5, CONVINCING)]
    near = [float(closeness(metric, np.array(score))) for score in scores]
    assert near == sorted(near, reverse=True)
    for share, score in zip((0.05, 0.5, CONVINCING), scores, strict=True):
        assert chance.share(index, query, score) == pytest.approx(share, abs=0.01)
    quantiles = index.manifest.background["clip"][metric]
    if query.text:
        return
    wanted = 0.5 if not DEFINITIONS[metric].smaller_is_closer else 1 - 0.5
    assert scores[1] == pytest.approx(np.interp(wanted, QUANTILES, quantiles))


def test_image_with_text_is_not_judged(icons_searcher, queries):
    index = icons_searcher.indexes.get()
    query = Query(picture=queries / "pizza.png", text="red")
    assert verdict(query, icons_searcher.search(query), index, icons_searcher.chance) == (True, "")
    assert icons_searcher.chance.score(index, query, 0.9) is None


@pytest.mark.parametrize("metric", Metric)
@pytest.mark.parametrize("alike", [0.8, 1.0])
def test_min_score_keeps_a_prefix_of_the_ranking(icons_searcher, queries, metric, alike):
    query = Query(picture=queries / "fox.png", metric=metric, top_k=12, alike=alike)
    everything = icons_searcher.search(query).hits
    limit = everything[4].score
    kept = icons_searcher.search(Query(**{**vars(query), "min_score": limit})).hits
    assert kept == everything[:5]
    better = limit - 1e-6 if DEFINITIONS[metric].smaller_is_closer else limit + 1e-6
    assert len(icons_searcher.search(Query(**{**vars(query), "min_score": better})).hits) < 5


def test_numbers_are_checked():
    assert (checked_min_score(None), checked_min_score(""), checked_min_score(2)) == (None, None, 2.0)
    for wrong in ("x", float("nan"), float("inf"), True, [1]):
        with pytest.raises(QueryError, match="min_score must be a number"):
            checked_min_score(wrong)
    for wrong in (-1, 101, "x", None):
        with pytest.raises(QueryError, match="cut-off must be a number from 0 to 100"):
            checked_cutoff(wrong)
