"""A third feature type in one module: the average colour of an image."""

from collections.abc import Sequence

import numpy as np
from PIL import Image
from typing_extensions import override

from retrieval.features.base import FeatureIdentity, FeatureOptions, FeatureSet, FeatureType, ModelChoice, Vectors


class AverageFeatures(FeatureType):
    name = "average"
    title = "Average colour"
    phrase = "the average colour"
    about = "compares one colour"

    @override
    def load(self, options: FeatureOptions, choice: ModelChoice | None) -> FeatureSet:
        return Average()

    @override
    def restore(self, identity: FeatureIdentity) -> FeatureSet:
        return Average()


class Average(FeatureSet):
    identity = FeatureIdentity("average", "1", "mean of each channel", "float32", 3)

    @override
    def embed(self, pictures: Sequence[Image.Image]) -> Vectors:
        return np.array([np.asarray(each).mean(axis=(0, 1)) for each in pictures], np.float32) / 255
