"""Write the items and matrices that readers map from disk, and compute the scores of random pairs."""

from collections.abc import Collection
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from retrieval.errors import cannot_write
from retrieval.metrics import QUANTILES, Metric, score_pairs

if TYPE_CHECKING:
    from retrieval.storage.store import Store

ITEMS = pa.schema([("row", pa.int64()), ("id", pa.string()), ("label", pa.string()), ("caption", pa.string())])
BACKGROUND_PAIRS = 4000
PAIRS_AT_ONCE = 64


def export(store: "Store", rows: npt.NDArray[np.int64]) -> None:
    """Copy items and vectors, in gallery order, from a store to files; raise IndexingError if that fails."""
    try:
        for features in store.features:
            _export(store, rows, features, with_items=features == store.features[0])
    except OSError as error:
        raise cannot_write(store.folder, error) from error


def _export(store: "Store", rows: npt.NDArray[np.int64], features: str, with_items: bool) -> None:
    matrix, items = (store.folder / f"{name}.tmp" for name in (f"{features}.npy", "items.parquet"))
    start = 0
    # Not written through a memory-mapped file, because a full disk would then crash the process with a bus error.
    with (
        matrix.open("wb") as file,
        pq.ParquetWriter(items, ITEMS) if with_items else nullcontext() as writer,
    ):
        for vectors, metadata in store.read(rows, features):
            if not start:
                shape = (len(rows), vectors.shape[1])
                header = {"descr": np.dtype(np.float32).str, "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(file, header)
            stop = start + len(vectors)
            file.write(vectors.tobytes())
            if writer:
                columns: dict[str, Any] = {name: [each[name] for each in metadata] for name in ITEMS.names[1:]}
                writer.write_table(pa.table({"row": rows[start:stop], **columns}, schema=ITEMS))
            start = stop
    for path in (matrix, items) if with_items else (matrix,):
        path.replace(path.with_suffix(""))


def background_of(build: Path, features: Collection[str]) -> dict[str, dict[str, list[float]]]:
    """Return the quantiles of the scores of random pairs of different images, by feature type and metric.

    A score within them is no better than chance in this gallery.
    """
    background: dict[str, dict[str, list[float]]] = {}
    for name in features:
        vectors = np.load(build / f"{name}.npy", mmap_mode="r")
        if len(vectors) < 2:
            return {}
        random = np.random.default_rng(0)
        first = random.integers(len(vectors), size=BACKGROUND_PAIRS)
        second = (first + random.integers(1, len(vectors), size=BACKGROUND_PAIRS)) % len(vectors)
        parts: dict[Metric, list[npt.NDArray[np.float64]]] = {metric: [] for metric in Metric}
        for start in range(0, BACKGROUND_PAIRS, PAIRS_AT_ONCE):
            rows = slice(start, start + PAIRS_AT_ONCE)
            for metric, scores in parts.items():
                scores.append(score_pairs(metric, vectors[first[rows]], vectors[second[rows]]))
        background[name] = {
            metric: [round(float(value), 6) for value in np.quantile(np.concatenate(scores), QUANTILES)]
            for metric, scores in parts.items()
        }
    return background
