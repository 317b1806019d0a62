"""A worker's share of a build that several workers split."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Shard:
    """Every `count`-th batch of a gallery, starting with number `number` (1-based)."""

    number: int
    count: int

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    def has(self, row: int, size: int) -> bool:
        """Return whether the batch of `size` rows that contains a row is in the share."""
        return row // size % self.count == self.number - 1

    def among(self, rows: npt.NDArray[np.int64], size: int) -> int:
        """Return how many of these rows, in batches of `size`, are in the share."""
        return sum(self.has(row, size) for row in rows.tolist())

    def rows(self, total: int, size: int) -> int:
        """Return how many of `total` rows, in batches of `size`, are in the share."""
        return sum(min(size, total - start) for start in range((self.number - 1) * size, total, self.count * size))


ALL = Shard(1, 1)


def read_shard(text: str) -> Shard:
    """Parse a share such as 2/4; raise ValueError, with the reason, if it is invalid."""
    number, _, count = text.partition("/")
    if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count) <= 10_000):
        raise ValueError(f"must be a worker's number and the number of workers, such as 1/2 or 2/2, not {text[:40]!r}")
    return Shard(int(number), int(count))
