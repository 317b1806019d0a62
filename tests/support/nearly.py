"""Compare results except for rounding: the last digits of a vector depend on the other pictures in its batch."""

from typing import Any

import pytest


def nearly(answer: Any) -> Any:
    """Return a copy of nested dicts and lists in which each float is replaced by `pytest.approx`."""
    if isinstance(answer, dict):
        return {key: nearly(value) for key, value in answer.items()}
    if isinstance(answer, list | tuple):
        return [nearly(value) for value in answer]
    return pytest.approx(answer, rel=1e-5, abs=1e-6) if isinstance(answer, float) else answer
