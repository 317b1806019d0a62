"""The ids of a gallery's images in ChromaDB's collections.

An id is the key of the image's content and a checksum of its label. It is the same in every snapshot, and items with
the same content and label share it. If the collections are on a server, two files lead from ids to items, and are
searched without being read as a whole.
"""

import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

KEY_BYTES = 16
ID_BYTES = KEY_BYTES + 4
IDS, POSITIONS = "ids.npy", "positions.npy"  # the sorted ids, and the position of each

Ids = npt.NDArray[np.bytes_]


def id_of(key: bytes, label: str) -> bytes:
    """Return the id of an image with this key and label."""
    return key + zlib.crc32(label.encode()).to_bytes(4)


def ids_of(keys: npt.NDArray[np.bytes_], codes: npt.NDArray[np.int32], labels: Sequence[str]) -> Ids:
    """Return the ids of n images, given their keys, shape (n,), and the index of each one's label."""
    checksums = np.array([zlib.crc32(label.encode()) for label in labels], ">u4")[codes]
    found = np.empty((len(keys), ID_BYTES), np.uint8)
    found[:, :KEY_BYTES] = keys.view(np.uint8).reshape(-1, KEY_BYTES)
    found[:, KEY_BYTES:] = checksums.view(np.uint8).reshape(len(keys), -1)
    return found.view(f"S{ID_BYTES}")[:, 0]


def numbered_keys(numbers: npt.NDArray[np.int64]) -> npt.NDArray[np.bytes_]:
    """Return keys for n images whose content has none, from numbers, shape (n,), that tell them apart."""
    found = np.zeros((len(numbers), KEY_BYTES // 8), ">i8")
    found[:, -1] = numbers
    return found.view(f"S{KEY_BYTES}")[:, 0]


def id_array(ids: Iterable[bytes]) -> Ids:
    """Return ids as an array, shape (n,)."""
    return np.frombuffer(b"".join(ids), f"S{ID_BYTES}")


def as_hex(ids: Ids) -> list[str]:
    """Return ids as they are in a collection."""
    text = ids.tobytes().hex()
    return [text[start : start + 2 * ID_BYTES] for start in range(0, len(text), 2 * ID_BYTES)]


def from_hex(text: str, length: int = ID_BYTES) -> bytes | None:
    """Return an id of a collection as bytes, or None if it is not one of ours."""
    try:
        found = bytes.fromhex(text)
    except ValueError:
        return None
    return found if len(found) == length else None


def write_ids(snapshot: Path, ids: Iterable[bytes]) -> None:
    """Write the ids of a snapshot's items, given in gallery order; raise OSError if that fails."""
    found = ItemIds.of(id_array(ids))
    np.save(snapshot / IDS, found.ids)
    np.save(snapshot / POSITIONS, found.order)


def with_keys(ids: Ids, keys: Sequence[bytes]) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Return the places of the sorted ids that have one of these keys, and the index of each one's key."""
    rest = ID_BYTES - KEY_BYTES
    lowest, highest = (id_array(key + end * rest for key in keys) for end in (b"\0", b"\xff"))
    return _between(ids, lowest, highest, len(ids))


def known(ids: Ids, others: Ids) -> npt.NDArray[np.bool_]:
    """Return which of the other ids are among the sorted ones, without sorting anything."""
    found: npt.NDArray[np.bool_] = ids[np.minimum(np.searchsorted(ids, others), len(ids) - 1)] == others
    return found


def _between(ids: Ids, lowest: Ids, highest: Ids, most: int) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Return the places of the sorted ids within each of n ranges, at most `most` in each, and the range of each."""
    starts = np.searchsorted(ids, lowest)
    counts = np.minimum(np.searchsorted(ids, highest, side="right") - starts, most)
    which = np.repeat(np.arange(len(lowest)), counts)
    return starts[which] + np.arange(len(which)) - np.repeat(np.cumsum(counts) - counts, counts), which


@dataclass(frozen=True)
class ItemIds:
    """The ids of a snapshot's items, sorted, and the position of each."""

    ids: Ids
    order: npt.NDArray[np.intp]

    @classmethod
    def of(cls, ids: Ids) -> "ItemIds":
        """Sort ids that are given in gallery order."""
        order = np.argsort(ids, kind="stable")
        return cls(ids[order], order)

    @classmethod
    def read(cls, snapshot: Path) -> "ItemIds":
        """Open the files of a snapshot, memory-mapped; raise OSError or ValueError if they cannot be read."""
        return cls(np.load(snapshot / IDS, mmap_mode="r"), np.load(snapshot / POSITIONS, mmap_mode="r"))

    def positions(self, ids: Ids, most: int) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
        """Return the positions of items with these ids, ascending, and the index of each one's id among `ids`.

        Unknown ids are left out. Of items with the same id, only the first `most` are returned.
        """
        places, which = _between(self.ids, ids, ids, most)
        positions = np.asarray(self.order[places])
        order = np.argsort(positions)
        return positions[order], which[order]

    def position(self, key: bytes) -> int | None:
        """Return the position of the first item with a key."""
        places, _ = with_keys(self.ids, [key])
        return int(self.order[places].min()) if len(places) else None

    @property
    def count(self) -> int:
        """The number of items."""
        return len(self.ids)

    @cached_property
    def first_positions(self) -> npt.NDArray[np.intp]:
        """The position of one item of each distinct id, in the order of `distinct`."""
        return np.asarray(self.order[self._firsts])

    @cached_property
    def distinct(self) -> Ids:
        """The distinct ids, sorted."""
        return np.asarray(self.ids[self._firsts])

    @cached_property
    def _firsts(self) -> npt.NDArray[np.intp]:
        return np.flatnonzero(np.concatenate([[True], self.ids[1:] != self.ids[:-1]]))
