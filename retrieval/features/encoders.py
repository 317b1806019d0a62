"""The models in use, each loaded once."""

import threading

from retrieval.errors import IndexingError, ModelError
from retrieval.features.clip import ClipEncoder, best_device, best_dtype
from retrieval.features.models import ModelChoice, ModelIdentity, choose_model


class Encoders:
    """CLIP models by identity, each loaded once, when it is first needed."""

    def __init__(self) -> None:
        """Hold no model yet."""
        self._loaded: dict[ModelIdentity, ClipEncoder] = {}
        self._lock = threading.Lock()

    def get(self, identity: ModelIdentity) -> ClipEncoder:
        """Return the very model that an index was made with.

        Raises:
            ModelError: it cannot be had.
            IndexingError: what goes by its name now is another model.
        """
        with self._lock:
            if identity not in self._loaded:
                try:
                    encoder = ClipEncoder(choose_model(identity.name, identity.commit), identity.dtype)
                except ModelError as error:
                    raise ModelError(
                        f"The model of this index cannot be had, so only raw pixels can be searched. {error}"
                    ) from error
                if encoder.identity != identity:
                    raise IndexingError(
                        f"The index was made with model {identity.name} at {identity.revision}, but what is there now "
                        f"is {encoder.identity.revision}. Build the index again: python index_builder.py --rebuild"
                    )
                self._loaded[identity] = encoder
            return self._loaded[identity]

    def load(self, choice: ModelChoice, dtype: str = "auto") -> ClipEncoder:
        """Return a model to build an index with: one that searches use already, or one that they will.

        Raises:
            ModelError: it cannot be used.
        """
        dtype = best_dtype(best_device()) if dtype == "auto" else dtype
        wanted = (choice.name, choice.revision, dtype)
        with self._lock:
            for encoder in self._loaded.values():
                if (encoder.choice.name, encoder.choice.revision, encoder.dtype) == wanted:
                    return encoder
        encoder = ClipEncoder(choice, dtype)  # not under the lock: searches with other models do not wait for it
        with self._lock:
            return self._loaded.setdefault(encoder.identity, encoder)
