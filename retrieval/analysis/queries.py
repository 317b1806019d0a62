"""The queries of an evaluation, and which items of the gallery are relevant to each of them."""

import io
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from retrieval.analysis.measures import Ints, Judged
from retrieval.analysis.trec import encoded, places_of
from retrieval.errors import GalleryError, PictureError, QueryError
from retrieval.features import Vectors
from retrieval.gallery.source import GallerySource
from retrieval.metrics import View, view_of
from retrieval.pictures.loading import fit_within, load_picture
from retrieval.search.embedding import QueryEmbedder
from retrieval.storage.reader import GalleryIndex

log = logging.getLogger(__name__)

Value = TypeVar("Value")

SAMPLE = 2_000  # leave-one-out queries by default
SEED = 0
READ_AT_ONCE = 32  # query images
PICTURE_SIZE = 128  # pixels, of query images in a report
BLOCK_BYTES = 32 * 2**20  # of the arrays of one block of queries, so that memory does not grow with the gallery
BYTES_PER_ITEM = 32  # of a block: score, key, order and grades of one item for one query
NEAR = 0.95  # cosine of the default features from which two images count as near-duplicates in warnings
PAIRS_MAX = 20_000_000  # ignored near-duplicates


@dataclass(frozen=True)
class Pairs:
    """Values of pairs of a query and an item of the gallery, ascending by query; three arrays of the same length."""

    queries: Ints
    positions: Ints
    values: npt.NDArray[np.int16]

    @classmethod
    def of(cls, pairs: Sequence[tuple[int, int, int]]) -> "Pairs":
        """Return the given (query, position, value) triples."""
        table = np.array(sorted(pairs), np.intp).reshape(-1, 3)
        return cls(table[:, 0], table[:, 1], table[:, 2].astype(np.int16))

    def between(self, start: int, stop: int) -> "Pairs":
        """Return the pairs of the queries from `start` to before `stop`, which are counted from 0."""
        part = slice(*np.searchsorted(self.queries, [start, stop]))
        return Pairs(self.queries[part] - start, self.positions[part], self.values[part])

    def only(self, kept: Ints) -> "Pairs":
        """Return the pairs of some queries, ascending, which are numbered anew."""
        there = np.isin(self.queries, kept)
        return Pairs(np.searchsorted(kept, self.queries[there]), self.positions[there], self.values[there])


NO_PAIRS = Pairs.of([])


@dataclass(frozen=True)
class Queries:
    """Queries of a gallery of n items.

    Attributes:
        ids: of the queries; of items in the gallery, their own.
        vectors: of the queries by feature type, shape (m, d).
        positions: of the queries in the gallery, -1 for one that is not in it, shape (m,).
        classes: the label of each query, by which figures are broken down; empty if unknown.
        about: a phrase on where the queries are from.
        graded: the grades of relevant items; None if the items with the query's label are relevant.
        ignored: items that are left out of a query's ranking, besides the query itself.
        sampled_from: the number of queries from which these are a random sample; None if they are all there are.
        notes: sentences about what was left out.
        settings: what determines the queries, for `results.json`.
        pictures: small JPEG images of queries that are not in the gallery, or empty.
    """

    ids: tuple[str, ...]
    vectors: dict[str, Vectors]
    positions: Ints
    classes: tuple[str, ...]
    about: str
    graded: Pairs | None = None
    ignored: Pairs = NO_PAIRS
    sampled_from: int | None = None
    notes: tuple[str, ...] = ()
    settings: Mapping[str, object] = field(default_factory=dict)
    pictures: tuple[bytes, ...] = ()

    def __len__(self) -> int:
        return len(self.ids)

    def only(self, kept: Ints) -> "Queries":
        """Return some of the queries, given their ascending indices."""
        return replace(
            self,
            ids=tuple(self.ids[i] for i in kept),
            vectors={name: each[kept] for name, each in self.vectors.items()},
            positions=self.positions[kept],
            classes=tuple(self.classes[i] for i in kept),
            graded=None if self.graded is None else self.graded.only(kept),
            ignored=self.ignored.only(kept),
            pictures=tuple(self.pictures[i] for i in kept) if self.pictures else (),
        )


class Judgements:
    """The grades of a gallery's items for queries, computed block by block. Queries without relevant items are dropped.

    Attributes:
        queries: those with at least one relevant item.
        judged: their numbers of relevant items and ideal rankings.
        left_out: the number of queries that were dropped.
    """

    def __init__(self, gallery: str, labels: Sequence[str], queries: Queries, deepest: int) -> None:
        """Judge all queries of a gallery with these labels of its items; `deepest` is the largest k of a measure.

        Raise GalleryError if no query can be used.
        """
        self._size = len(labels)
        self._gallery = label_codes(labels, labels)
        self._set(labels, queries)
        judged = self._judge(deepest)
        kept = np.flatnonzero(judged.relevant > 0)
        if not len(kept):
            raise GalleryError(
                f"No query has a relevant image in the gallery {gallery!r}, so there is nothing to measure. Check that "
                "labels or ids match those of the gallery."
            )
        self.left_out = len(queries) - len(kept)
        self._set(labels, queries.only(kept))
        self.judged = Judged(judged.relevant[kept], judged.candidates[kept], judged.gains[kept], judged.ideal[kept])

    def _set(self, labels: Sequence[str], queries: Queries) -> None:
        self.queries = queries
        self._codes = label_codes(queries.classes, labels)

    def blocks(self) -> Iterator[slice]:
        """Yield the queries in blocks of bounded size."""
        size = max(1, BLOCK_BYTES // (BYTES_PER_ITEM * max(1, self._size)))
        for start in range(0, len(self.queries), size):
            yield slice(start, min(start + size, len(self.queries)))

    def grades(self, part: slice) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.bool_]]:
        """Return the grades of all items for a block of queries, and which items are ignored, both of shape (m, n)."""
        start, stop = part.start, part.stop
        ignored = np.zeros((stop - start, self._size), bool)
        left_out = self.queries.ignored.between(start, stop)
        ignored[left_out.queries, left_out.positions] = True
        own = self.queries.positions[part]
        inside = np.flatnonzero(own >= 0)
        ignored[inside, own[inside]] = True
        if self.queries.graded is None:
            codes = self._codes[part, None]
            grades = ((self._gallery == codes) & (codes >= 0)).astype(np.int16)
        else:
            found = self.queries.graded.between(start, stop)
            grades = np.zeros(ignored.shape, np.int16)
            grades[found.queries, found.positions] = found.values
        grades[ignored] = 0
        return grades, ignored

    def _judge(self, deepest: int) -> Judged:
        deepest = min(deepest, self._size)
        parts = list[Judged]()
        for part in self.blocks():
            grades, ignored = self.grades(part)
            ideal = -np.sort(np.partition(-grades, deepest - 1, axis=1)[:, :deepest], axis=1)
            relevant, candidates = np.count_nonzero(grades, axis=1), self._size - ignored.sum(axis=1)
            parts.append(Judged(relevant, candidates, grades.sum(axis=1).astype(float), ideal.astype(float)))
        return Judged(
            np.concatenate([each.relevant for each in parts]),
            np.concatenate([each.candidates for each in parts]),
            np.concatenate([each.gains for each in parts]),
            np.concatenate([each.ideal for each in parts]),
        )


def label_codes(names: Sequence[str], gallery_names: Sequence[str]) -> npt.NDArray[np.int64]:
    """Return labels as indices into the sorted labels of the gallery; -1 for an empty or unknown label."""
    codes = {name: code for code, name in enumerate(sorted(set(gallery_names) - {""}))}
    return np.array([codes.get(name, -1) for name in names], np.int64)


def leave_one_out(index: GalleryIndex, sample: int | None = SAMPLE) -> Queries:
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
    available = len(positions)
    if sample is not None and available > sample:
        chosen = np.random.default_rng(SEED).choice(available, sample, replace=False)
        positions = np.sort(positions[chosen])
    sampled = available if len(positions) < available else None
    return _of_items(index, positions, f"leave-one-out over {len(positions):,} of {len(index):,} images", sampled)


def _of_items(index: GalleryIndex, positions: Ints, about: str, sampled_from: int | None = None) -> Queries:
    entries = index.entries(positions.tolist())
    return Queries(
        ids=tuple(each.id for each in entries),
        vectors={name: index.vectors(name)[positions] for name in index.features},
        positions=positions,
        classes=tuple(each.label for each in entries),
        about=about,
        sampled_from=sampled_from,
        settings={"queries": "leave-one-out", "sample": None if sampled_from is None else len(positions), "seed": SEED},
    )


def one_item(index: GalleryIndex, position: int, label: str) -> Queries:
    """Return an item of the gallery as the only query, with the images of a label as the relevant ones."""
    return replace(_of_items(index, np.array([position]), "one image of the gallery"), classes=(label,))


def from_folder(index: GalleryIndex, embedder: QueryEmbedder, folder: str, split: str | None = None) -> Queries:
    """Return the images of class folders, or of a split of a dataset, as queries; they need not have labels.

    Raise GalleryError if the dataset cannot be read or has no usable image.
    """
    from retrieval.gallery.rows import Gallery  # imports datasets, which would slow down the start of the page

    gallery = Gallery(GallerySource(folder, split=split))
    vectors: dict[str, list[Vectors]] = {name: [] for name in index.features}
    ids, labels, skipped, thumbnails = list[str](), list[str](), list[str](), list[bytes]()
    items = gallery.items()
    while some := list(islice(items, READ_AT_ONCE)):
        pictures = []
        for item in some:
            try:
                pictures.append(load_picture(item.read()))
            except PictureError as error:
                log.warning("skipped %s: %s", item.id, error)
                skipped.append(item.id)
                continue
            ids.append(item.id)
            labels.append(item.label)
        if pictures:
            thumbnails += map(_thumbnail, pictures)
            for name, parts in vectors.items():
                parts.append(embedder.feature_set(index, name).embed(pictures))
    if not ids:
        raise GalleryError(f"{folder!r} has no image that can be read, so there is no query.")
    name = folder + (f" ({split})" if split else "")
    return Queries(
        ids=tuple(ids),
        vectors={features: np.concatenate(parts) for features, parts in vectors.items()},
        positions=np.full(len(ids), -1, np.intp),
        classes=tuple(labels),
        about=f"{len(ids):,} queries from {name}",
        notes=(f"Query images that cannot be read were left out: {len(skipped):,}.",) if skipped else (),
        settings={"queries": Path(folder).name, "split": split, "version": gallery.version},
        pictures=tuple(thumbnails),
    )


def _thumbnail(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    fit_within(picture, PICTURE_SIZE).save(buffer, "jpeg", quality=80)
    return buffer.getvalue()


def check_labels(index: GalleryIndex, queries: Queries, folder: str) -> None:
    """Raise GalleryError if no query has a label of the gallery."""
    names = sorted(set(queries.classes) - {""})
    if not names:
        raise GalleryError(f"{folder!r} has no labels. Put the query images into folders named after the classes.")
    if not set(names) & set(index.classes):
        raise GalleryError(
            f"None of the labels in {folder!r} ({', '.join(names[:5])}, ...) occurs in the gallery "
            f"{index.manifest.gallery!r} ({', '.join(index.classes[:5])}, ...)."
        )


def judged_by(index: GalleryIndex, qrels: Mapping[str, Mapping[str, int]], queries: Queries | None = None) -> Queries:
    """Return queries with judgements by query id and item id; without `queries`, their ids are those of gallery items.

    A grade of 1 or more is relevant, 0 is not, and a negative one is junk, which is left out of the ranking. Raise
    GalleryError if no query id is known.
    """
    places = places_of(ids_of(index))
    if queries is None:
        known = np.array(sorted({places[id] for id in qrels if id in places}), np.intp)
        queries = _of_items(index, known, f"{len(known):,} images of the gallery as judged queries")
    given = [_of(qrels, id) for id in queries.ids]
    kept = np.array([at for at, grades in enumerate(given) if grades], np.intp)
    if not len(kept):
        some = ", ".join(list(qrels)[:3])
        raise GalleryError(f"None of the judged queries ({some}, ...) is known. Check the first column of the qrels.")
    graded, junk, unknown = list[tuple[int, int, int]](), list[tuple[int, int, int]](), set[str]()
    for at, query in enumerate(kept):
        for id, grade in given[query].items():
            if id not in places:
                unknown.add(id)
            elif grade:
                (graded if grade > 0 else junk).append((at, places[id], max(grade, 0)))
    queries, notes = queries.only(kept), list(queries.notes)
    if missing := len(qrels) - len(kept):
        notes.append(f"Judged queries that do not exist: {missing:,} of {len(qrels):,}.")
    if unknown:
        notes.append(f"Judged items that are not in the gallery, and do not count: {len(unknown):,}.")
    return replace(queries, graded=Pairs.of(graded), ignored=_joined(queries.ignored, junk), notes=tuple(notes))


def ignoring(index: GalleryIndex, queries: Queries, ignored: Mapping[str, Sequence[str]]) -> Queries:
    """Return queries that leave out the listed items of each query id; raise GalleryError if no pair is known."""
    places = places_of(ids_of(index))
    listed = ((at, id) for at, query in enumerate(queries.ids) for id in _of(ignored, query) or ())
    pairs = [(at, places[id], 0) for at, id in listed if id in places]
    if ignored and not pairs:
        raise GalleryError("The ignore list names no pair of a query and an image of the gallery. Check its ids.")
    note = f"Ignored pairs of a query and an image: {len(pairs):,}."
    return replace(queries, ignored=_joined(queries.ignored, pairs), notes=(*queries.notes, note))


def ignoring_alike(index: GalleryIndex, queries: Queries, least: float) -> Queries:
    """Return queries that leave out their own near-duplicates, by the cosine of the gallery's default features."""
    pairs = list[tuple[int, int, int]]()
    for start, near in _near(index, queries, least):
        rows, positions = np.nonzero(near)
        pairs += zip((rows + start).tolist(), positions.tolist(), [0] * len(rows), strict=True)
        if len(pairs) > PAIRS_MAX:
            raise QueryError(f"Too many images have a cosine of {least} or more with a query. Choose a higher value.")
    note = f"Near-duplicates of a query (cosine of {least} or more) are ignored: {len(pairs):,}."
    return replace(queries, ignored=_joined(queries.ignored, pairs), notes=(*queries.notes, note))


def nearly_copied(index: GalleryIndex, queries: Queries, least: float = NEAR) -> int:
    """Return the number of queries of which the gallery has a near-duplicate that is not ignored."""
    count = 0
    for start, near in _near(index, queries, least):
        left_out = queries.ignored.between(start, start + len(near))
        near[left_out.queries, left_out.positions] = False
        count += int(near.any(axis=1).sum())
    return count


def _near(index: GalleryIndex, queries: Queries, least: float) -> Iterator[tuple[int, npt.NDArray[np.bool_]]]:
    """Yield the number of the first query of each block, and which items are near-duplicates, shape (m, n)."""
    features = index.default_features
    gallery = view_of(View.UNIT, np.asarray(index.vectors(features)))
    asked = view_of(View.UNIT, queries.vectors[features])
    block = max(1, BLOCK_BYTES // (8 * max(1, len(index))))
    for start in range(0, len(queries), block):
        near = asked[start : start + block] @ gallery.T >= least
        own = queries.positions[start : start + block]
        inside = np.flatnonzero(own >= 0)
        near[inside, own[inside]] = False
        yield start, near


def _joined(pairs: Pairs, others: list[tuple[int, int, int]]) -> Pairs:
    triples = zip(pairs.queries.tolist(), pairs.positions.tolist(), pairs.values.tolist(), strict=True)
    return Pairs.of([*triples, *others])


def ids_of(index: GalleryIndex) -> list[str]:
    """Return the ids of all items, in gallery order."""
    return [index.entry(position).id for position in range(len(index))]


def _of(table: Mapping[str, Value], query: str) -> Value | None:
    """Return what a file says about a query, whose id may be encoded there."""
    return table.get(query, table.get(encoded(query)))
