"""A third engine needs only one module and one line in the registry."""

import logging
from dataclasses import replace
from pathlib import Path

import pytest

import index_builder
from retrieval.analysis.comparison import BASELINE, compare
from retrieval.analysis.evaluation import evaluate, leave_one_out
from retrieval.engines import ENGINES
from retrieval.features import FEATURES
from retrieval.metrics import Metric
from retrieval.search.query import Query
from retrieval.search.searcher import Searcher
from retrieval.storage.catalog import Indexes
from tests.engines.signs import FILE, SignsEngine
from tests.support.builds import NAME, arguments, draw

COUNT = 24


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A labelled gallery, built with the third engine registered."""
    monkeypatch.setitem(ENGINES, "signs", SignsEngine())
    for label in ("a", "b"):
        draw(tmp_path / NAME / label, COUNT // 2)
    assert index_builder.main(arguments(tmp_path / "index", tmp_path / NAME)) == 0
    return tmp_path / "index"


def engine_file(index: Path) -> Path:
    [file] = index.glob(f"{NAME}/snapshot-*/{FILE}")
    return file


def test_third_engine_searches_compares_and_evaluates(index: Path) -> None:
    assert engine_file(index).is_file()  # built before the first search
    searcher = Searcher(Indexes(index))
    for metric in Metric:
        query = Query(position=5, metric=metric, engine="signs", top_k=6)
        found, exact = searcher.search(query), searcher.search(replace(query, engine="exact"))
        assert found.hits[0].position == exact.hits[0].position == 5
        assert len(found.hits) == 6
        scores = {hit.position: hit.score for hit in exact.hits}
        assert all(scores.get(hit.position, hit.score) == hit.score for hit in found.hits)
    labelled = searcher.search(Query(position=5, engine="signs", labels=("b",), top_k=COUNT))
    assert {hit.label for hit in labelled.hits} == {"b"}
    assert len(labelled.hits) == COUNT // 2
    comparison = compare(searcher, Query(position=5, top_k=6))
    assert {cell.combination.engine for cell in comparison.cells} == set(ENGINES)
    recall = comparison.cell(replace(BASELINE, engine="signs")).recall
    assert recall is not None
    assert recall > 0
    gallery = searcher.indexes.get()
    results = list(evaluate(gallery, leave_one_out(gallery), "signs"))
    assert [result.engine for result in results] == ["signs"] * len(FEATURES) * len(Metric)
    assert all(result.map is None and 0 <= result.p_at_5 <= 1 for result in results)
    searcher.indexes.close()


@pytest.mark.parametrize("damage", ["changed", "gone"])
def test_damaged_engine_file_is_rebuilt(index: Path, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    whole = engine_file(index).read_bytes()
    if damage == "gone":
        engine_file(index).unlink()
    else:
        engine_file(index).write_bytes(bytes(each ^ 1 for each in whole))
    searcher = Searcher(Indexes(index))
    with caplog.at_level(logging.WARNING):
        assert searcher.search(Query(position=3, engine="signs", top_k=1)).hits[0].position == 3
    assert "Rebuilding Random hyperplanes" in caplog.text
    assert engine_file(index).read_bytes() == whole
    searcher.indexes.close()


def test_engine_file_is_added_to_an_older_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(ENGINES, "signs", raising=False)
    draw(tmp_path / NAME, 6)
    assert index_builder.main(arguments(tmp_path / "index", tmp_path / NAME)) == 0
    assert not list((tmp_path / "index").glob(f"{NAME}/snapshot-*/{FILE}"))
    monkeypatch.setitem(ENGINES, "signs", SignsEngine())
    searcher = Searcher(Indexes(tmp_path / "index"))
    assert searcher.search(Query(position=2, engine="signs", top_k=1)).hits[0].position == 2
    assert engine_file(tmp_path / "index").is_file()
    searcher.indexes.close()
