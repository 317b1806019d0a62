"""Results as CSV and JSON: all values are there, and texts of a dataset are no formulas."""

import csv
import io
import json
from pathlib import Path

import numpy as np

from retrieval.analysis.search_results import SavedResults
from retrieval.search.query import Query, rankings_to_json
from retrieval.search.searcher import Searcher
from tests.support.published import publish_gallery


def test_rows_are_those_of_the_rankings(icons_searcher: Searcher) -> None:
    index, names = icons_searcher.indexes.get(), ["pixels", "clip"]
    rankings = icons_searcher.search_each(Query(position=3, top_k=5), names, index)
    results = SavedResults(index, rankings, "gallery=icons&id=x", "fox")
    rows = list(csv.DictReader(io.StringIO(results.to_csv())))
    assert [row["features"] for row in rows] == [name for name in names for _ in range(5)]
    hits = [hit for ranking in rankings for hit in ranking.hits]
    for row, hit in zip(rows, hits, strict=True):
        assert (row["rank"], row["id"], row["label"], row["caption"]) == (str(hit.rank), hit.id, hit.label, hit.caption)
        assert float(row["score"]) == hit.score
        assert row["author"] == index.origin(hit.position).author
        assert row["license"] == index.origin(hit.position).license
        assert (row["search"], row["image"], row["metric"]) == ("gallery=icons&id=x", "fox", "cosine")
    value = json.loads(results.to_json())
    assert value["search"] == "gallery=icons&id=x"
    for ranking in value["rankings"]:
        for hit in ranking["hits"]:
            assert {"author", "license"} <= set(hit)
            del hit["author"], hit["license"]
    assert value["rankings"] == rankings_to_json(rankings)["rankings"]


def test_texts_of_a_dataset_are_no_formulas(tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).random((4, 12)).astype(np.float32)
    indexes = publish_gallery(tmp_path, vectors, vectors, ["=cmd|' /C calc'!A0", "@x", "\x1b[2J", "plain"])
    rankings = [Searcher(indexes).search(Query(position=3, features="pixels"))]
    text = SavedResults(indexes.get(), rankings, "=1+1", "-2").to_csv()
    rows = list(csv.DictReader(io.StringIO(text)))
    assert {row["label"] for row in rows} == {"'=cmd|' /C calc'!A0", "'@x", "\\x1b[2J"}
    assert {(row["search"], row["image"]) for row in rows} == {("'=1+1", "'-2")}
    indexes.close()
