"""Features of vision models from transformers, of which a gallery can hold several, each under a name of its own."""

import re
from dataclasses import replace
from typing import ClassVar

from typing_extensions import override

from retrieval.errors import ModelError
from retrieval.features.base import (
    AUTO,
    DTYPES,
    OUTPUTS,
    FeatureIdentity,
    FeatureOptions,
    FeatureSet,
    FeatureType,
    ModelChoice,
    Output,
)
from retrieval.features.importing import fast_imports
from retrieval.features.models import choose_model, is_published, recorded_model

PREPROCESSING = re.compile(f"[0-9a-f]{{16}}(?: ({'|'.join(Output)}))?")


def output_of(identity: FeatureIdentity) -> Output | None:
    """Return which output of a model an identity describes; None if it is not that of a model."""
    found = PREPROCESSING.fullmatch(identity.preprocessing)
    return Output(found[1] or Output.PROJECTED) if found and identity.dtype in DTYPES else None


class ModelFeatures(FeatureType):
    """Vectors of a model, scaled to unit length; `outputs` are those that may be used."""

    unit_length = True
    has_model = True
    outputs: ClassVar[tuple[Output, ...]]

    @override
    def choose(self, options: FeatureOptions) -> ModelChoice:
        return choose_model(options.model, options.model_revision)

    @override
    def find(self, identity: FeatureIdentity) -> None:
        recorded_model(identity)

    @override
    def load(self, options: FeatureOptions, choice: ModelChoice | None) -> FeatureSet:
        # Imported here, because torch and transformers take seconds to import.
        with fast_imports():
            from retrieval.features.encoder import ModelEncoder

        return ModelEncoder(choice or self.choose(options), options.dtype)

    @override
    def restore(self, identity: FeatureIdentity) -> FeatureSet:
        try:
            return self.load(FeatureOptions(dtype=identity.dtype), recorded_model(identity))
        except ModelError as error:
            raise ModelError(
                f"The model of this index is not available, so only features without a model can be searched. {error}"
            ) from error

    @override
    def is_portable(self, identity: FeatureIdentity) -> bool:
        return output_of(identity) in self.outputs and is_published(identity.name, identity.revision)

    @override
    def supports_text(self, identity: FeatureIdentity) -> bool:
        return self.takes_text or output_of(identity) is Output.PROJECTED

    @override
    def describe(self, identity: FeatureIdentity) -> str:
        output = output_of(identity)
        return f"{identity}, {OUTPUTS[output] if output else 'unknown output'}, {identity.dimensions:,} numbers"

    @override
    def is_same(self, identity: FeatureIdentity, options: FeatureOptions, choice: ModelChoice | None) -> bool:
        if choice is None or (choice.name, choice.revision) != (identity.name, identity.revision):
            return False
        if options.dtype != AUTO:
            return options.dtype == identity.dtype
        from retrieval.features.encoder import best_device, best_dtype  # imports torch, which takes seconds

        return best_dtype(best_device()) == identity.dtype

    @override
    def keep(self, identity: FeatureIdentity, options: FeatureOptions) -> FeatureOptions:
        if options.model not in (AUTO, identity.name):
            return options
        dtype = identity.dtype if options.dtype == AUTO else options.dtype
        if options.model == identity.name:
            return replace(options, dtype=dtype)
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


class VisionFeatures(ModelFeatures):
    """Any vision model, under a name that the user gives it; it supports text if its features are projected."""

    about = "compare what this model sees"
    outputs = (Output.PROJECTED, Output.CLS, Output.POOLED)

    def __init__(self, name: str) -> None:
        self.name = name
        self.title = self.phrase = f"{name} features"

    @override
    def choose(self, options: FeatureOptions) -> ModelChoice:
        if options.model == AUTO:
            raise ModelError(f"The features {self.name!r} need a model: `--features {self.name}=ORG/NAME`.")
        return super().choose(options)
