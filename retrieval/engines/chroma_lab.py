"""Build small HNSW graphs with other parameters, to see what they do to recall and time."""

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from retrieval.engines.base import GalleryVectors
from retrieval.engines.chroma_search import OpenChroma, first_neighbours
from retrieval.engines.item_ids import Ids, ids_of, numbered_keys
from retrieval.engines.measurement import RecallMeasurement
from retrieval.engines.recall import GraphPoint, MeasuredRecall, read_recall, write_recall
from retrieval.engines.separate import run_in_process
from retrieval.features import Vectors
from retrieval.metrics import DEFINITIONS, Metric

SAMPLE = 2000  # images at most, so that a graph takes seconds
LEAST, BYTES = 20, 2**24  # of the vectors of a sample, in images and in bytes, if these are very long
SEED = 0
NEIGHBOURS = (4, 8, 16, 32, 48, 64)
CONSTRUCTION = (10, 25, 50, 100, 200, 400)
EF_SEARCH = (30, 60, 120, 240, 480)  # a search asks for 26 neighbours, so fewer make no difference
RESULT = "recall.json"


@dataclass(frozen=True)
class Graph:
    """The parameters of a graph: links per item, and candidates that are kept while an item is inserted."""

    max_neighbors: int
    ef_construction: int


@dataclass(frozen=True)
class Sample:
    """Some vectors of one feature type, shape (n, d), as a gallery without labels."""

    name: str
    sampled: Vectors

    @property
    def features(self) -> tuple[str, ...]:
        """The name of the feature type."""
        return (self.name,)

    def __len__(self) -> int:
        """Return the number of vectors, n."""
        return len(self.sampled)

    @property
    def ids(self) -> Ids:
        """The numbers from 0 as ids."""
        count = len(self.sampled)
        return ids_of(numbered_keys(np.arange(count)), np.zeros(count, np.int32), [""])

    @property
    def labels(self) -> list[str]:
        """An empty label for each item."""
        return [""] * len(self.sampled)

    def vectors(self, features: str) -> Vectors:
        """Return the vectors."""
        return self.sampled

    def check_open(self) -> None:
        """Do nothing: a sample is in memory."""


def sample_of(gallery: GalleryVectors, features: str) -> Sample:
    """Return at most `SAMPLE` of a gallery's vectors, always the same ones."""
    vectors = gallery.vectors(features)
    count = min(len(vectors), SAMPLE, max(LEAST, BYTES // (4 * vectors.shape[1])))
    vectors = vectors[np.sort(np.random.default_rng(SEED).choice(len(vectors), count, replace=False))]
    return Sample(features, np.array(vectors))


def measure_graph(
    sample: Sample, metric: Metric, graph: Graph, check: Callable[[], None] = lambda: None
) -> tuple[GraphPoint, ...]:
    """Return recall and time of a new graph for each `ef_search` of `EF_SEARCH`.

    The graph is built in a process and a folder of its own, since ChromaDB keeps `ef_search` with the collection: so
    nobody's search changes. `check` is called from time to time, and an error that it raises ends the process.

    Raises:
        IndexingError: the process has failed.
    """
    with TemporaryDirectory(prefix="lookalike-lab-") as folder:
        run_in_process(_fill_and_measure, (sample, metric, graph, Path(folder)), check)
        measured = read_recall(Path(folder) / RESULT)
        return measured.curve if measured else ()


def _fill_and_measure(sample: Sample, metric: Metric, graph: Graph, folder: Path) -> None:
    from retrieval.engines.chroma_folder import ChromaFolder, key_of  # imports chromadb, which takes a second

    key = key_of(sample.name, DEFINITIONS[first_neighbours(metric, 1)[0]].view)
    measurement, points = RecallMeasurement(sample), list[GraphPoint]()
    with closing(ChromaFolder(folder / "graph", reading=False)) as chroma:
        collections = chroma.open([key], vars(graph))
        collections.insert(key, sample.ids, sample.labels, sample.sampled)
        for ef in EF_SEARCH:
            engine = OpenChroma(sample, chroma.reopen([key], {key: ef}), chroma)
            if found := measurement.recall_of(engine, sample.name, metric):
                at = (graph.max_neighbors, graph.ef_construction, ef)
                points.append(GraphPoint(sample.name, metric, *at, found.recall, found.ms))
    write_recall(folder / RESULT, MeasuredRecall(0, len(sample.sampled), (), tuple(points)))
