"""What every feature type has: a name, capabilities, and a way to load the object that embeds images."""

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from retrieval.errors import QueryError
from retrieval.pictures.loading import WHOLE, Region

Vectors = npt.NDArray[np.float32]

AUTO = "auto"
DTYPES = ("bfloat16", "float16", "float32")
MAX_PIXEL_SIZE = 1024
DEFAULT_PIXEL_SIZE = 16  # P@5 does not change between 16 and 64 on photos, and is slightly better than 32 on icons

NAME = re.compile(r"[a-z][a-z0-9-]{0,19}")  # of a feature type; files, columns and flags are named by it


class Output(StrEnum):
    """Which output of a model is the vector of an image."""

    PROJECTED = "projected"  # into the space that images and texts share
    CLS = "cls"  # the class token of the last layer
    POOLED = "pooled"  # the model's own summary of all places
    TOWER = "tower"  # the image tower of an image-text model, before the projection


OUTPUTS = {
    Output.PROJECTED: "projected features",
    Output.CLS: "CLS token",
    Output.POOLED: "pooled output",
    Output.TOWER: "image tower before its projection",
}


@dataclass(frozen=True)
class FeatureIdentity:
    """Everything an embedding depends on; two embeddings are comparable only if their identities are equal.

    Attributes:
        name: of the model, or of the feature type if it has no model.
        revision: commit of a Hub model, digest of a local folder, or version of the computation.
        preprocessing: digest or description of how an image is prepared; for a model that is followed by the output
            that is used, unless it is the projected one.
        dtype: of the computation; vectors are always stored as float32.
        dimensions: length of a vector.
    """

    name: str
    revision: str
    preprocessing: str
    dtype: str
    dimensions: int

    @property
    def commit(self) -> str | None:
        """The commit of a model from the Hub; None for a local model."""
        return self.revision if "/" in self.name and not self.name.startswith("/") else None

    @property
    def title(self) -> str:
        """The name to show: a local folder's name without its path."""
        return Path(self.name).name if Path(self.name).is_absolute() else self.name

    def __str__(self) -> str:
        """Return a short form to show."""
        return f"{self.title} ({self.dtype})"


@dataclass(frozen=True)
class FeatureChoice:
    """A feature type that a user asks for, and its model if the user names one."""

    name: str
    model: str | None = None
    revision: str | None = None


@dataclass(frozen=True)
class FeatureOptions:
    """What a user can choose about a feature type of a gallery."""

    model: str = AUTO
    model_revision: str | None = None
    dtype: str = AUTO
    pixel_size: int = DEFAULT_PIXEL_SIZE


@dataclass(frozen=True)
class ModelChoice:
    """A model whose files are on this machine, and why it was chosen."""

    name: str
    folder: Path
    revision: str
    reason: str


@dataclass(frozen=True)
class Reading:
    """A text as a model gets it, and sentences on what the model cannot read."""

    text: str
    notes: tuple[str, ...] = ()


class FeatureSet(ABC):
    """A feature type that is loaded and ready to embed."""

    identity: FeatureIdentity
    batch_size: int | None = None  # images per call that are fastest; None: any number
    has_places: bool = False  # whether a vector is the mean of vectors of places, scaled to unit length

    @abstractmethod
    def embed(self, pictures: Sequence[Image.Image]) -> Vectors:
        """Return upright RGB images as vectors, shape (n, d), float32. Safe to call from several threads."""

    def embed_query(self, pictures: Sequence[Image.Image]) -> Vectors:
        """Return the same for a visitor's images; overridden where visitors have other hardware than builders."""
        return self.embed(pictures)

    def read(self, text: str, templates: Sequence[str]) -> Reading:
        """Return a text as it should be embedded in some templates, which have `{}` for the text."""
        return Reading(text)

    def places(self, picture: Image.Image) -> Vectors:
        """Return the vectors of places whose mean is the image's vector before scaling, shape (rows, columns, d).

        Only feature sets with `has_places` have them. They cover the part of the image that `seen` returns.
        """
        raise NotImplementedError

    def seen(self, picture: Image.Image) -> Region:
        """Return the part of an image that `places` covers."""
        return WHOLE

    def embed_texts(self, texts: Sequence[str]) -> Vectors:
        """Return texts as vectors in the same space, shape (n, d), float32.

        Raises:
            QueryError: this feature type, or its model, does not support text.
        """
        raise QueryError(f"{self.identity.title} does not support text. Search with an image.")

    def reads(self, text: str) -> bool:
        """Return whether the model knows all parts of a text; only for feature sets that support text."""
        return True


class FeatureType(ABC):
    """A kind of features, loaded or not; one instance per type is registered in `retrieval.features`.

    Attributes:
        name: used in flags, in the API, and in file names; matches `NAME`.
        title: shown on the page.
        phrase: its name within a sentence.
        about: what it compares, shown below the title.
        takes_text: whether a query can be text, whatever the model.
        unit_length: whether all vectors have length 1, so that L2 and cosine give the same order.
        has_model: whether it needs a model, whose name the page shows.
        near_zero_mean: whether the numbers of a vector average to almost 0, so that correlation is close to cosine.
    """

    name: str
    title: str
    phrase: str
    about: str
    takes_text: ClassVar[bool] = False
    unit_length: ClassVar[bool] = False
    near_zero_mean: ClassVar[bool] = False
    has_model: ClassVar[bool] = False

    def choose(self, options: FeatureOptions) -> ModelChoice | None:
        """Find the model to use and download it if necessary; None for a type without a model.

        Raises:
            ModelError: the model is not available.
        """
        return None

    def find(self, identity: FeatureIdentity) -> None:  # noqa: B027  # a type without a model has nothing to find
        """Have the files of an index's model on this machine, for when the Hub is not asked any more.

        Raises:
            ModelError: the model is not available.
        """

    @abstractmethod
    def load(self, options: FeatureOptions, choice: ModelChoice | None) -> FeatureSet:
        """Load what `choose` returned, for a build.

        Raises:
            ModelError: the model cannot be used.
        """

    def restore(self, identity: FeatureIdentity) -> FeatureSet:
        """Load the feature set that an index was built with, or the one that has taken its place.

        Raises:
            ModelError: its model is not available.
        """
        return self.load(FeatureOptions(), None)

    def is_portable(self, identity: FeatureIdentity) -> bool:
        """Return whether `restore` works on any machine and reads no file that the identity names.

        An index from elsewhere is checked with it, so its identity can hold anything.
        """
        return not self.has_model and self.restore(identity).identity == identity

    def supports_text(self, identity: FeatureIdentity) -> bool:
        """Return whether a query over an index with this identity can be text."""
        return self.takes_text

    def describe(self, identity: FeatureIdentity) -> str:
        """Return how the vectors of an index were computed, for a list."""
        return f"{identity.preprocessing}, {identity.dimensions:,} numbers"

    def is_same(self, identity: FeatureIdentity, options: FeatureOptions, choice: ModelChoice | None) -> bool:
        """Return whether `load` would give a feature set with this identity; False if only loading can tell."""
        return False

    def keep(self, identity: FeatureIdentity, options: FeatureOptions) -> FeatureOptions:
        """Return the options with what the user left open as in an existing index."""
        return options

    def image_side(self, dimensions: int) -> int | None:
        """Return the side of the square image whose RGB pixels a vector holds, row by row; None if it holds none."""
        return None

    def differences(self, options: FeatureOptions, identity: FeatureIdentity) -> list[str]:
        """Return how an index differs from the options that a user set, each as "with ..., not ..."."""
        return []
