"""A cache of query vectors."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Sequence
from concurrent.futures import Future

from retrieval.features.base import Vectors

VECTORS_KEPT = 256  # so that a search with another metric or engine does not embed the query again
NUMBERS_KEPT = 16 * 2**20  # 64 MB of float32


class VectorCache:
    """A least-recently-used cache of at most `size` query vectors, with at most `numbers` float32 values in all.

    Concurrent requests for the same key share one computation.
    """

    def __init__(self, size: int = VECTORS_KEPT, numbers: int = NUMBERS_KEPT) -> None:
        self._size = size
        self._numbers = numbers
        self._futures: OrderedDict[Hashable, Future[Vectors]] = OrderedDict()
        self._lock = threading.Lock()

    def __contains__(self, key: Hashable) -> bool:
        with self._lock:
            return key in self._futures and self._futures[key].done()

    def vectors(self, keys: Sequence[Hashable], compute: Callable[[Sequence[int]], Iterable[Vectors]]) -> list[Vectors]:
        """Return the vectors of the keys, waiting for those that another thread computes; raise its exceptions too.

        `compute` takes indices into `keys` and returns their vectors. It is called at most once, for those that are
        neither cached nor being computed.
        """
        with self._lock:
            places = [i for i, key in enumerate(keys) if key not in self._futures and key not in keys[:i]]
            self._futures.update({keys[i]: Future() for i in places})
            found = [self._futures[key] for key in keys]
            for key in keys:
                self._futures.move_to_end(key)
        if places:
            # Compute before waiting, so that two threads can never wait for each other.
            self._fill([keys[i] for i in places], [found[i] for i in places], lambda: compute(places))
        return [future.result() for future in found]

    def _fill(
        self, keys: list[Hashable], futures: list[Future[Vectors]], compute: Callable[[], Iterable[Vectors]]
    ) -> None:
        try:
            computed = list(zip(futures, compute(), strict=True))
        except BaseException as error:
            with self._lock:
                for key in keys:
                    self._futures.pop(key, None)
            for future in futures:
                future.set_exception(error)
            raise
        for future, vector in computed:
            future.set_result(vector)
        longest = max(vector.size for _, vector in computed)
        with self._lock:
            while len(self._futures) > max(1, min(self._size, self._numbers // max(1, longest))):
                self._futures.popitem(last=False)
