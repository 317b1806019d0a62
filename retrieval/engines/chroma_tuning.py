"""Raise `ef_search` of ChromaDB's collections until their recall reaches a floor, and measure what they find."""

from collections.abc import Sequence
from dataclasses import replace

from retrieval.engines.base import GalleryVectors
from retrieval.engines.chroma_folder import GRAPH, ChromaFolder, Key
from retrieval.engines.chroma_search import OpenChroma
from retrieval.engines.measurement import RecallMeasurement, measure_all
from retrieval.engines.recall import GraphPoint, MeasuredRecall, Recall
from retrieval.metrics import Metric, View

EF_SEARCH = (50, 100, 200, 400, 800, 1600)
NATIVE = {View.PLAIN: Metric.L2, View.UNIT: Metric.COSINE, View.CENTRED: Metric.CORRELATION}
SMALL = 2000  # images; for fewer, only the default is measured, because the page's lab draws the curve of so many


def tuned(
    gallery: GalleryVectors,
    chroma: ChromaFolder,
    keys: Sequence[Key],
    floor: float,
    before: Sequence[GraphPoint] = (),
) -> MeasuredRecall:
    """Measure filled collections by each `ef_search` up to the first that reaches the floor, and keep that one.

    ChromaDB keeps `ef_search` with the collection. The collections are open, and stay open in the end. L1 depends on
    the neighbours by L2, so its own recall is only measured.

    `before` has what was measured before some collections were updated. Of these, the values below the chosen one are
    not measured again.
    """
    measurement = RecallMeasurement(gallery)
    first = {(each.features, each.metric): each.ef_search for each in before if each.chosen}
    starts = {key: first.get((key[0], NATIVE[key[1]]), 0) for key in keys}
    points = {key: _below(before, key, start) for key, start in starts.items()}
    last: dict[tuple[str, Metric], Recall] = {}
    for ef in (each for each in EF_SEARCH if each >= GRAPH["ef_search"] or len(gallery) >= SMALL):
        asked = [
            key
            for key, start in starts.items()
            if start <= ef
            and (ef <= max(start, GRAPH["ef_search"]) or (points[key] and points[key][-1].recall < floor))
        ]
        if not asked:
            continue
        engine = OpenChroma(gallery, chroma.reopen(keys, dict.fromkeys(asked, ef)), chroma)
        for key in asked:
            metric = NATIVE[key[1]]
            if found := measurement.recall_of(engine, key[0], metric):
                graph = (GRAPH["max_neighbors"], GRAPH["ef_construction"], ef)
                points[key].append(GraphPoint(key[0], metric, *graph, found.recall, found.ms))
                last[key[0], metric] = found
    curve = [replace(each, chosen=each is _chosen(some, floor)) for some in points.values() for each in some]
    chosen = {key: _chosen(some, floor).ef_search for key, some in points.items() if some}
    engine = OpenChroma(gallery, chroma.reopen(keys, chosen), chroma)
    return MeasuredRecall(floor, len(gallery), measure_all(measurement, engine, last), tuple(curve))


def _below(points: Sequence[GraphPoint], key: Key, ef_search: int) -> list[GraphPoint]:
    """Return the points of a collection for smaller values of `ef_search`."""
    same = (each for each in points if (each.features, each.metric) == (key[0], NATIVE[key[1]]))
    return [each for each in same if each.ef_search < ef_search]


def _chosen(points: Sequence[GraphPoint], floor: float) -> GraphPoint:
    """Return the point to use: the first from the default on that reaches the floor, otherwise the last."""
    usable = [each for each in points if each.ef_search >= GRAPH["ef_search"]]
    return next((each for each in usable if each.recall >= floor), usable[-1])
