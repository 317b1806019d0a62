"""Random inputs for a given time, in rounds that can be repeated with their seed."""

import os
import random
import time
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, given, seed, settings
from hypothesis.strategies import SearchStrategy

SECONDS = float(os.environ.get("ENDURANCE_SECONDS", "10"))  # for each target
ROUND = 100  # inputs between two checks of the time


def fuzz(inputs: SearchStrategy[Any], check: Callable[[Any], None]) -> None:
    """Check random inputs until the time is up; print the seed of each round, and shrink failures."""
    end, rounds = time.monotonic() + SECONDS, 0
    while time.monotonic() < end:
        number = random.SystemRandom().getrandbits(32)
        print(f"round {rounds}: seed {number}")

        @seed(number)
        @settings(max_examples=ROUND, print_blob=True, database=None, suppress_health_check=list(HealthCheck))
        @given(inputs)
        def one_round(value: Any) -> None:
            check(value)

        one_round()
        rounds += 1
    assert rounds
