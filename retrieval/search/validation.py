"""Validate values from users and turn them into the parts of a query.

Each function returns the value in its proper type, or raises a `QueryError` that says what is allowed.
"""

import sys
from collections.abc import Callable, Collection, Sequence
from enum import StrEnum
from functools import partial
from typing import Any, TypeGuard, TypeVar

from retrieval.engines import AUTO, ENGINES
from retrieval.errors import QueryError
from retrieval.features import FEATURES, is_name
from retrieval.metrics import Metric
from retrieval.pictures.distortion import LIMITS, UNDISTORTED, Distortion
from retrieval.pictures.loading import PictureSource, Region
from retrieval.search.query import MAX_ADDED, MAX_TOP_K, Added, Query
from retrieval.storage.reader import GalleryIndex

KS_MAX = 20  # cutoffs of one evaluation

Choice = TypeVar("Choice", bound=StrEnum)
Item = TypeVar("Item")


def checked_query(*, picture: PictureSource | None, **values: object) -> Query:
    """Return a query from fields by name, which are those of `CHECKS`; missing ones have their default."""
    if unknown := values.keys() - CHECKS.keys():
        raise TypeError(f"unknown fields of a query: {', '.join(sorted(unknown))}")
    checked: dict[str, Any] = {name: check(values[name]) for name, check in CHECKS.items() if name in values}
    return Query(picture=picture, **checked)


def one_of(kind: type[Choice], value: object) -> Choice:
    """Return the member of an enumeration with this value, ignoring case and surrounding spaces."""
    return kind(_known(kind.__name__, value, list(kind)))


def checked_features(value: object) -> str:
    """Return the name of a feature type; whether a gallery has it shows when it is searched."""
    name = str(value).strip().lower()
    return name if is_name(name) else _known("Features", value, FEATURES)


def checked_names(value: object) -> tuple[str, ...]:
    """Return the names of one or several feature types, from a list or from a text with commas."""
    given = value.split(",") if isinstance(value, str) else value
    if not isinstance(given, (list, tuple)) or not given:
        raise QueryError(f"features must be one or several names, not {repr(value)[:40]}.")
    return tuple(dict.fromkeys(checked_features(each) for each in given))


def checked_engine(value: object) -> str:
    """Return the name of an engine."""
    return _known("Engine", value, ENGINES)


def checked_engine_choice(value: object) -> str:
    """Return the name of an engine, or `auto`."""
    return _known("Engine", value, (AUTO, *ENGINES))


def _known(kind: str, value: object, names: Collection[str]) -> str:
    name = str(value).strip().lower()
    if name not in names:
        raise QueryError(f"{kind} {str(value)[:40]!r} does not exist. Choose one of: {', '.join(names)}.")
    return name


def checked_top_k(value: object) -> int:
    """Return the number of results, from 1 to `MAX_TOP_K`."""
    return int(_number("top_k", value, 1, MAX_TOP_K, whole=True))


def checked_ks(value: object) -> tuple[int, ...]:
    """Return the cutoffs of measures, ascending, from a list of numbers or from a text with commas."""
    given = value.split(",") if isinstance(value, str) else value
    if not isinstance(given, (list, tuple)) or not 1 <= len(given) <= KS_MAX:
        raise QueryError(f"k must be 1 to {KS_MAX} whole numbers, such as 1,5,10; not {repr(value)[:40]}.")
    try:
        numbers = [int(each) if isinstance(each, str) else each for each in given]
    except ValueError:
        raise QueryError(f"k must be whole numbers, such as 1,5,10; not {repr(value)[:40]}.") from None
    return tuple(sorted({int(_number("k", each, 1, MAX_TOP_K, whole=True)) for each in numbers}))


def checked_dimensions(value: object) -> int:
    """Return a number of dimensions; 0 stands for all."""
    return int(_number("dimensions", value, 0, 10_000, " (0: all)", whole=True))


def checked_sample(value: object, most: int) -> int:
    """Return the number of queries of an evaluation, from 1 to `most`."""
    return int(_number("sample", value, 1, most, whole=True))


def checked_balance(value: object) -> float:
    """Return the image-text balance, from 0 to 1."""
    return _number("balance", value, 0, 1, " (0: image only, 1: text only)")


def checked_alike(value: object) -> float:
    """Return the cosine above which two images are near-duplicates, from 0 to 1."""
    return _number("alike", value, 0, 1, " (hides images with at least this cosine; 1 hides none)")


def checked_min_score(value: object) -> float | None:
    """Return the worst score to keep; None and an empty text keep all."""
    if value is None or value == "":
        return None
    if not _is_number(value):
        raise QueryError(f"min_score must be a number, not {repr(value)[:40]}.")
    return float(value)


def checked_cutoff(value: object) -> float:
    """Return the share of chance scores, in percent, that results must beat."""
    return _number("cut-off", value, 0, 100, " (%; 0 shows all)")


def checked_distortion(
    rotation: object = UNDISTORTED.rotation,
    crop: object = UNDISTORTED.crop,
    blur: object = UNDISTORTED.blur,
    grey: object = UNDISTORTED.grey,
    quality: object = UNDISTORTED.quality,
) -> Distortion:
    """Return a distortion with all values within `LIMITS`; the defaults change nothing."""
    return Distortion(
        _number("rotation", rotation, *LIMITS["rotation"], " (degrees, counter-clockwise)"),
        _number("crop", crop, *LIMITS["crop"], " (share removed; 0: none)"),
        _number("blur", blur, *LIMITS["blur"], " (share of the shorter side; 0: none)"),
        _number("grey", grey, *LIMITS["grey"], " (share mixed in; 1: no colour left)"),
        int(_number("quality", quality, *LIMITS["quality"], " (of JPEG; 100: unchanged)", whole=True)),
    )


def _number(name: str, value: object, low: float, high: float, meaning: str = "", whole: bool = False) -> float:
    if not _is_number(value) or not low <= value <= high or (whole and value != int(value)):
        kind = "a whole number" if whole else "a number"
        raise QueryError(f"{name} must be {kind} from {low:,} to {high:,}{meaning}, not {repr(value)[:40]}.")
    return float(value)


def _is_number(value: object) -> TypeGuard[int | float]:
    """Return whether a value is a finite number that fits a float."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def checked_region(value: object) -> Region | None:
    """Return left, top, right and bottom as shares of width and height; None or an empty list is the whole image."""
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


def checked_labels(value: object) -> tuple[str, ...]:
    """Return the labels to keep; None and an empty list keep all."""
    if value is None:
        return ()
    if not isinstance(value, (list, tuple)) or not all(isinstance(each, str) for each in value):
        raise QueryError(f"labels must be a list of texts, not {repr(value)[:40]}.")
    return tuple(value)


def checked_added(images: Sequence[Item]) -> tuple[Item, ...]:
    """Return images to add to a query, of which there can be `MAX_ADDED`."""
    if len(images) > MAX_ADDED:
        raise QueryError(f"A query can have {MAX_ADDED} added images, not {len(images):,}. Remove some.")
    return tuple(images)


def added_to(
    index: GalleryIndex, more: Sequence[PictureSource | str], less: Sequence[PictureSource | str]
) -> tuple[Added, ...]:
    """Return images that a query should resemble more or less as parts of it; a text is the id of a gallery item."""
    given = checked_added([*((each, True) for each in more), *((each, False) for each in less)])
    return tuple(
        Added(None, index.position(each), sign) if isinstance(each, str) else Added(each, None, sign)
        for each, sign in given
    )


def _text(name: str, value: object) -> str:
    if value is not None and not isinstance(value, str):
        raise QueryError(f"{name} must be a text, not {repr(value)[:40]}.")
    return value or ""


CHECKS: dict[str, Callable[[object], object]] = {
    "text": partial(_text, "text"),
    "without": partial(_text, "without"),
    "balance": checked_balance,
    "labels": checked_labels,
    "region": checked_region,
    "alike": checked_alike,
    "features": checked_features,
    "metric": partial(one_of, Metric),
    "engine": checked_engine_choice,
    "top_k": checked_top_k,
    "min_score": checked_min_score,
    "gallery": partial(_text, "gallery"),
}
"""The check of each field of a `Query` that users set, in the order in which errors are reported."""
