"""CLIP features: what an image-text model sees in an image."""

from typing_extensions import override

from retrieval.features.base import FeatureOptions, FeatureSet, ModelChoice, Output
from retrieval.features.importing import fast_imports
from retrieval.features.vision import ModelFeatures


class ClipFeatures(ModelFeatures):
    """Embeddings of any transformers model with `get_image_features`, projected and scaled to unit length."""

    name = "clip"
    title = "CLIP features"
    phrase = "CLIP features"
    about = "compare what is in the image"
    takes_text = True
    near_zero_mean = True
    outputs = (Output.PROJECTED,)

    @override
    def load(self, options: FeatureOptions, choice: ModelChoice | None) -> FeatureSet:
        with fast_imports():
            from retrieval.features.encoder import ClipEncoder

        return ClipEncoder(choice or self.choose(options), options.dtype)
