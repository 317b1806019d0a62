"""The exact scan: every vector of a gallery is compared."""

from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import torch

from retrieval.features import Vectors
from retrieval.metrics import DEFINITIONS, REFINE_BYTES, Metric, Scores, View, closeness, view_of

_THREADS = ThreadPoolExecutor(thread_name_prefix="scan")  # starts none before the first large scan

ROUNDING = 2.0**-24  # of one float32 operation, relative
LANES = 4  # a dot product is summed in this many lanes at least
SCALED = 64  # operations on a score beside its sum: norms, quotients, roots
PART_BYTES = 4 * 2**20  # less than this of a matrix is not worth another thread


class Scan:
    """An exact scan of one matrix of gallery vectors by any metric, in float32, many queries at once.

    Cosine and correlation need no second matrix: with the norms known, both are a dot product with the plain
    vectors, since sum (g - mean g)(q - mean q) = sum g (q - mean q).
    """

    def __init__(self, vectors: Vectors) -> None:
        """Take gallery vectors of shape (n, d), float32, and their norms once."""
        self.vectors = torch.from_numpy(vectors)
        self.squares = torch.empty(len(vectors))
        self.centred_norms = torch.empty(len(vectors))
        width = max(1, vectors.shape[1])
        block = max(1, REFINE_BYTES // (8 * width))
        for start in range(0, len(vectors), block):
            part = self.vectors[start : start + block].double()
            squares = part.square().sum(1)
            part -= part.mean(1, keepdim=True)
            centred = part.square().sum(1)
            self.squares[start : start + block] = squares.float()
            self.centred_norms[start : start + block] = torch.where(
                centred <= 1e-12 * squares, 0.0, centred.sqrt()
            ).float()
        self.norms = self.squares.sqrt()

    def scores(self, metric: Metric, queries: Vectors) -> Scores:
        """Return the metric between each of m queries, shape (m, d), and the n gallery vectors: shape (m, n)."""
        q = torch.from_numpy(np.ascontiguousarray(queries, dtype=np.float32))
        if metric is Metric.L1:
            return torch.cdist(q, self.vectors, p=1).numpy()
        if metric is Metric.L2:
            square = self.squares - 2 * self._dots(q) + q.square().sum(1, keepdim=True)
            return square.clamp_min_(0).sqrt_().numpy()
        view = DEFINITIONS[metric].view
        unit = torch.from_numpy(view_of(view, q.numpy().astype(np.float64)).astype(np.float32))
        norms = self.centred_norms if view is View.CENTRED else self.norms
        return torch.where(norms > 0, self._dots(unit) / norms, 0.0).clamp_(-1, 1).numpy()

    def _dots(self, queries: torch.Tensor) -> torch.Tensor:
        """Return the dot products of m queries with the gallery, shape (m, n).

        One query waits for memory only, and vecdot reads as fast as memory gives. It is cut into parts for threads
        of ours: threads of numpy's BLAS would go on spinning after it and take half of the CPU from the model.
        """
        if len(queries) > 1:
            return queries @ self.vectors.T
        dots, gallery, query = np.empty((1, len(self.vectors)), np.float32), self.vectors.numpy(), queries[0].numpy()
        count = min(torch.get_num_threads(), 1 + gallery.nbytes // PART_BYTES)
        edges = [len(gallery) * part // count for part in range(count + 1)]

        def fill(start: int, stop: int) -> None:
            np.vecdot(gallery[start:stop], query, out=dots[0, start:stop])

        others = [_THREADS.submit(fill, *part) for part in pairwise(edges[1:])]
        fill(*edges[:2])
        for other in others:
            other.result()
        return torch.from_numpy(dots)

    def candidates(
        self, metric: Metric, query: Vectors, k: int, among: npt.NDArray[np.intp] | None = None
    ) -> npt.NDArray[np.intp]:
        """Return every position that can be among the k closest once float32 rounding is taken into account.

        Ties at the k-th place are all included, so that the exact order can decide among them.

        Args:
            metric: the metric.
            query: one plain vector, shape (d,).
            k: how many are wanted.
            among: the only positions that count; None lets all count.
        """
        near = closeness(metric, self.scores(metric, query[None])[0]).astype(np.float64)
        among = np.arange(len(near)) if among is None else among
        if k >= len(among):
            return among
        # Where all terms are alike all roundings can be too, so the margin grows with the terms of a lane.
        terms = self.vectors.shape[1] / LANES
        scale: npt.NDArray[np.floating] | float = 1.0
        if metric is Metric.L1:
            scale, terms = near, self.vectors.shape[1]  # torch sums it in one lane
        elif metric is Metric.L2:
            # The square is a difference of large numbers: its error is relative to those, not to itself.
            near, scale = np.square(near), self.squares.numpy() + float(np.square(query).sum())
        elif metric is Metric.CORRELATION:
            # The dot product is with plain vectors: of a pale picture its error is large beside what is left
            # when the mean is taken away, and of one that looks constant nothing is known.
            scale = torch.where(self.squares > 0, self.norms / self.centred_norms, 0.0).numpy()
        slack = np.broadcast_to(ROUNDING * (terms + SCALED) * scale, near.shape)[among]
        near = near[among]
        kth = np.partition(near + slack, k - 1)[k - 1]
        found: npt.NDArray[np.intp] = among[near - slack <= kth]
        return found
