"""A third feature type needs only one module and one line in the registry."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from retrieval import cli, index_builder
from retrieval.analysis.comparison import compare
from retrieval.analysis.evaluation import evaluate
from retrieval.analysis.gallery_map import points
from retrieval.analysis.queries import leave_one_out
from retrieval.analysis.robustness import measure
from retrieval.errors import QueryError
from retrieval.features import FEATURES
from retrieval.metrics import Metric
from retrieval.pictures.distortion import Distortion
from retrieval.search.query import Query
from retrieval.search.searcher import Searcher
from retrieval.storage.catalog import Indexes
from retrieval.storage.projection import Method
from tests.features.average import AverageFeatures
from tests.support.builds import NAME, arguments

COLOURS = {"red": (200, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 200)}
EACH = 6


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Images of three colours, each with noise, built with the third feature type registered."""
    monkeypatch.setitem(FEATURES, "average", AverageFeatures())
    chance = np.random.default_rng(0)
    for label, colour in COLOURS.items():
        (tmp_path / NAME / label).mkdir(parents=True)
        for number in range(EACH):
            noise = chance.integers(-30, 31, (24, 24, 3)) + np.array(colour)
            Image.fromarray(noise.astype(np.uint8)).save(tmp_path / NAME / label / f"{number}.png")
    assert index_builder.main(arguments(tmp_path / "index", tmp_path / NAME, "--features", "pixels,clip,average")) == 0
    return tmp_path / "index"


def test_third_feature_type_builds_searches_compares_evaluates_and_maps(
    index: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    searcher = Searcher(Indexes(index))
    gallery = searcher.indexes.get()
    assert gallery.features == ("pixels", "clip", "average")
    assert gallery.vectors("average").shape == (3 * EACH, 3)

    query = tmp_path / "query.png"
    Image.new("RGB", (40, 30), COLOURS["green"]).save(query)
    for engine in ("exact", "chroma"):
        ranking = searcher.search(Query(query, features="average", metric=Metric.L2, engine=engine, top_k=EACH))
        assert {hit.label for hit in ranking.hits} == {"green"}
    with pytest.raises(QueryError, match="Text search needs CLIP features"):
        searcher.search(Query(text="green", features="average"))

    comparison = compare(searcher, Query(query, top_k=3))
    assert {cell.combination.features for cell in comparison.cells} == {"pixels", "clip", "average"}
    results = {
        (each.by.features, each.by.metric): each for each in evaluate(gallery, leave_one_out(gallery)) if each.by
    }
    assert results["average", Metric.L2].mean("P@5") == 1
    assert len(results) == 3 * len(Metric)
    withstood = measure(searcher, Query(query, distortion=Distortion(rotation=90), top_k=3)).by_features
    assert [each.distorted.features for each in withstood] == ["pixels", "clip", "average"]
    assert withstood[2].overlap == 1  # rotation does not change the average colour

    assert ("average", Method.PCA) in gallery.maps
    assert points(gallery, "average", Method.PCA).coordinates.shape == (3 * EACH, 2)
    searcher.indexes.close()

    plot = tmp_path / "map.png"
    assert cli.main(["map", "--features", "average", "--plot", str(plot), "--json", "--index", str(index)]) == 0
    printed = capsys.readouterr().out
    assert len(json.loads(printed[printed.index("{\n") :])["pictures"]) == 3 * EACH
    with Image.open(plot) as drawn:
        assert min(drawn.size) > 100


def test_vectors_of_unregistered_feature_types_are_ignored(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(FEATURES, "average")
    searcher = Searcher(Indexes(index))
    assert searcher.indexes.get().features == ("pixels", "clip")
    assert len(searcher.search(Query(position=1, engine="chroma", top_k=3)).hits) == 3
    with pytest.raises(QueryError, match="has no average features"):
        searcher.search(Query(position=1, features="average"))
    searcher.indexes.close()
