"""A search as a link: gallery, toggles, text and an image of the gallery; never an image that a visitor uploaded."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any
from urllib.parse import urlencode

import gradio as gr

from retrieval.errors import QueryError
from retrieval.metrics import Metric
from retrieval.search.query import Query
from retrieval.search.validation import (
    checked_alike,
    checked_balance,
    checked_engine,
    checked_features,
    checked_labels,
    checked_region,
    checked_top_k,
    one_of,
)
from retrieval.storage.catalog import Indexes
from retrieval.storage.reader import GalleryIndex
from retrieval.ui.scripts import beside

NAMES = ("gallery", "id", "region", "text", "without", "balance", "label", "alike", "features", "metric", "engine", "k")
NOTHING: dict[str, Any] = {"address": "", "own": False}
TEMPLATE = """<a>${link}</a> <button type="button">${copy}</button> <span role="status"></span>"""


def link_output() -> gr.HTML:
    """Return the component that shows the link of a search and updates the browser's address; `linked` is its value."""
    return gr.HTML(
        value=NOTHING,
        html_template=TEMPLATE,
        js_on_load=beside(__file__, "permalink.js"),
        apply_default_css=False,
        elem_id="link",
        names=NAMES,
        link="Link to this search",
        copy="Copy",
        copied="Copied.",
        own="The link does not include your uploaded image.",
    )


def linked(query: Query, index: GalleryIndex) -> dict[str, Any]:
    """Return a query's address, and whether it lacks an image that the visitor uploaded."""
    return {"address": to_address(query, index), "own": query.has_picture and query.position is None}


def to_address(query: Query, index: GalleryIndex) -> str:
    """Return a query as the part of a URL after the `?`, without values that are the default."""
    values: list[tuple[str, object]] = [("gallery", index.manifest.gallery)]
    if query.position is not None:
        values.append(("id", index.entry(query.position).id))
        if query.region:
            values.append(("region", ",".join(f"{each:g}" for each in query.region)))
    values += [("text", query.text), ("without", query.without)]
    values += [("label", label) for label in query.labels]
    changed = [name for name in ("balance", "alike") if getattr(query, name) != getattr(Query(), name)]
    values += [(name, getattr(query, name)) for name in changed]
    values += [("features", query.features), ("metric", query.metric), ("engine", query.engine), ("k", query.top_k)]
    return urlencode([(name, str(value)) for name, value in values if value != ""])


def from_address(items: Iterable[tuple[str, str]], indexes: Indexes, query: Query) -> tuple[Query, list[str]]:
    """Return the query of an address, which may contain anything, and a message for each part of it that is invalid.

    What the address leaves out is taken from `query`, and unknown names are ignored.

    Raises:
        IndexingError: a gallery cannot be read.
    """
    given: dict[str, list[str]] = {}
    for name, value in items:
        if name in NAMES:
            given.setdefault(name, []).append(value)
    problems: list[str] = []
    readers: dict[str, Callable[[list[str]], dict[str, Any]]] = {
        "gallery": lambda values: {"gallery": indexes.get(values[0]).manifest.gallery},
        "id": lambda values: {"position": indexes.get(query.gallery).position(values[0])},
        "region": lambda values: {"region": checked_region([_number(each) for each in values[0].split(",")])},
        "text": lambda values: {"text": values[0]},
        "without": lambda values: {"without": values[0]},
        "balance": lambda values: {"balance": checked_balance(_number(values[0]))},
        "label": lambda values: {"labels": _known(checked_labels(values), indexes.get(query.gallery))},
        "alike": lambda values: {"alike": checked_alike(_number(values[0]))},
        "features": lambda values: {"features": checked_features(values[0])},
        "metric": lambda values: {"metric": one_of(Metric, values[0])},
        "engine": lambda values: {"engine": checked_engine(values[0])},
        "k": lambda values: {"top_k": checked_top_k(_number(values[0]))},
    }
    for name, read in readers.items():  # the gallery first, since others depend on it
        if name in given:
            try:
                query = replace(query, **read(given[name]))
            except QueryError as error:
                problems.append(str(error))
    return query, problems


def _number(text: str) -> float | str:
    """Return a text as a number, or unchanged for the error message."""
    try:
        return float(text)
    except ValueError:
        return text


def _known(labels: tuple[str, ...], index: GalleryIndex) -> tuple[str, ...]:
    index.with_labels(labels)
    return labels
