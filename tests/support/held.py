"""A model that a test can hold up."""

import threading

import torch

from retrieval.features import FEATURES
from retrieval.features.base import FeatureOptions, FeatureSet, ModelChoice, Vectors
from retrieval.features.encoder import ClipEncoder
from tests.support.waiting import PATIENCE


class Held:
    """Loads the bundled model so that it does `free` forward passes and then waits until it is let go."""

    def __init__(self, free: int) -> None:
        self.free = free
        self.go = threading.Event()
        self.reached = threading.Event()

    def load(self, name: str, options: FeatureOptions, choice: ModelChoice | None) -> FeatureSet:
        if choice is None:
            return FEATURES[name].load(options, choice)
        held, done = self, 0

        class Encoder(ClipEncoder):
            def forward(self, pixels: torch.Tensor) -> Vectors:
                nonlocal done
                if done > held.free:  # the first pass tells the number of dimensions
                    held.reached.set()
                    assert held.go.wait(PATIENCE)
                done += 1
                return super().forward(pixels)

        return Encoder(choice, options.dtype)
