"""Digests of files, which reveal damage before it causes a wrong result or a crash."""

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path


def digest_of(path: Path) -> str:
    """Return the SHA-256 digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digests_of(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """Return the digest of each named file in a folder."""
    return {name: digest_of(folder / name) for name in names}


def check(folder: Path, name: str, digests: Mapping[str, str]) -> None:
    """Compare a file with its digest; raise OSError if it cannot be read, ValueError if it has changed."""
    if digest_of(folder / name) != digests.get(name):
        raise ValueError(f"{name} has changed since it was written")
