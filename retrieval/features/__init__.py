"""Feature types: what is compared when two images are. Add one by writing a file and listing it in `BUILT_IN`."""

from collections.abc import Iterable

from retrieval.features.base import NAME, FeatureIdentity, FeatureType, Vectors
from retrieval.features.clip import ClipFeatures
from retrieval.features.cnn import CnnFeatures
from retrieval.features.color import ColorFeatures
from retrieval.features.edges import EdgeFeatures
from retrieval.features.pixels import PixelFeatures
from retrieval.features.vision import VisionFeatures, output_of

__all__ = ["DEFAULT_FEATURES", "DEFAULT_SET", "FEATURES", "Vectors", "default_first", "is_known", "is_name"]

# Names of columns of a published index besides the features, and of settings of a query.
RESERVED = {"image", "id", "label", "caption", "author", "license", "width", "height", "all", "auto"}


class Registry(dict[str, FeatureType]):
    """The built-in feature types by name; any other name is that of a vision model, which each gallery chooses."""

    def __missing__(self, name: str) -> FeatureType:
        if not is_name(name):
            raise KeyError(name)
        return VisionFeatures(name)


BUILT_IN = (PixelFeatures(), ColorFeatures(), EdgeFeatures(), CnnFeatures(), ClipFeatures())
FEATURES = Registry({each.name: each for each in BUILT_IN})
DEFAULT_FEATURES = ClipFeatures.name
DEFAULT_SET = (PixelFeatures.name, ColorFeatures.name, ClipFeatures.name)


def is_name(text: str) -> bool:
    """Return whether a text can be the name of a feature type: short, in lower case, and free."""
    return bool(NAME.fullmatch(text)) and text not in RESERVED


def is_known(name: str, identity: FeatureIdentity) -> bool:
    """Return whether this version can use the vectors that an index has under a name."""
    return name in FEATURES or (is_name(name) and output_of(identity) in VisionFeatures.outputs)


def default_first(names: Iterable[str]) -> list[str]:
    """Return names in the order in which the page shows them: the default, other built-in types, named models."""
    order = [DEFAULT_FEATURES, *FEATURES]
    return sorted(names, key=lambda name: (order.index(name) if name in order else len(order), name))
