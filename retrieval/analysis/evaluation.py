"""Precision at k and mean average precision by label, leave-one-out, for labelled queries or for one query.

Precision at k is the share of the first k hits that have the query's label. Average precision is the mean, over all
gallery images with that label, of the precision at the rank of each image (Manning, Raghavan, Schütze, *Introduction
to Information Retrieval*, 8.4). mAP is its mean over all queries.
"""

import csv
import io
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice, product

import numpy as np
import numpy.typing as npt

from retrieval.engines import DEFAULT_ENGINE, ENGINES
from retrieval.engines.exact import Scan
from retrieval.errors import GalleryError, PictureError, QueryError
from retrieval.features import FEATURES, Vectors
from retrieval.gallery.source import GallerySource
from retrieval.metrics import Metric, closeness
from retrieval.pictures.loading import load_picture
from retrieval.search.embedding import QueryEmbedder
from retrieval.search.query import Combination, Query
from retrieval.search.ranking import rank
from retrieval.storage.reader import GalleryIndex

log = logging.getLogger(__name__)

BLOCK_BYTES = 64 * 2**20  # score matrices are computed block by block, so that memory does not grow with the gallery
SAMPLE = 2_000  # leave-one-out queries by default; more queries change the figures by less than a percentage point
SEED = 0
READ_AT_ONCE = 32  # query images


@dataclass(frozen=True)
class Labelled:
    """Query vectors, their labels, and their own positions in the gallery (-1 for a query that is not in it)."""

    vectors: dict[str, Vectors]
    labels: npt.NDArray[np.int64]
    positions: npt.NDArray[np.intp]

    @property
    def counted(self) -> int:
        """The number of queries whose label occurs in the gallery; the others are not evaluated."""
        return int((self.labels >= 0).sum())


@dataclass(frozen=True)
class Result:
    """The figures of one combination of feature type, metric and engine."""

    features: str
    metric: Metric
    engine: str
    p_at_1: float
    p_at_5: float
    map: float | None  # None for an engine that does not rank the whole gallery; of a single query, its AP

    def to_json(self) -> dict[str, str | float | None]:
        """Return the JSON form, which is also a row of the CSV form."""
        by = Combination(self.features, self.metric, self.engine).to_json()
        return {**by, "p@1": self.p_at_1, "p@5": self.p_at_5, "map": self.map}


def label_codes(names: Sequence[str], gallery_names: Sequence[str]) -> npt.NDArray[np.int64]:
    """Return labels as indices into the sorted labels of the gallery; -1 for an empty or unknown label."""
    codes = {name: code for code, name in enumerate(sorted(set(gallery_names) - {""}))}
    return np.array([codes.get(name, -1) for name in names], np.int64)


def leave_one_out(index: GalleryIndex, sample: int | None = SAMPLE) -> Labelled:
    """Return the items that share their label with another one as queries, or a random sample of them.

    Raise GalleryError if no two images share a label.
    """
    codes = label_codes(index.labels, index.labels)
    counts = np.bincount(codes[codes >= 0], minlength=1)
    positions = np.flatnonzero((codes >= 0) & (counts[codes] > 1))
    if not len(positions):
        raise GalleryError(
            f"The gallery {index.manifest.gallery!r} has no label that two images share, so it cannot be evaluated by "
            "label. Name a label column when building, or use `--queries` with class folders."
        )
    if sample is not None and len(positions) > sample:
        chosen = np.random.default_rng(SEED).choice(len(positions), sample, replace=False)
        positions = np.sort(positions[chosen])
    return Labelled({f: index.vectors(f)[positions] for f in index.features}, codes[positions], positions)


def from_folder(index: GalleryIndex, embedder: QueryEmbedder, folder: str) -> Labelled:
    """Return the images of class folders as queries; raise GalleryError if none has a label of the gallery."""
    from retrieval.gallery.rows import Gallery  # imports datasets, which would slow down the start of the page

    gallery = Gallery(GallerySource(folder))
    if not gallery.labelled:
        raise GalleryError(f"{folder!r} has no labels. Put the query images into folders named after the classes.")
    vectors: dict[str, list[Vectors]] = {name: [] for name in index.features}
    names: list[str] = []
    items = gallery.items()
    while some := list(islice(items, READ_AT_ONCE)):
        pictures = []
        for item in some:
            try:
                pictures.append(load_picture(item.read()))
            except PictureError as error:
                log.warning("skipped %s: %s", item.id, error)
                continue
            names.append(item.label)
        if pictures:
            for name, parts in vectors.items():
                parts.append(embedder.feature_set(index, name).embed(pictures))
    codes = label_codes(names, index.labels)
    if not (codes >= 0).any():
        raise GalleryError(
            f"None of the labels in {folder!r} ({', '.join(sorted(set(names))[:5])}, ...) occurs in the gallery "
            f"{index.manifest.gallery!r} ({', '.join(sorted(set(index.labels))[:5])}, ...)."
        )
    joined = {features: np.concatenate(parts) for features, parts in vectors.items()}
    return Labelled(joined, codes, np.full(len(codes), -1, np.intp))


def relevance(
    scan: Scan,
    metric: Metric,
    queries: Vectors,
    own: npt.NDArray[np.intp],
    labels: npt.NDArray[np.int64],
    gallery: npt.NDArray[np.int64],
) -> Iterator[npt.NDArray[np.bool_]]:
    """Yield the relevance by rank of each block of queries, shape (m, n).

    A query that is in the gallery (`own` is its position) ranks last in its own results and does not count as a hit.
    """
    block = max(1, BLOCK_BYTES // (8 * max(1, len(gallery))))
    for start in range(0, len(queries), block):
        part = slice(start, start + block)
        near = closeness(metric, scan.scores(metric, queries[part]))
        inside = np.flatnonzero(own[part] >= 0)
        near[inside, own[part][inside]] = np.inf
        order = np.argsort(near, axis=1, kind="stable")
        hits = (gallery[order] == labels[part, None]) & (labels[part, None] >= 0)
        hits[inside, -1] = False
        yield hits


def average_precision(hits: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """Return the average precision of each row of relevance by rank, shape (m, n); NaN for a row without a hit."""
    found = np.cumsum(hits, axis=1)
    precision = np.where(hits, found / np.arange(1, hits.shape[1] + 1), 0.0)
    with np.errstate(invalid="ignore"):
        return np.asarray(precision.sum(axis=1) / found[:, -1], np.float64)


def evaluate(index: GalleryIndex, queries: Labelled, engine: str = DEFAULT_ENGINE) -> Iterator[Result]:
    """Yield P@1, P@5 and mAP of each combination of feature type and metric, one at a time.

    Queries without a relevant image in the gallery are not evaluated. An approximate engine ranks only the first hits,
    so it has no mAP.
    """
    gallery = label_codes(index.labels, index.labels)
    measure = _exact if ENGINES[engine].exact else _first_hits
    for features, metric in product(index.features, Metric):
        yield measure(index, gallery, queries, Combination(features, metric, engine))


def _exact(index: GalleryIndex, gallery: npt.NDArray[np.int64], queries: Labelled, by: Combination) -> Result:
    first, five, average = [], [], []
    for hits in relevance(
        index.scan(by.features), by.metric, queries.vectors[by.features], queries.positions, queries.labels, gallery
    ):
        counted = hits[hits.any(axis=1)]
        first.append(counted[:, 0])
        five.append(counted[:, :5].mean(axis=1))
        average.append(average_precision(counted))
    means = (float(np.concatenate(part).mean()) for part in (first, five, average))
    return Result(by.features, by.metric, by.engine, *means)


def _first_hits(index: GalleryIndex, gallery: npt.NDArray[np.int64], queries: Labelled, by: Combination) -> Result:
    kept = np.isin(queries.labels, gallery[gallery >= 0])
    precision = []
    for vector, label, own in zip(
        queries.vectors[by.features][kept], queries.labels[kept], queries.positions[kept], strict=True
    ):
        positions, _ = rank(index, by, vector, 6)
        found = gallery[positions[positions != own][:5]] == label
        # An approximate engine may return fewer neighbours; missing ones count as misses.
        precision.append(np.pad(found, (0, min(5, len(index)) - len(found))))
    hits = np.array(precision)
    return Result(by.features, by.metric, by.engine, float(hits[:, 0].mean()), float(hits.mean()), None)


def average_precision_of(index: GalleryIndex, embedder: QueryEmbedder, query: Query, label: str) -> Iterator[Result]:
    """Yield P@1, P@5 and average precision of one query for each feature type and metric; text needs CLIP features.

    Images with `label` are relevant. The exact scan ranks the whole gallery, without the query's own gallery item, in
    the order that a search shows. The query's metric, engine, labels and number of results are ignored. Raise a
    QueryError if no image other than the query has the label.
    """
    relevant = np.zeros(len(index), bool)
    relevant[index.with_labels([label])] = True
    if query.position is not None and 0 <= query.position < len(index):
        relevant[query.position] = False
    if not relevant.any():
        raise QueryError(
            f"No other image has the label {label[:40]!r}, so there is nothing to find. Choose another label."
        )
    for features in index.features:
        if query.has_text and not FEATURES[features].takes_text:
            continue
        vector = embedder.embed(index, replace(query, features=features)).vector
        for metric in Metric:
            positions, _ = rank(index, Combination(features, metric), vector, len(index))
            others = positions[positions != (-1 if query.position is None else query.position)]
            hits = np.pad(relevant[others], (0, len(positions) - len(others)))
            average = float(average_precision(hits[None])[0])
            yield Result(features, metric, DEFAULT_ENGINE, float(hits[0]), float(hits[:5].mean()), average)


def to_csv(results: Iterable[Result]) -> str:
    """Return results as CSV text with a header; the field of a missing mAP is empty."""
    rows = [result.to_json() for result in results]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
