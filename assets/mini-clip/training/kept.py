"""Files of what was computed, which are there only when they are whole."""

from pathlib import Path

import torch


def save(state: object, file: Path) -> None:
    """Write what torch can save, under a temporary name until it is whole."""
    unfinished = file.with_suffix(".part")
    torch.save(state, unfinished)
    unfinished.rename(file)
