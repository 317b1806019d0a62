"""CLIP features: what an image-text model sees in an image."""

import re
from dataclasses import replace

from typing_extensions import override

from retrieval.errors import IndexingError, ModelError
from retrieval.features.base import (
    AUTO,
    DTYPES,
    FeatureIdentity,
    FeatureOptions,
    FeatureSet,
    FeatureType,
    ModelChoice,
)
from retrieval.features.models import choose_model, is_published, recorded_model

PREPROCESSING = re.compile("[0-9a-f]{16}")


class ClipFeatures(FeatureType):
    """Embeddings of any transformers model with `get_image_features`, projected and scaled to unit length."""

    name = "clip"
    title = "CLIP features"
    phrase = "CLIP features"
    takes_text = True
    unit_length = True
    near_zero_mean = True
    has_model = True

    @override
    def choose(self, options: FeatureOptions) -> ModelChoice:
        return choose_model(options.model, options.model_revision)

    @override
    def find(self, identity: FeatureIdentity) -> None:
        recorded_model(identity)

    @override
    def load(self, options: FeatureOptions, choice: ModelChoice | None) -> FeatureSet:
        # Imported here, because torch and transformers take seconds to import.
        from retrieval.features.encoder import ClipEncoder

        return ClipEncoder(choice or self.choose(options), options.dtype)

    @override
    def restore(self, identity: FeatureIdentity) -> FeatureSet:
        try:
            encoder = self.load(FeatureOptions(dtype=identity.dtype), recorded_model(identity))
        except ModelError as error:
            raise ModelError(
                f"The model of this index is not available, so only features without a model can be searched. {error}"
            ) from error
        if encoder.identity != identity:
            raise IndexingError(
                f"The index was built with model {identity.name} at {identity.revision}, but the model found now is "
                f"{encoder.identity.revision}. Rebuild the index: `python index_builder.py --rebuild`"
            )
        return encoder

    @override
    def is_portable(self, identity: FeatureIdentity) -> bool:
        known = identity.dtype in DTYPES and PREPROCESSING.fullmatch(identity.preprocessing)
        return bool(known) and is_published(identity.name, identity.revision)

    @override
    def is_same(self, identity: FeatureIdentity, options: FeatureOptions, choice: ModelChoice | None) -> bool:
        from retrieval.features.encoder import best_device, best_dtype

        dtype = best_dtype(best_device()) if options.dtype == AUTO else options.dtype
        wanted = (choice.name, choice.revision, dtype) if choice else None
        return wanted == (identity.name, identity.revision, identity.dtype)

    @override
    def keep(self, identity: FeatureIdentity, options: FeatureOptions) -> FeatureOptions:
        if options.model != AUTO:
            return options
        dtype = identity.dtype if options.dtype == AUTO else options.dtype
        return replace(options, model=identity.name, model_revision=identity.commit, dtype=dtype)

    @override
    def differences(self, options: FeatureOptions, identity: FeatureIdentity) -> list[str]:
        found = []
        if options.dtype not in (AUTO, identity.dtype):
            found.append(f"with dtype {identity.dtype}, not {options.dtype}")
        if options.model != AUTO:
            choice = self.choose(options)
            if (choice.name, choice.revision) != (identity.name, identity.revision):
                found.append(f"with model {identity.name}, not {choice.name}")
        return found
