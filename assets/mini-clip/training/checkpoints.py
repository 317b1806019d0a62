"""Files with intermediate results. Each stores a fingerprint of its inputs and becomes visible only when complete."""

from hashlib import sha256
from pathlib import Path
from typing import Any

import torch


def save(state: dict[str, Any], file: Path, made_from: str) -> None:
    """Write a state that torch can save, under a temporary name until it is complete."""
    unfinished = file.with_suffix(".part")
    torch.save({**state, "made_from": made_from}, unfinished)
    unfinished.rename(file)


def load(file: Path, made_from: str, *, mmap: bool = False) -> dict[str, Any] | None:
    """Return the stored state, or None if the file does not exist.

    Raises:
        RuntimeError: the file was made from other inputs.
    """
    if not file.exists():
        return None
    state: dict[str, Any] = torch.load(file, weights_only=True, mmap=mmap)
    if state["made_from"] != made_from:
        raise RuntimeError(f"{file} was made from other inputs or with other settings. Delete it to rebuild it.")
    return state


def fingerprint(*made_from: object) -> str:
    """Return a digest of settings, texts and files; a file is identified by name, size and modification time."""
    parts = [_of_file(part) if isinstance(part, Path) else part for part in made_from]
    return sha256(repr(parts).encode()).hexdigest()[:16]


def _of_file(file: Path) -> tuple[str, int, int]:
    about = file.stat()
    return file.name, about.st_size, about.st_mtime_ns
