"""Whether the packages installed are those that the project was tested with: the pins of requirements.txt."""

import re
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PINS = Path(__file__).resolve().parents[1] / "requirements.txt"
PIN = re.compile(r"([\w.-]+)(?:\[[\w.,\s-]*\])?\s*==\s*([\w.+!]+)")  # name[extras] == version


def pinned(file: Path = PINS) -> dict[str, str]:
    """Return the version of each package that a file of requirements pins; its other lines are left to `differing`."""
    return {pin[1]: pin[2] for _, pin in _lines(file) if pin}


def differing(file: Path = PINS) -> list[str]:
    """Return in words what is installed in another version than pinned, or not at all, and which lines pin nothing.

    What follows a + tells builds of one version apart, as torch 2.13.0+cpu, and does not count.
    """
    try:
        # By its number alone, since an index's address in it can hold a password.
        found = [f"line {number} of {file.name} pins no version" for number, pin in _lines(file) if not pin]
        pins = pinned(file)
    except OSError as error:
        return [f"{file.name} cannot be read: {error.strerror}"]
    for name, wanted in pins.items():
        try:
            there = version(name)
        except PackageNotFoundError:
            found.append(f"{name} is missing (pinned: {wanted})")
            continue
        if there.partition("+")[0] != wanted.partition("+")[0]:
            found.append(f"{name} is {there} (pinned: {wanted})")
    return found


def _lines(file: Path) -> Iterator[tuple[int, re.Match[str] | None]]:
    """Yield the number of each line that says something, and what it pins."""
    for number, line in enumerate(file.read_text(encoding="utf-8-sig", errors="replace").splitlines(), start=1):
        if text := line.partition("#")[0].strip():
            yield number, PIN.fullmatch(text)
