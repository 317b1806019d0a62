"""The current search as a command and as Python, to be copied."""

import shlex
from collections.abc import Sequence
from typing import Any

from retrieval.labels import printable
from retrieval.search.query import Query
from retrieval.storage.reader import GalleryIndex

OTHER = "other.jpg"  # stands for an image that was added to it
IMAGE = "query.jpg"  # stands for the query image, which has no name that others could use
ADDRESS = "PAGE_ADDRESS"  # is replaced in the browser, which knows the address of the page


def as_command(query: Query, features: Sequence[str], index: GalleryIndex) -> str:
    """Return a search by some feature types as a command for a shell."""
    words = ["python", "-m", "retrieval", "search", *([IMAGE] if query.has_picture else [])]
    for name, value in _changed(query).items():
        if name == "labels":
            words += [f"--label={label}" for label in value]
        else:
            text = ",".join(f"{each:g}" for each in value) if name == "region" else str(value)
            words.append(f"--{name}={text}")
    words += [f"--{'more' if more else 'less'}={name}" for more, name in _added(query, index)]
    words += ["--features", ",".join(features), "--metric", str(query.metric), "--engine", query.engine]
    words += ["--top-k", str(query.top_k), f"--gallery={index.manifest.gallery}"]
    return shlex.join(printable(word) for word in words)


def as_python(query: Query, features: Sequence[str], index: GalleryIndex) -> str:
    """Return a search by some feature types as Python with gradio's client."""
    values: dict[str, Any] = _changed(query)
    if "region" in values:
        values["region"] = list(values["region"])
    for name, wanted in (("more", True), ("less", False)):
        if names := [each for more, each in _added(query, index) if more is wanted]:
            values[name] = names
    values |= {"features": ",".join(features), "metric": str(query.metric), "engine": query.engine}
    values |= {"top_k": query.top_k, "gallery": index.manifest.gallery}
    image = [f'    image=handle_file("{IMAGE}"),\n'] if query.has_picture else []
    arguments = "".join([*image, *(f"    {name}={value!r},\n" for name, value in values.items())])
    return (
        "from gradio_client import Client, handle_file\n\n"
        f'client = Client("{ADDRESS}")\n'
        f'answer = client.predict(\n{arguments}    api_name="/query",\n)\nprint(answer)\n'
    )


def _added(query: Query, index: GalleryIndex) -> list[tuple[bool, str]]:
    """Return for each added image whether results should resemble it, and its id or the name that stands for it."""
    return [(each.more, OTHER if each.position is None else index.entry(each.position).id) for each in query.added]


def _changed(query: Query) -> dict[str, Any]:
    """Return the conditions of a query that are not the default."""
    conditions = {name: getattr(query, name) for name in ("text", "without", "balance", "region", "alike")}
    changed = {name: value for name, value in conditions.items() if value != getattr(Query(), name)}
    return changed | ({"labels": list(query.labels)} if query.labels else {})
