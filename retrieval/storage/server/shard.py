"""A worker's share of a build that several workers do side by side."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Shard:
    """Every `count`-th batch of a gallery, beginning with the `number`-th, from 1."""

    number: int
    count: int

    def __str__(self) -> str:
        """Return the text that `read_shard` takes."""
        return f"{self.number}/{self.count}"

    def has(self, row: int, size: int) -> bool:
        """Say whether the batch of `size` rows that holds a row is in the share."""
        return row // size % self.count == self.number - 1

    def among(self, rows: npt.NDArray[np.int64], size: int) -> int:
        """Return how many of some rows, in batches of `size`, are in the share."""
        return sum(self.has(row, size) for row in rows.tolist())

    def rows(self, total: int, size: int) -> int:
        """Return how many of `total` rows, in batches of `size`, are in the share."""
        return sum(min(size, total - start) for start in range((self.number - 1) * size, total, self.count * size))


ALL = Shard(1, 1)


def read_shard(text: str) -> Shard:
    """Return the share that a text such as 2/4 names.

    Raises:
        ValueError: it names none, in words.
    """
    number, _, count = text.partition("/")
    if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count) <= 10_000):
        raise ValueError(f"must be a worker's number and how many there are, such as 1/2 or 2/2, not {text[:40]!r}")
    return Shard(int(number), int(count))
