"""Files of an index that are truncated in place while it is served: reading a mapped one beyond its end kills."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from retrieval.analysis.comparison import compare
from retrieval.analysis.evaluation import evaluate
from retrieval.analysis.queries import leave_one_out
from retrieval.errors import IndexingError
from retrieval.metrics import Metric
from retrieval.search.query import Query
from retrieval.search.searcher import Searcher
from retrieval.storage.catalog import Indexes


@pytest.fixture
def searcher(few_icons: Path, tmp_path: Path) -> Iterator[Searcher]:
    searcher = Searcher(Indexes(shutil.copytree(few_icons, tmp_path / "index")))
    yield searcher
    searcher.indexes.close()


@pytest.mark.parametrize("features", ["pixels", "clip"])
def test_truncated_matrix_is_reported_by_everything_that_scans_it(searcher: Searcher, features: str) -> None:
    queries = [Query(position=3, features=features, metric=metric, engine="exact") for metric in Metric]
    queries.append(Query(position=3, features=features, engine="chroma"))
    before = [searcher.search(query).hits for query in queries]
    index = searcher.indexes.get()
    matrix, labelled = index.snapshot / f"{features}.npy", leave_one_out(index)
    content = matrix.read_bytes()
    os.truncate(matrix, 4096)
    message = rf"damaged \({features}.npy was truncated\). Repair it: `"
    for query in queries:
        with pytest.raises(IndexingError, match=message):
            searcher.search(query)
    with pytest.raises(IndexingError, match=message):
        compare(searcher, queries[0])
    with pytest.raises(IndexingError, match=message):
        list(evaluate(index, labelled))
    with matrix.open("r+b") as file:
        file.write(content)
    assert [searcher.search(query).hits for query in queries] == before


@pytest.mark.parametrize("pattern", ["items.parquet", "chroma/*/*.bin", "chroma/chroma.sqlite3"])
def test_truncated_items_and_graphs_are_reported_or_harmless(searcher: Searcher, pattern: str) -> None:
    query = Query(position=3, engine="chroma", top_k=20)
    before = searcher.search(query).hits
    files = list(searcher.indexes.get().snapshot.glob(pattern))
    assert files
    for file in files:
        os.truncate(file, 0)
    try:
        assert searcher.search(query).hits == before
    except IndexingError as error:
        assert "index_builder.py" in str(error)
    assert searcher.search(Query(position=3, engine="exact", top_k=20)).hits == before
