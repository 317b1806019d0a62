"""The page's address: a search, the open tab and its values; never an image that a visitor uploaded."""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any
from urllib.parse import urlencode

import gradio as gr

from retrieval.analysis.robustness import Kind
from retrieval.errors import QueryError
from retrieval.pictures.distortion import Distortion
from retrieval.search.query import MAX_ADDED, Added, Query
from retrieval.search.validation import CHECKS, checked_added, checked_features, checked_labels, checked_region
from retrieval.storage.catalog import Indexes
from retrieval.storage.reader import GalleryIndex
from retrieval.ui.scripts import beside
from retrieval.ui.snippets import ADDRESS, as_command, as_python

NAMES = (
    "gallery",
    "example",
    "id",
    "region",
    "more",
    "less",
    "text",
    "without",
    "balance",
    "label",
    "alike",
    "features",
    "metric",
    "engine",
    "k",
)
# Values of tabs that are in the address while the tab is open, unless they are the usual ones.
SHOWN_FIRST = Distortion(rotation=20)  # by the Robustness tab: an undistorted image would show nothing
KEPT: Mapping[str, Mapping[str, Any]] = {
    "search": {"cutoff": 0},
    "robustness": {str(kind): getattr(SHOWN_FIRST, kind) for kind in Kind},
    "lessons": {"lesson": ""},
}
# Changes of these alone are no new entry in the browser's history, because a slider has many values.
DRAGGED = ("region", "balance", "alike", "k", "cutoff", *map(str, Kind))
NOTHING: dict[str, Any] = {"address": "", "own": False, "upload": "", "command": "", "python": ""}
FIELDS = {"id": "position", "label": "labels", "k": "top_k"}  # fields of `Query` that have another name in an address
TEMPLATE = (
    '<a>Link to this search</a> <button type="button">Copy link</button> '
    '<button type="button" data-copy="command">Copy as command</button> '
    '<button type="button" data-copy="python">Copy as Python</button> '
    '<button type="button" data-save="csv">Download CSV</button> '
    '<button type="button" data-save="json">Download JSON</button> <span role="status"></span>'
)


def link_output() -> gr.HTML:
    """Return the component that shows the link of a search and keeps the browser's address; `linked` is its value.

    It triggers `submit` when the visitor goes back or forward, and `download` for the results as a file.
    """
    script = beside(__file__, "permalink.js", NAMES=NAMES, KEPT=KEPT, DRAGGED=DRAGGED, ADDRESS=ADDRESS)
    return gr.HTML(NOTHING, html_template=TEMPLATE, js_on_load=script, apply_default_css=False, elem_id="link")


def kept(tab: str, components: Mapping[str, Any]) -> None:
    """Let the address follow the components of a tab, which are named as in `KEPT`."""
    names = KEPT[tab]
    detail = f"{{ detail: {{ tab: '{tab}', values }} }}"
    script = f"(...values) => {{ document.dispatchEvent(new CustomEvent('kept', {detail})); }}"
    values = [components[name] for name in names]
    gr.on([each.change for each in values], None, values, js=script)


def answered(value: dict[str, Any], visit: object) -> dict[str, Any]:
    """Return the link's value after a search, even if it is the same; `visit` says what the search was started by."""
    return {**value, "visit": visit, "at": time.monotonic_ns()}


def linked(query: Query, features: Sequence[str], index: GalleryIndex, example: str = "") -> dict[str, Any]:
    """Return the address of a search, whether it lacks an image that the visitor uploaded, and the search as code.

    `example` is the key of the image if it is an example of the gallery.
    """
    address = to_address(query, features, index)
    uploaded = query.has_picture and query.position is None and not example
    if example:
        address = f"{address}&{urlencode({'example': example, **_region(query)})}"
    return {
        "address": address,
        "own": uploaded or any(each.position is None for each in query.added),
        "upload": str(query.picture) if uploaded else "",  # for the history of the visitor's own browser
        "command": as_command(query, features, index),
        "python": as_python(query, features, index),
    }


def to_address(query: Query, features: Sequence[str], index: GalleryIndex) -> str:
    """Return a search by some feature types as the part of a URL after the `?`, without values that are the default."""
    values: list[tuple[str, object]] = [("gallery", index.manifest.gallery)]
    if query.position is not None:
        values.append(("id", index.entry(query.position).id))
        values += _region(query).items()
    added = [(each.more, each.position) for each in query.added if each.position is not None]
    values += [("more", index.entry(position).id) for more, position in added if more]
    values += [("less", index.entry(position).id) for more, position in added if not more]
    values += [("text", query.text), ("without", query.without)]
    values += [("label", label) for label in query.labels]
    changed = [name for name in ("balance", "alike") if getattr(query, name) != getattr(Query(), name)]
    values += [(name, getattr(query, name)) for name in changed]
    values += [("features", name) for name in features]
    values += [("metric", query.metric), ("engine", query.engine), ("k", query.top_k)]
    return urlencode([(name, str(value)) for name, value in values if value != ""], errors="replace")


def _region(query: Query) -> dict[str, str]:
    return {"region": ",".join(f"{each:g}" for each in query.region)} if query.region else {}


def from_address(
    items: Iterable[tuple[str, str]], indexes: Indexes, query: Query
) -> tuple[Query, list[str], list[str]]:
    """Return the query of an address, its feature types, and a message for each part of it that is invalid.

    The address may contain anything. What it leaves out is taken from `query`, and unknown names are ignored.

    Raises:
        IndexingError: a gallery cannot be read.
    """
    given: dict[str, list[str]] = {}
    for name, value in items:
        if name in NAMES:
            given.setdefault(name, []).append(value)
    given.pop("example", None)  # not part of the query
    names = given.pop("features", [])
    judged = [(id, name == "more") for name in ("more", "less") for id in given.pop(name, [])]
    problems, features = list[str](), list[str]()
    for name in NAMES:  # the gallery comes first, since others depend on it
        if name in given:
            try:
                query = replace(query, **{FIELDS.get(name, name): _read(name, given[name], indexes, query.gallery)})
            except QueryError as error:
                problems.append(str(error))
    added, missing = _added(judged, indexes.get(query.gallery)) if judged else (query.added, [])
    query, problems = replace(query, added=added), problems + missing
    for each in names:
        try:
            features.append(checked_features(each))
            indexes.get(query.gallery).check_features(features[-1])
        except QueryError as error:
            problems.append(str(error))
    return query, features, problems


def _added(judged: list[tuple[str, bool]], index: GalleryIndex) -> tuple[tuple[Added, ...], list[str]]:
    """Return the gallery items with these ids as parts of a query, and a message for each that is not there."""
    found, problems = list[Added](), list[str]()
    try:
        checked_added(judged)
    except QueryError as error:
        problems.append(str(error))
    for id, more in judged[:MAX_ADDED]:
        try:
            found.append(Added(position=index.position(id), more=more))
        except QueryError as error:
            problems.append(str(error))
    return tuple(found), problems


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
