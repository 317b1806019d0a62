"""Edges: which way lines run in each part of an image, without its colours."""

from collections.abc import Sequence

import numpy as np
from PIL import Image
from typing_extensions import override

from retrieval.features.base import FeatureIdentity, FeatureOptions, FeatureSet, FeatureType, ModelChoice, Vectors


class EdgeFeatures(FeatureType):
    """Histograms of oriented gradients (Dalal and Triggs, 2005)."""

    name = "edges"
    title = "Edges"
    phrase = "edges"
    about = "compare the directions of edges"

    @override
    def load(self, options: FeatureOptions, choice: ModelChoice | None) -> FeatureSet:
        return Edges()


class Edges(FeatureSet):
    """9 directions in 4 x 4 cells of 32 pixels, in blocks of 2 x 2 cells scaled to the same contrast."""

    identity = FeatureIdentity("edges", "1", "HOG 128 x 128, cells of 32, blocks of 2", "float32", 324)

    @override
    def embed(self, pictures: Sequence[Image.Image]) -> Vectors:
        from skimage.feature import hog  # takes half a second to import

        grey = (each.convert("L").resize((128, 128), Image.Resampling.BOX) for each in pictures)
        found = [hog(np.asarray(each), pixels_per_cell=(32, 32), cells_per_block=(2, 2)) for each in grey]
        return np.array(found, np.float32)
