"""The vector of a query is computed once, no matter how many searches or threads need it."""

import itertools
import threading
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from retrieval.analysis.comparison import compare
from retrieval.engines import ENGINES
from retrieval.errors import PictureError
from retrieval.features import DEFAULT_SET, Vectors
from retrieval.metrics import Metric
from retrieval.pictures.distortion import UNDISTORTED, Distortion
from retrieval.search.embedding import QueryPictures
from retrieval.search.query import Query
from retrieval.search.searcher import Searcher
from retrieval.search.vector_cache import VectorCache
from tests.support.forwards import ForwardCounter
from tests.support.waiting import PATIENCE

VISITORS = 6


@pytest.fixture
def searcher(icons_searcher: Searcher) -> Searcher:
    """A searcher with an empty cache of vectors that shares the loaded model."""
    fresh = Searcher(icons_searcher.indexes)
    fresh.embedder.loaded = icons_searcher.embedder.loaded
    return fresh


@pytest.fixture
def forwards(searcher: Searcher) -> Iterator[ForwardCounter]:
    model = searcher.embedder.loaded.get("clip", searcher.indexes.get().manifest.model)._model
    counter = ForwardCounter()
    handle = model.vision_model.register_forward_pre_hook(counter, with_kwargs=True)
    yield counter
    handle.remove()


def test_changing_settings_does_not_embed_a_picture_again(
    searcher: Searcher, forwards: ForwardCounter, queries: Path
) -> None:
    picture = Query((queries / "fox.png").read_bytes())
    found = set()
    for metric, engine, k, labels, alike in itertools.product(
        Metric, ENGINES, (1, 12), ((), ("animal-mammal",)), (1.0, 0.9)
    ):
        asked = replace(picture, metric=metric, engine=engine, top_k=k, labels=labels, alike=alike)
        found.add(searcher.search(asked).hits)
    compare(searcher, picture)
    assert len(found) > 8, "the settings changed nothing"
    assert forwards.pictures == [1]
    searcher.search(replace(picture, region=(0, 0, 0.5, 1)))
    assert forwards.pictures == [1, 1], "the counter does not see the model"


class CountingCache(VectorCache):
    """Counts the calls in the semaphore `asked`."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = threading.Semaphore(0)

    def vectors(self, keys: Sequence[Hashable], compute: Callable[[Sequence[int]], Iterable[Vectors]]) -> list[Vectors]:
        self.asked.release()
        return super().vectors(keys, compute)


def test_concurrent_searches_for_a_picture_embed_it_once(
    searcher: Searcher, forwards: ForwardCounter, queries: Path
) -> None:
    cache = searcher.embedder.cache = CountingCache()
    query = Query((queries / "castle.png").read_bytes())
    forwards.open.clear()
    with ThreadPoolExecutor(VISITORS) as pool:
        asked = [pool.submit(searcher.search, replace(query, top_k=k)) for k in range(1, VISITORS + 1)]
        for _ in asked:
            assert cache.asked.acquire(timeout=PATIENCE)
        forwards.open.set()
        hits = [each.result(PATIENCE).hits for each in asked]
    assert forwards.pictures == [1]
    assert [len(each) for each in hits] == list(range(1, VISITORS + 1))


def test_sweep_reuses_the_vector_of_a_search(searcher: Searcher, forwards: ForwardCounter, queries: Path) -> None:
    query = Query((queries / "turtle.png").read_bytes())
    searcher.search(query)
    distortions = [UNDISTORTED, Distortion(grey=1), UNDISTORTED, Distortion(blur=0.05)]
    vectors = QueryPictures(searcher.embedder, searcher.indexes.get(), query, []).main.vectors(distortions)
    assert forwards.pictures == [1, 2]
    for found in vectors.values():
        assert len(found) == len(distortions)
        np.testing.assert_array_equal(found[0], found[2])
        assert len(np.unique(found, axis=0)) == 3


def test_waiting_threads_share_an_error_and_the_next_call_retries() -> None:
    cache = VectorCache()
    begun, go, others = threading.Event(), threading.Event(), threading.Event()

    def fail(places: Sequence[int]) -> list[Vectors]:
        begun.set()
        assert go.wait(PATIENCE)
        raise PictureError("damaged")

    def succeed(places: Sequence[int]) -> list[Vectors]:
        others.set()
        return [np.full(1, place, np.float32) for place in places]

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(cache.vectors, ["a", "b"], fail)
        assert begun.wait(PATIENCE)
        second = pool.submit(cache.vectors, ["c", "b", "c"], succeed)
        assert others.wait(PATIENCE), "c is computed before b is waited for"
        assert "b" not in cache
        go.set()
        for waiting in (first, second):
            with pytest.raises(PictureError, match="damaged"):
                waiting.result(PATIENCE)
    assert [vector.item() for vector in cache.vectors(["a", "c", "b"], succeed)] == [0, 0, 2]


@pytest.mark.parametrize(("size", "numbers", "kept"), [(2, 1000, 2), (100, 30, 3), (100, 5, 1)])
def test_least_recently_used_vectors_are_evicted(size: int, numbers: int, kept: int) -> None:
    cache = VectorCache(size, numbers)
    for key in range(6):
        cache.vectors([key], lambda _: [np.zeros(10, np.float32)])
        cache.vectors([0], lambda _: [np.zeros(10, np.float32)])
    assert [key for key in range(6) if key in cache] == ([0, *range(7 - kept, 6)] if kept > 1 else [0])


def test_vectors_of_both_feature_types_are_cached(searcher: Searcher, queries: Path) -> None:
    query = Query((queries / "cat.png").read_bytes())
    for features in DEFAULT_SET:
        assert searcher.search(replace(query, features=features)).timings.features > 0
        assert searcher.search(replace(query, features=features, metric=Metric.L1)).timings.features == 0
