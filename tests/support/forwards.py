"""A counter of the forward passes of a model."""

import threading

from tests.support.waiting import PATIENCE


class ForwardCounter:
    """Counts the pictures in each forward pass of the real model; clear `open` to block the next pass."""

    def __init__(self) -> None:
        self.pictures: list[int] = []  # in each pass
        self.open = threading.Event()
        self.open.set()

    def __call__(self, module: object, given: tuple[object, ...], named: dict[str, object]) -> None:
        pixels = named.get("pixel_values", *given[:1])
        self.pictures.append(len(pixels))  # type: ignore[arg-type]  # a tensor
        assert self.open.wait(PATIENCE)
