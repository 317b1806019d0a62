"""Queries of several images and texts: Rocchio's formula, and what feature types without text do."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from retrieval.engines import ENGINES
from retrieval.errors import PictureError, QueryError
from retrieval.features import DEFAULT_SET
from retrieval.metrics import Metric
from retrieval.pictures.loading import load_picture
from retrieval.search.query import Added, Query
from retrieval.search.searcher import Searcher
from retrieval.search.validation import added_to
from tests.support.forwards import ForwardCounter

LIKED, DISLIKED = (Added(position=10), Added(position=20)), (Added(position=30, more=False),)


def unit(vector: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    return vector.astype(np.float64) / np.linalg.norm(vector.astype(np.float64))


@pytest.mark.parametrize("features", DEFAULT_SET)
def test_vector_is_that_of_rocchios_formula(icons_searcher: Searcher, features: str) -> None:
    index = icons_searcher.indexes.get()
    start, first, second, third = (row.astype(np.float64) for row in index.vectors(features)[[5, 10, 20, 30]])
    query = Query(position=5, added=(*LIKED, *DISLIKED), features=features)
    expected = unit(unit(start) + 0.75 * (unit(first) + unit(second)) / 2 - 0.5 * unit(third))
    expected *= np.mean([np.linalg.norm(each) for each in (start, first, second)])
    found = icons_searcher.embedder.embed(index, query).vector
    np.testing.assert_allclose(found, expected, atol=2e-6)


def test_only_added_images_make_a_query(icons_searcher: Searcher) -> None:
    index = icons_searcher.indexes.get()
    found = icons_searcher.embedder.embed(index, Query(added=LIKED)).vector
    vectors = index.vectors("clip")
    np.testing.assert_allclose(found, unit(vectors[10] + vectors[20]), atol=1e-6)
    for nothing in (Query(added=DISLIKED), Query(added=DISLIKED, text="- cat")):
        with pytest.raises(QueryError, match="only says what to exclude"):
            icons_searcher.search(nothing)
    with pytest.raises(PictureError, match="no query image"):
        icons_searcher.search(Query())


def test_signs_in_a_text_and_excluded_text_are_the_same(icons_searcher: Searcher, queries: Path) -> None:
    signed = Query(queries / "cat.png", text="- night + day")
    apart = replace(signed, text="day", without="night")
    assert icons_searcher.search(signed).hits == icons_searcher.search(apart).hits
    index, embedder = icons_searcher.indexes.get(), icons_searcher.embedder
    image, day, night = (
        embedder.embed(index, each).vector
        for each in (Query(queries / "cat.png"), Query(text="day"), Query(text="night"))
    )
    expected = unit(0.5 * unit(image) + 0.5 * unit(day) - 0.5 * unit(night))
    np.testing.assert_allclose(embedder.embed(index, signed).vector, expected, atol=1e-6)
    two = embedder.embed(index, Query(text="day + night")).vector
    np.testing.assert_allclose(two, unit(unit(day) + unit(night)), atol=1e-6)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("metric", Metric)
@pytest.mark.parametrize("features", DEFAULT_SET)
def test_items_of_the_query_are_not_among_its_results(
    icons_searcher: Searcher, features: str, metric: Metric, engine: str
) -> None:
    query = Query(position=5, added=(*LIKED, *DISLIKED), features=features, metric=metric, engine=engine, top_k=30)
    found = [hit.position for hit in icons_searcher.search(query).hits]
    assert len(found) == 30
    assert not {5, 10, 20, 30} & {*found}
    assert found != [hit.position for hit in icons_searcher.search(replace(query, added=())).hits]


def test_more_of_a_result_raises_its_score_and_less_lowers_it(icons_searcher: Searcher) -> None:
    index = icons_searcher.indexes.get()
    for features in DEFAULT_SET:
        vector = unit(index.vectors(features)[700])
        scores = [
            unit(icons_searcher.embedder.embed(index, Query(position=5, added=added, features=features)).vector)
            @ vector
            for added in ((Added(position=700, more=False),), (), (Added(position=700),))
        ]
        assert scores == sorted(scores)
        assert len(set(scores)) == 3


def test_added_file_is_embedded_once_for_all_settings(icons_searcher: Searcher, queries: Path) -> None:
    fresh = Searcher(icons_searcher.indexes)
    fresh.embedder.loaded = icons_searcher.embedder.loaded
    model = fresh.embedder.loaded.get("clip", fresh.indexes.get().manifest.model)._model
    counter = ForwardCounter()
    handle = model.vision_model.register_forward_pre_hook(counter, with_kwargs=True)
    query = Query(queries / "cat.png", added=(Added(queries / "fox.png"), Added(queries / "lion.png", more=False)))
    for metric in Metric:
        fresh.search_each(replace(query, metric=metric), DEFAULT_SET)
    handle.remove()
    assert counter.pictures == [1, 1, 1]


def test_image_is_the_same_as_bytes_file_and_decoded(icons_searcher: Searcher, queries: Path) -> None:
    path = queries / "fox.png"
    hits = {
        icons_searcher.search(Query(position=5, added=(Added(each),))).hits
        for each in (path, path.read_bytes(), load_picture(path))
    }
    assert len(hits) == 1


def test_features_without_text_use_the_images_and_say_so(icons_searcher: Searcher) -> None:
    asked = Query(position=5, added=LIKED, text="red", features="pixels")
    found, alone = icons_searcher.search(asked), icons_searcher.search(replace(asked, text=""))
    assert found.hits == alone.hits
    assert found.to_json()["notes"] == ["Raw pixels do not support text, so only the images are searched."]
    assert alone.to_json()["notes"] == []
    assert icons_searcher.search(replace(asked, position=None)).notes == found.notes
    for added in ((), DISLIKED):
        with pytest.raises(QueryError, match="Text search needs CLIP features"):
            icons_searcher.search(Query(text="red", added=added, features="pixels"))


@pytest.mark.parametrize("text", ["猫", "Привет мир"])
def test_ranking_says_that_a_text_cannot_be_read(icons_searcher: Searcher, text: str) -> None:
    for query in (Query(text=text), Query(position=5, text=f"red - {text}"), Query(position=5, without=text)):
        for _ in range(2):  # the second time from the cache
            [note] = icons_searcher.search(query).notes
            assert note.startswith(f'The model mini cannot read most of "{text}"')


def test_emoji_are_searched_by_their_names(icons_searcher: Searcher) -> None:
    found, named = icons_searcher.search(Query(text="🎉")), icons_searcher.search(Query(text="party popper"))
    assert found.hits == named.hits
    assert found.notes == ("Emoji are searched by their names: party popper.",)
    assert not named.notes


def test_long_text_is_reported(icons_searcher: Searcher) -> None:
    [note] = icons_searcher.search(Query(text="a cat " * 20)).notes
    assert "reads 40 tokens" in note


def test_number_of_added_images_is_limited(icons_searcher: Searcher) -> None:
    index = icons_searcher.indexes.get()
    some = [index.entry(position).id for position in range(17)]
    assert added_to(index, some[:9], some[9:16])[8:10] == (Added(position=8), Added(position=9, more=False))
    with pytest.raises(QueryError, match="16 added images, not 17"):
        added_to(index, some[:9], some[9:])
    with pytest.raises(QueryError, match="has no image 'nothing'"):
        added_to(index, ["nothing"], [])
