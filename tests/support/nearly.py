"""Answers that are equal but for rounding: a picture embedded beside others differs in its last digits."""

from typing import Any

import pytest


def nearly(answer: Any) -> Any:
    """Return what equals an answer (of dicts, lists, texts and numbers) whose fractions are about the same."""
    if isinstance(answer, dict):
        return {key: nearly(value) for key, value in answer.items()}
    if isinstance(answer, list | tuple):
        return [nearly(value) for value in answer]
    return pytest.approx(answer, rel=1e-5, abs=1e-6) if isinstance(answer, float) else answer
