"""CNN features: what the image tower of the bundled model sees before the projection that compares it with texts."""

from typing_extensions import override

from retrieval.features.base import FeatureIdentity, FeatureOptions, FeatureSet, ModelChoice, Output
from retrieval.features.importing import fast_imports
from retrieval.features.models import BUNDLED, choose_model
from retrieval.features.vision import ModelFeatures


class CnnFeatures(ModelFeatures):
    """The pooled output of the bundled model's convolutions, scaled to unit length."""

    name = "cnn"
    title = "CNN features"
    phrase = "CNN features"
    about = "compare what the model sees before its last step"
    outputs = (Output.TOWER,)

    @override
    def choose(self, options: FeatureOptions) -> ModelChoice:
        return choose_model(BUNDLED)

    @override
    def load(self, options: FeatureOptions, choice: ModelChoice | None) -> FeatureSet:
        with fast_imports():
            from retrieval.features.encoder import TowerEncoder

        return TowerEncoder(choice or self.choose(options), options.dtype)

    @override
    def is_portable(self, identity: FeatureIdentity) -> bool:
        return identity.name == BUNDLED and super().is_portable(identity)
