"""Recall that the builder measures: how it is computed, what is done to reach the floor, and what is chosen by it."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binomtest

from retrieval.engines import ENGINES
from retrieval.engines.base import OpenEngine
from retrieval.engines.choice import Choice, about_recall, resolve, summary
from retrieval.engines.measurement import QUERIES, RecallMeasurement, wilson
from retrieval.engines.recall import FLOOR, K, MeasuredRecall, Recall, read_recall
from retrieval.features import Vectors
from retrieval.metrics import DEFINITIONS, Metric
from retrieval.search.embedding import Embedded
from retrieval.search.query import Query
from retrieval.search.searcher import Searcher
from retrieval.storage.catalog import Indexes
from retrieval.storage.engine_files import build_engine
from retrieval.storage.reader import GalleryIndex
from tests.engines.signs import SignsEngine
from tests.support.formulas import best_first, reference
from tests.support.published import publish_gallery

COUNT = 900
PIXELS = 3 * 8 * 8


def unit(vectors: Vectors) -> Vectors:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GalleryIndex]:
    """A gallery of which the L1 order of pixels has little to do with that by L2: each image has one very bright pixel.

    Half of the images have a label of 90 images, the others the label `rest`.
    """
    chance = np.random.default_rng(0)
    pixels = chance.random((COUNT, PIXELS), np.float32)
    pixels[np.arange(COUNT), chance.integers(PIXELS, size=COUNT)] = 8 * chance.random(COUNT, np.float32)
    clip = unit(chance.standard_normal((COUNT, 64), np.float32))
    labels = [f"label {row % 5}" if row % 2 else "rest" for row in range(COUNT)]
    indexes = publish_gallery(tmp_path_factory.mktemp("recall"), pixels, clip, labels)
    found = indexes.get()
    build_engine(found.snapshot, "chroma", found._items)
    yield found
    indexes.close()


def recall_by_formula(index: GalleryIndex, engine: OpenEngine, measurement: RecallMeasurement, filtered: bool) -> float:
    vectors, shares = index.vectors("clip"), []
    for queries, among in measurement.groups(filtered):
        allowed = np.arange(COUNT) if among is None else among
        for own in queries:
            others = allowed[allowed != own]
            true = others[best_first(Metric.COSINE, reference(Metric.COSINE, vectors[own][None], vectors[others])[0])]
            [found] = engine.candidates("clip", Metric.COSINE, vectors[own][None], K + 1, among)
            proposed = np.setdiff1d(found.positions, [own])
            scores = reference(Metric.COSINE, vectors[own][None], vectors[proposed])[0]
            shares.append(len({*true[:K]} & {*proposed[best_first(Metric.COSINE, scores)][:K]}) / K)
    return float(np.mean(shares))


@pytest.mark.parametrize("filtered", [False, True])
def test_recall_is_that_of_the_formula(index: GalleryIndex, tmp_path: Path, filtered: bool) -> None:
    SignsEngine().build(index._items, tmp_path, FLOOR)
    engine, measurement = SignsEngine().open(index._items, tmp_path), RecallMeasurement(index._items)
    found = measurement.recall_of(engine, "clip", Metric.COSINE, filtered)
    assert found is not None
    assert found.queries == QUERIES
    assert 0.1 < found.recall < 1
    assert found.recall == pytest.approx(recall_by_formula(index, engine, measurement, filtered), abs=1e-4)
    assert found.low < found.recall < found.high
    assert found.recall == RecallMeasurement(index._items).recall_of(engine, "clip", Metric.COSINE, filtered).recall


def test_filters_leave_at_least_ten_other_items(index: GalleryIndex) -> None:
    groups = RecallMeasurement(index._items).groups(filtered=True)
    assert sum(len(queries) for queries, _ in groups) == QUERIES
    assert all(among is not None and K < len(among) < COUNT for _, among in groups)


@pytest.mark.parametrize(("found", "n"), [(200, 200), (0, 200), (190, 200), (7, 9)])
def test_interval_is_wilsons(found: int, n: int) -> None:
    assert wilson(found / n, n) == pytest.approx(tuple(binomtest(found, n).proportion_ci(0.95, "wilson")), abs=1e-6)


def test_every_combination_is_measured_and_the_graph_reaches_the_floor(index: GalleryIndex) -> None:
    measured = index.recall("chroma")
    assert measured is not None
    kinds = {(each.features, each.metric, each.filtered) for each in measured.figures}
    assert kinds == {(name, metric, way) for name in index.features for metric in Metric for way in (False, True)}
    assert all(each.recall >= FLOOR for each in measured.figures if DEFINITIONS[each.metric].neighbours is None)
    assert all(each.chosen and each.ef_search == 200 for each in measured.curve)  # a small gallery has no curve


def test_what_is_below_the_floor_is_not_trusted(index: GalleryIndex) -> None:
    searcher, by = Searcher(Indexes(index.snapshot.parent.parent)), ("pixels", Metric.L1)
    low = index.recall("chroma").of(*by)
    assert low.recall < FLOOR
    query = Query(position=3, features="pixels", metric=Metric.L1)
    vector = Embedded(index.vectors("pixels")[3])
    for engine, used in (("chroma", "chroma"), ("auto", "exact")):
        ranking = searcher.answer(index, replace(query, engine=engine), vector)
        assert ranking.engine == used
        assert ranking.engine_note.startswith(
            "ChromaDB cannot be trusted for pixels by L1 in this gallery: recall@10 is 0."
        )
        assert ranking.to_json()["engine_note"] == ranking.engine_note
    assert searcher.answer(index, replace(query, engine="exact"), vector).engine_note == ""
    assert any("cannot be trusted for pixels by L1" in line for line in summary(index))
    assert str(low) in about_recall("chroma", index, by)


def test_files_of_older_versions_are_used_but_not_measured(index: GalleryIndex, tmp_path: Path) -> None:
    indexes = publish_gallery(tmp_path, index.vectors("pixels")[:20], index.vectors("clip")[:20], [""] * 20)
    older = indexes.get()
    build_engine(older.snapshot, "chroma", older._items)
    assert older.recall("chroma").of("clip", Metric.L2, filtered=True) is None  # it has no labels
    measured = older.snapshot / "chroma" / "recall.json"
    digests = older.snapshot / "chroma" / "digests.json"
    measured.unlink()
    lines = [line for line in digests.read_text().splitlines() if "recall" not in line]
    digests.write_text("\n".join(lines).replace(",\n}", "\n}"))
    older.engine("chroma")
    assert not measured.exists()
    assert [line for line in summary(older) if line.startswith("ChromaDB")] == ["ChromaDB: not measured"]
    assert resolve("auto", older, ("clip", Metric.L2), None).engine == "exact"
    measured.write_text("{}")
    assert read_recall(measured) is None
    indexes.close()


def test_recall_floor_raises_ef_search(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    pixels, vectors = random.random((2000, 3), np.float32), unit(random.standard_normal((2000, 512), np.float32))
    indexes = publish_gallery(tmp_path, pixels, vectors, [""] * 2000)
    index = indexes.get()
    build_engine(index.snapshot, "chroma", index._items, floor=1.0)
    measured = index.recall("chroma")
    tried = {each.ef_search: each for each in measured.curve if (each.features, each.metric) == ("clip", Metric.L2)}
    [native] = [each for each in tried.values() if each.chosen]
    assert all(each.recall < 1 for ef, each in tried.items() if 200 <= ef < native.ef_search)
    assert tried[50].recall < tried[200].recall <= native.recall
    assert measured.of("clip", Metric.L2).recall == native.recall
    indexes.close()


# ---- the choice of an engine


@dataclass(frozen=True)
class Gallery:
    measured: MeasuredRecall | None
    engines: tuple[str, ...] = ("exact", "chroma")
    size: int = 100_000

    def recall(self, engine: str) -> MeasuredRecall | None:
        return self.measured

    def __len__(self) -> int:
        return self.size


def gallery(recall: float, ms: float, exact_ms: float, filtered: float = 1.0) -> Gallery:
    """Return a gallery of 100,000 images with these figures of ChromaDB."""
    figures = [
        Recall("clip", Metric.COSINE, way, 200, share, 0.9, 1, ms, exact_ms)
        for way, share in ((False, recall), (True, filtered))
    ]
    return Gallery(MeasuredRecall(FLOOR, 100_000, tuple(figures)))


@pytest.mark.parametrize(
    ("found", "allowed", "engine", "why"),
    [
        (gallery(0.995, 2, 20), None, "chroma", "Comparing 100,000 images takes about 20.0 ms, ChromaDB about 2.0 ms"),
        (gallery(0.995, 2, 1.5), None, "exact", "Comparing 100,000 images takes about 1.5 ms"),
        (gallery(0.5, 2, 20), None, "exact", "ChromaDB cannot be trusted for clip by Cosine"),
        (gallery(0.995, 2, 20, filtered=0.5), 50_000, "exact", "with a filter by label"),
        (gallery(0.995, 14, 20), 100, "exact", "Comparing 100 images takes about 0.0 ms"),
        (gallery(0.995, 2, 20), 50_000, "chroma", "Comparing 50,000 images takes about 10.0 ms"),
        (Gallery(None), None, "exact", "The recall of ChromaDB was not measured"),
        (Gallery(None, engines=("chroma",)), None, "chroma", "Only ChromaDB can search this gallery."),
    ],
)
def test_auto_is_the_fastest_engine_that_finds_enough(
    found: Gallery, allowed: int | None, engine: str, why: str
) -> None:
    choice = resolve("auto", found, ("clip", Metric.COSINE), allowed)
    assert choice.engine == engine
    assert why in choice.note


@pytest.mark.parametrize("engine", ENGINES)
def test_named_engine_is_used(engine: str) -> None:
    assert resolve(engine, gallery(0.995, 2, 20), ("clip", Metric.COSINE), None) == Choice(engine, "")
