"""Import torch and transformers faster, which is most of a search by the command line.

Garbage collection finds nothing while modules are imported, but it visits the objects of thousands of them again and
again. transformers 5.23 imports scipy.optimize for the loss of object detection, which nothing here computes; it asks
`is_scipy_available` before it does. Both save 0.6 of 5.2 s of processor time.
"""

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

# The names of transformers are imported on first use, which fails in one of two threads that start at the same moment.
_ONE_AT_A_TIME = threading.RLock()


@contextmanager
def fast_imports() -> Iterator[None]:
    """Return a context for imports of torch and transformers. One thread at a time can be in it."""
    with _ONE_AT_A_TIME:
        collected = gc.isenabled()
        gc.disable()
        try:
            utils: Any = import_module("transformers.utils")
            asked, utils.is_scipy_available = utils.is_scipy_available, lambda: False
            try:
                yield
            finally:
                utils.is_scipy_available = asked
        finally:
            if collected:
                gc.enable()
