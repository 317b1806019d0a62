"""The feature sets in use, each loaded once and shared by builds and searches."""

import threading

from retrieval.features import FEATURES
from retrieval.features.base import FeatureIdentity, FeatureOptions, FeatureSet, ModelChoice


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
                self._loaded[name, identity] = FEATURES[name].restore(identity)
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
