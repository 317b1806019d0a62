"""Files of what was computed, each with a word on what it was made from; they are there only when they are whole."""

from hashlib import sha256
from pathlib import Path
from typing import Any

import torch


def save(state: dict[str, Any], file: Path, made_from: str) -> None:
    """Write what torch can save, under a temporary name until it is whole."""
    unfinished = file.with_suffix(".part")
    torch.save({**state, "made_from": made_from}, unfinished)
    unfinished.rename(file)


def load(file: Path, made_from: str, *, mmap: bool = False) -> dict[str, Any] | None:
    """Return what was written, None if there is no such file.

    Raises:
        RuntimeError: it was made from something else.
    """
    if not file.exists():
        return None
    state: dict[str, Any] = torch.load(file, weights_only=True, mmap=mmap)
    if state["made_from"] != made_from:
        raise RuntimeError(f"{file} was made from other inputs or with other settings. Delete it to have it made anew.")
    return state


def mark(*made_from: object) -> str:
    """Return what stands for settings, texts, and files that were kept, which count by name, size and time."""
    parts = [_of_file(part) if isinstance(part, Path) else part for part in made_from]
    return sha256(repr(parts).encode()).hexdigest()[:16]


def _of_file(file: Path) -> tuple[str, int, int]:
    about = file.stat()
    return file.name, about.st_size, about.st_mtime_ns
