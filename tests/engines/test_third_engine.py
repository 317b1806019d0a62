"""A third engine needs only one module and one line in the registry."""

import logging
from dataclasses import replace
from pathlib import Path

import pytest

from retrieval import index_builder
from retrieval.analysis.comparison import compare
from retrieval.analysis.evaluation import evaluate
from retrieval.analysis.queries import leave_one_out
from retrieval.engines import ENGINES
from retrieval.metrics import Metric
from retrieval.search.query import Combination, Query
from retrieval.search.ranking import rank
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


def closest(searcher: Searcher, position: int) -> int:
    """Return the position of the item that the third engine finds closest to the vector of an item."""
    index = searcher.indexes.get()
    [found], _ = rank(index, Combination("clip", Metric.COSINE, "signs"), index.vectors("clip")[position], 1)
    return int(found)


def engine_file(index: Path) -> Path:
    [file] = index.glob(f"{NAME}/snapshot-*/{FILE}")
    return file


def test_third_engine_searches_compares_and_evaluates(index: Path) -> None:
    assert engine_file(index).is_file()  # built before the first search
    searcher = Searcher(Indexes(index))
    for metric in Metric:
        query = Query(position=5, metric=metric, engine="signs", top_k=6)
        found, exact = searcher.search(query), searcher.search(replace(query, engine="exact"))
        assert len(found.hits) == 6
        scores = {hit.position: hit.score for hit in exact.hits}
        assert all(scores.get(hit.position, hit.score) == hit.score for hit in found.hits)
    labelled = searcher.search(Query(position=5, engine="signs", labels=("b",), top_k=COUNT))
    assert {hit.label for hit in labelled.hits} == {"b"}
    assert len(labelled.hits) == sum(
        label == "b" for place, label in enumerate(searcher.indexes.get().labels) if place != 5
    )
    comparison = compare(searcher, Query(position=5, top_k=6))
    assert {cell.combination.engine for cell in comparison.cells} == set(ENGINES)
    recall = comparison.cell(replace(Combination(), engine="signs")).recall
    assert recall is not None
    assert recall > 0
    gallery = searcher.indexes.get()
    results = list(evaluate(gallery, leave_one_out(gallery), "signs"))
    assert [result.by.engine for result in results if result.by] == ["signs"] * len(gallery.features) * len(Metric)
    assert all(result.mean("mAP") is None and 0 <= result.of_queries("P@5").mean() <= 1 for result in results)
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
        assert closest(searcher, 3) == 3
    assert ("Rebuilding Random hyperplanes" in caplog.text) == (damage == "changed")
    assert engine_file(index).read_bytes() == whole
    searcher.indexes.close()


def test_engine_file_is_added_to_an_older_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(ENGINES, "signs", raising=False)
    draw(tmp_path / NAME, 6)
    assert index_builder.main(arguments(tmp_path / "index", tmp_path / NAME)) == 0
    assert not list((tmp_path / "index").glob(f"{NAME}/snapshot-*/{FILE}"))
    monkeypatch.setitem(ENGINES, "signs", SignsEngine())
    searcher = Searcher(Indexes(tmp_path / "index"))
    searcher.search(Query(position=2, engine="chroma"))  # opens ChromaDB's files, which nobody else can open then
    assert closest(searcher, 2) == 2
    assert searcher.indexes.get().recall("signs") is not None
    assert engine_file(tmp_path / "index").is_file()
    searcher.indexes.close()
