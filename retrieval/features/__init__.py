"""Feature types: what is compared when two images are. Add one by writing a file and listing it in `FEATURES`."""

from retrieval.features.base import FeatureType, Vectors
from retrieval.features.clip import ClipFeatures
from retrieval.features.pixels import PixelFeatures

__all__ = ["DEFAULT_FEATURES", "FEATURES", "Vectors", "default_first"]

FEATURES: dict[str, FeatureType] = {each.name: each for each in (PixelFeatures(), ClipFeatures())}
DEFAULT_FEATURES = ClipFeatures.name


def default_first() -> list[str]:
    """Return the names of all feature types, the default first: the order in which the page shows them."""
    return sorted(FEATURES, key=lambda name: name != DEFAULT_FEATURES)
