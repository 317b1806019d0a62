"""The feature sets in use, each loaded once and shared by builds and searches."""

import threading
from collections.abc import Callable, Sequence

from PIL import Image
from typing_extensions import override

from retrieval.errors import IndexingError
from retrieval.features import FEATURES, Vectors
from retrieval.features.base import FeatureIdentity, FeatureOptions, FeatureSet, ModelChoice
from retrieval.installation import BUILDER


class LoadedFeatures:
    """Feature sets by type and identity. Safe for many threads."""

    def __init__(self) -> None:
        self._loaded: dict[tuple[str, FeatureIdentity], FeatureSet] = {}
        self._lock = threading.Lock()

    def get(self, name: str, identity: FeatureIdentity) -> FeatureSet:
        """Return the feature set an index was built with.

        Raises:
            ModelError: its model is not available.
            IndexingError: the model has changed since then.
        """
        with self._lock:
            if (name, identity) not in self._loaded:
                found = FEATURES[name].restore(identity)
                if found.identity != identity:
                    raise IndexingError(
                        f"The index was built with {identity.title} at {identity.revision}, but what is found now is "
                        f"{found.identity.title} at {found.identity.revision}. Rebuild the index: "
                        f"`{BUILDER} --rebuild`"
                    )
                self._loaded[name, identity] = found
            return self._loaded[name, identity]

    def load(self, name: str, options: FeatureOptions, choice: ModelChoice | None) -> FeatureSet:
        """Return a feature set for a build: the one that searches use if it is the same, else a new one.

        Raises:
            ModelError: the model cannot be used.
        """
        kind = FEATURES[name]
        with self._lock:
            for (other, identity), loaded in self._loaded.items():
                if other == name and kind.is_same(identity, options, choice):
                    return loaded
        loaded = kind.load(options, choice)  # outside the lock, so that searches with other models do not wait
        with self._lock:
            return self._loaded.setdefault((name, loaded.identity), loaded)


class LoadedLater(FeatureSet):
    """A feature set whose identity is known, and which is loaded when it first embeds."""

    def __init__(self, identity: FeatureIdentity, load: Callable[[], FeatureSet]) -> None:
        self.identity = identity
        self._load = load
        self._lock = threading.Lock()
        self._features: FeatureSet | None = None

    @property
    def batch_size(self) -> int | None:  # type: ignore[override]  # loading it tells
        """The number of images per call that are fastest."""
        return self._loaded().batch_size

    @override
    def embed(self, pictures: Sequence[Image.Image]) -> Vectors:
        return self._loaded().embed(pictures)

    def _loaded(self) -> FeatureSet:
        with self._lock:
            if self._features is None:
                features = self._load()
                if features.identity != self.identity:
                    raise IndexingError(
                        f"The embeddings of this gallery were computed in another way ({self.identity} before, "
                        f"{features.identity} now). Embed them again with `--rebuild`."
                    )
                self._features = features
            return self._features
