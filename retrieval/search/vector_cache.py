"""The query vectors used last."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Sequence
from concurrent.futures import Future

from retrieval.features.base import Vectors

VECTORS_KEPT = 256  # query vectors remembered, so that another metric or engine embeds nothing again


NUMBERS_KEPT = 16 * 2**20  # 64 MB of float32


class VectorCache:
    """The query vectors used last, by picture, features and model; holds no picture. None is computed twice at once."""

    def __init__(self, size: int = VECTORS_KEPT, numbers: int = NUMBERS_KEPT) -> None:
        """Remember up to `size` vectors, and fewer where they are so long that they hold more than `numbers`."""
        self._size = size
        self._numbers = numbers
        self._futures: OrderedDict[Hashable, Future[Vectors]] = OrderedDict()
        self._lock = threading.Lock()

    def __contains__(self, key: Hashable) -> bool:
        """Return whether the vector of a key is remembered; one that is just being computed is not yet."""
        with self._lock:
            return key in self._futures and self._futures[key].done()

    def vectors(self, keys: Sequence[Hashable], compute: Callable[[Sequence[int]], Iterable[Vectors]]) -> list[Vectors]:
        """Return the vectors of keys, forgetting those of other keys that are unused for longest.

        What another thread is computing is waited for; if it fails there, it fails here with the same error.

        Args:
            keys: whose vectors are wanted.
            compute: returns the vectors at places in `keys`; called with those that nobody has or computes, if any.
        """
        with self._lock:
            places = [i for i, key in enumerate(keys) if key not in self._futures and key not in keys[:i]]
            self._futures.update({keys[i]: Future() for i in places})
            found = [self._futures[key] for key in keys]
            for key in keys:
                self._futures.move_to_end(key)
        if places:
            # Before anything is waited for, so that no two threads can wait for each other.
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
