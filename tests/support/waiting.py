"""Waiting for another thread or process: with patience, since a slow machine is no failure."""

import time
from collections.abc import Callable
from typing import TypeVar

PATIENCE = 180.0  # seconds

Result = TypeVar("Result")


def until(happened: Callable[[], Result], said: Callable[[], object] = lambda: "it did not come so far") -> Result:
    """Look again and again until something has happened; return it. Who waits in vain is told what `said` returns."""
    end = time.monotonic() + PATIENCE
    while not (found := happened()):
        assert time.monotonic() < end, said()
        time.sleep(0.002)  # between two looks; longer could miss the part of one collection
    return found
