"""Whether the packages installed are those that the project was tested with: the pins of requirements.txt."""

import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PINS = Path(__file__).resolve().parents[1] / "requirements.txt"


def pinned(file: Path = PINS) -> dict[str, str]:
    """Return the version of each package that a file of requirements pins.

    Raises:
        ValueError: a line that is no pin.
    """
    pins = {}
    for line in file.read_text(encoding="utf-8").splitlines():
        if text := line.partition("#")[0].strip():
            pin = re.fullmatch(r"([\w.-]+)==([\w.]+)", text)
            if pin is None:
                raise ValueError(f"{file.name}: {text!r} is no pin; write name==version")
            pins[pin[1]] = pin[2]
    return pins


def differing(pins: dict[str, str]) -> list[str]:
    """Return in words what is installed in another version than pinned, or not at all.

    What follows a + tells builds of one version apart, as torch 2.13.0+cpu, and does not count.
    """
    found = []
    for name, wanted in pins.items():
        try:
            there = version(name)
        except PackageNotFoundError:
            found.append(f"{name} is missing (pinned: {wanted})")
            continue
        if there.partition("+")[0] != wanted:
            found.append(f"{name} is {there} (pinned: {wanted})")
    return found
