"""A search as a link: gallery, toggles, text and an image of the gallery; never an image that a visitor uploaded."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any
from urllib.parse import urlencode

import gradio as gr

from retrieval.errors import QueryError
from retrieval.search.query import Query
from retrieval.search.validation import CHECKS, checked_labels, checked_region
from retrieval.storage.catalog import Indexes
from retrieval.storage.reader import GalleryIndex
from retrieval.ui.scripts import beside

NAMES = ("gallery", "id", "region", "text", "without", "balance", "label", "alike", "features", "metric", "engine", "k")
NOTHING: dict[str, Any] = {"address": "", "own": False}
FIELDS = {"id": "position", "label": "labels", "k": "top_k"}  # fields of `Query` that have another name in an address
TEMPLATE = '<a>Link to this search</a> <button type="button">Copy</button> <span role="status"></span>'


def link_output() -> gr.HTML:
    """Return the component that shows the link of a search and updates the browser's address; `linked` is its value."""
    script = beside(__file__, "permalink.js", NAMES=NAMES)
    return gr.HTML(NOTHING, html_template=TEMPLATE, js_on_load=script, apply_default_css=False, elem_id="link")


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
    return urlencode([(name, str(value)) for name, value in values if value != ""], errors="replace")


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
    for name in NAMES:  # the gallery comes first, since others depend on it
        if name in given:
            try:
                query = replace(query, **{FIELDS.get(name, name): _read(name, given[name], indexes, query.gallery)})
            except QueryError as error:
                problems.append(str(error))
    return query, problems


def _read(name: str, texts: list[str], indexes: Indexes, gallery: str) -> Any:
    """Return the checked value of a part of an address."""
    if name == "gallery":
        return indexes.get(texts[0]).manifest.gallery
    if name == "id":
        return indexes.get(gallery).position(texts[0])
    if name == "label":
        labels = checked_labels(texts)
        indexes.get(gallery).with_labels(labels)
        return labels
    if name == "region":
        return checked_region([_number(each) for each in texts[0].split(",")])
    value = _number(texts[0]) if name in ("balance", "alike", "k") else texts[0]
    return CHECKS[FIELDS.get(name, name)](value)


def _number(text: str) -> float | str:
    """Return a text as a number, or unchanged for the error message."""
    try:
        return float(text)
    except ValueError:
        return text
