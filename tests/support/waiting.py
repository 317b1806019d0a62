"""Wait for another thread or process, long enough for slow machines."""

import time
from collections.abc import Callable
from typing import TypeVar

PATIENCE = 180.0  # seconds

Result = TypeVar("Result")


def wait_until(condition: Callable[[], Result], message: Callable[[], object] = lambda: "timed out") -> Result:
    """Poll until the condition is true, and return its value; after a timeout, fail with the message."""
    end = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert time.monotonic() < end, message()
        time.sleep(0.002)  # short enough to see each write of a collection
    return found
