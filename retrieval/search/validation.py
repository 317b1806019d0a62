"""Validate values from users and turn them into the parts of a query.

Each function raises a `QueryError` with a message for the user if a value has the wrong type or is out of range.
"""

from collections.abc import Callable, Collection
from enum import StrEnum
from functools import partial
from typing import Any, TypeGuard, TypeVar

from retrieval.engines import ENGINES
from retrieval.errors import QueryError
from retrieval.features import FEATURES
from retrieval.metrics import Metric
from retrieval.pictures.distortion import LIMITS, UNDISTORTED, Distortion
from retrieval.pictures.loading import PictureSource, Region
from retrieval.search.query import MAX_TOP_K, Query

Choice = TypeVar("Choice", bound=StrEnum)


def checked_query(*, picture: PictureSource | None, **values: object) -> Query:
    """Return a query from unchecked values.

    Args:
        picture: the query image.
        values: fields of `Query` by name; missing ones have their default.

    Raises:
        TypeError: a name is not among `CHECKS`.
    """
    if unknown := values.keys() - CHECKS.keys():
        raise TypeError(f"unknown fields of a query: {', '.join(sorted(unknown))}")
    checked: dict[str, Any] = {name: check(values[name]) for name, check in CHECKS.items() if name in values}
    return Query(picture=picture, **checked)


def checked_text(value: object, name: str) -> str:
    """Return a text; None counts as empty."""
    if value is not None and not isinstance(value, str):
        raise QueryError(f"{name} must be a text, not {repr(value)[:40]}.")
    return value or ""


def one_of(kind: type[Choice], value: object) -> Choice:
    """Return the member of an enumeration with this value, ignoring case and surrounding spaces."""
    try:
        return kind(str(value).strip().lower())
    except ValueError:
        choices = ", ".join(kind)
        raise QueryError(f"{kind.__name__} {str(value)[:40]!r} does not exist. Choose one of: {choices}.") from None


def checked_features(value: object) -> str:
    """Return the name of a feature type."""
    return _known("features", value, FEATURES)


def checked_engine(value: object) -> str:
    """Return the name of an engine."""
    return _known("engine", value, ENGINES)


def _known(kind: str, value: object, names: Collection[str]) -> str:
    name = str(value).strip().lower()
    if name not in names:
        raise QueryError(f"{kind.title()} {str(value)[:40]!r} does not exist. Choose one of: {', '.join(names)}.")
    return name


def checked_top_k(value: object) -> int:
    """Return the number of results, from 1 to `MAX_TOP_K`."""
    whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    if isinstance(value, bool) or not whole or not 1 <= int(value) <= MAX_TOP_K:  # type: ignore[call-overload]  # whole
        raise QueryError(f"top_k must be a whole number from 1 to {MAX_TOP_K:,}, not {repr(value)[:40]}.")
    return int(value)  # type: ignore[call-overload,no-any-return]  # checked above


def checked_share(value: object, name: str, meaning: str = "") -> float:
    """Return a number from 0 to 1.

    Args:
        value: the unchecked value.
        name: its name, for the message.
        meaning: what 0 and 1 mean, for the message.
    """
    if not _is_number(value) or not 0 <= value <= 1:
        raise QueryError(f"{name} must be a number from 0 to 1{meaning and f' ({meaning})'}, not {repr(value)[:40]}.")
    return float(value)


def checked_balance(value: object) -> float:
    """Return the image-text balance, from 0 to 1."""
    return checked_share(value, "balance", "0: image only, 1: text only")


def checked_alike(value: object) -> float:
    """Return the cosine above which two images are near-duplicates, from 0 to 1."""
    return checked_share(value, "alike", "hides images with at least this cosine; 1 hides none")


def checked_region(value: object) -> Region | None:
    """Return a part of an image; None stands for the whole image, and so does an empty list.

    Args:
        value: left, top, right and bottom as shares of width and height, from 0 to 1.
    """
    if value is None or (isinstance(value, (list, tuple)) and not value):
        return None
    if isinstance(value, (list, tuple)) and len(value) == 4 and all(map(_is_number, value)):
        left, top, right, bottom = (float(each) for each in value)
        if 0 <= left < right <= 1 and 0 <= top < bottom <= 1:
            return None if (left, top, right, bottom) == (0, 0, 1, 1) else (left, top, right, bottom)
    raise QueryError(
        f"region must be four numbers from 0 to 1 (left, top, right, bottom), such as 0.2, 0, 0.8, 0.5; "
        f"not {repr(value)[:60]}."
    )


def checked_distortion(
    rotation: object = UNDISTORTED.rotation,
    crop: object = UNDISTORTED.crop,
    blur: object = UNDISTORTED.blur,
    grey: object = UNDISTORTED.grey,
    quality: object = UNDISTORTED.quality,
) -> Distortion:
    """Return a distortion with all values within `LIMITS`; the defaults change nothing."""
    parts = {
        "rotation": _within_limits("rotation", rotation, "degrees, counter-clockwise"),
        "crop": _within_limits("crop", crop, "share removed; 0: none"),
        "blur": _within_limits("blur", blur, "share of the shorter side; 0: none"),
        "grey": _within_limits("grey", grey, "share mixed in; 1: no colour left"),
    }
    encoded = _within_limits("quality", quality, "of JPEG; 100: unchanged", whole=True)
    return Distortion(**parts, quality=int(encoded))


def _within_limits(name: str, value: object, meaning: str, whole: bool = False) -> float:
    low, high = LIMITS[name]
    if not _is_number(value) or not low <= value <= high or (whole and value != int(value)):
        kind = "a whole number" if whole else "a number"
        raise QueryError(f"{name} must be {kind} from {low} to {high} ({meaning}), not {repr(value)[:40]}.")
    return float(value)


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def checked_labels(value: object) -> tuple[str, ...]:
    """Return the labels to keep; None and an empty list keep all."""
    if value is None:
        return ()
    if not isinstance(value, (list, tuple)) or not all(isinstance(each, str) for each in value):
        raise QueryError(f"labels must be a list of texts, not {repr(value)[:40]}.")
    return tuple(value)


CHECKS: dict[str, Callable[[object], object]] = {
    "text": partial(checked_text, name="text"),
    "without": partial(checked_text, name="without"),
    "balance": checked_balance,
    "labels": checked_labels,
    "region": checked_region,
    "alike": checked_alike,
    "features": checked_features,
    "metric": partial(one_of, Metric),
    "engine": checked_engine,
    "top_k": checked_top_k,
    "gallery": partial(checked_text, name="gallery"),
}
"""The check of each field of a `Query` that users set, in the order in which errors are reported."""
