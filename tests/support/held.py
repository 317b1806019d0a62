"""A model that a test can pause."""

import threading

from retrieval.features import FEATURES
from retrieval.features.base import FeatureOptions, FeatureSet, ModelChoice, Vectors
from retrieval.features.encoder import ClipEncoder, Inputs
from tests.support.waiting import PATIENCE


class PausableModel:
    """Loads the bundled model so that it blocks after `free_passes` forward passes until `resume` is set."""

    def __init__(self, free_passes: int) -> None:
        self.free_passes = free_passes
        self.resume = threading.Event()
        self.reached = threading.Event()

    def load(self, name: str, options: FeatureOptions, choice: ModelChoice | None) -> FeatureSet:
        if choice is None:
            return FEATURES[name].load(options, choice)
        held, done = self, 0

        class Encoder(ClipEncoder):
            def forward(self, inputs: Inputs) -> Vectors:
                nonlocal done
                if done > held.free_passes:  # one more pass determines the number of dimensions
                    held.reached.set()
                    assert held.resume.wait(PATIENCE)
                done += 1
                return super().forward(inputs)

        return Encoder(choice, options.dtype)
