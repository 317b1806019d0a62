"""The items of a snapshot, of which only the parts that are asked for are read, so that 10^7 open in seconds."""

import threading
from collections import OrderedDict
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from retrieval.engines.item_ids import KEY_BYTES, Ids, ids_of, numbered_keys

ITEMS = "items.parquet"
GROUP_ROWS = 4096  # in a row group, which is what a single item costs to read
GROUPS_KEPT = 64
COLUMNS = ["id", "label", "caption", "key", "author", "license", "path"]  # those of single items


class Items:
    """The file `items.parquet` of a snapshot, in gallery order. Thread-safe.

    A file that is missing or damaged raises OSError, ValueError or KeyError, at the latest when a damaged page is read.
    """

    def __init__(self, snapshot: Path) -> None:
        options = {"memory_map": True, "page_checksum_verification": True, "read_dictionary": ["label"]}
        self._file = pq.ParquetFile(snapshot / ITEMS, **options)
        groups = (self._file.metadata.row_group(number).num_rows for number in range(self._file.num_row_groups))
        self._starts = np.cumsum([0, *groups])
        self._columns = [name for name in COLUMNS if name in self._file.schema_arrow.names]
        self._groups: OrderedDict[int, pa.Table] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return int(self._starts[-1])

    def row(self, position: int) -> dict[str, Any]:
        """Return the values of `COLUMNS` of an item, 0 <= position < len; an imported index lacks some."""
        number = int(np.searchsorted(self._starts, position, side="right")) - 1
        group, at = self._group(number), position - int(self._starts[number])
        return {name: group[name][at].as_py() for name in self._columns}

    def _group(self, number: int) -> pa.Table:
        with self._lock:
            if number not in self._groups:
                self._groups[number] = self._file.read_row_group(number, self._columns)
            self._groups.move_to_end(number)
            while len(self._groups) > GROUPS_KEPT:
                self._groups.popitem(last=False)
            return self._groups[number]

    def position(self, id: str) -> int | None:
        """Return the position of the first item with an id."""
        import pyarrow.compute as pc  # takes longer to import than the rest of pyarrow

        with self._lock:
            start = 0
            for batch in self._file.iter_batches(columns=["id"], use_threads=False):
                found: int = pc.index(batch["id"], id).as_py()
                if found >= 0:
                    return start + found
                start += len(batch)
        return None

    @cached_property
    def rows(self) -> npt.NDArray[np.int64]:
        """The row of every item in its dataset, ascending."""
        with self._lock:
            rows: npt.NDArray[np.int64] = self._file.read(["row"], use_threads=False)["row"].to_numpy()
        return rows

    @cached_property
    def ids(self) -> Ids:
        """The id of every item, see `retrieval.engines.item_ids`; an imported index has no keys, but other ids."""
        if "key" not in self._columns:
            return ids_of(numbered_keys(self.rows), self.label_codes, self.label_names)
        with self._lock:
            keys = self._file.read(["key"], use_threads=False)["key"].combine_chunks()
        return ids_of(np.array(keys.to_pylist(), f"S{KEY_BYTES}"), self.label_codes, self.label_names)

    @cached_property
    def _coded(self) -> tuple[list[str], npt.NDArray[np.int32]]:
        with self._lock:
            column = self._file.read(["label"], use_threads=False)["label"].unify_dictionaries()
        names = column.chunk(0).dictionary.to_pylist()
        order = sorted(range(len(names)), key=names.__getitem__)
        place = np.empty(len(names), np.int32)
        place[order] = np.arange(len(names), dtype=np.int32)
        codes = [place[each.indices.to_numpy()] for each in column.chunks]
        return [names[each] for each in order], np.concatenate([np.empty(0, np.int32), *codes])

    @property
    def label_names(self) -> list[str]:
        """The distinct labels, sorted; unlabelled items have an empty one."""
        return self._coded[0]

    @property
    def label_codes(self) -> npt.NDArray[np.int32]:
        """The index of every item's label among `label_names`."""
        return self._coded[1]

    @cached_property
    def labels(self) -> list[str]:
        """The label of every item; empty for unlabelled items."""
        names = self.label_names
        return [names[code] for code in self.label_codes.tolist()]
