"""The HTTP API and the MCP tools, with the same queries and the same JSON as the command line's `--json`."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import gradio as gr
from gradio.components.api_component import Api

from retrieval.analysis.comparison import compare
from retrieval.analysis.robustness import Kind, measure
from retrieval.errors import PictureError, QueryError
from retrieval.search.query import Query
from retrieval.search.searcher import Searcher
from retrieval.search.validation import checked_distortion, checked_query
from retrieval.ui.arguments import Argument, arguments, image_of, required_image, top_k_up_to
from retrieval.ui.errors import as_shown
from retrieval.ui.serving.limits import SEARCHES, Limits
from retrieval.ui.serving.search_log import searched

MCP_CALLER = ("x-gradio-user", "mcp")  # the header that gradio's MCP server adds to its requests
COMPARED_MAX = 1000  # results, because Kendall's tau takes quadratic time
NO_IMAGE = "The argument image is missing. Send an image: handle_file('cat.jpg'), or its bytes in base64."

# Arguments, in the order in which raw requests pass them.
CONDITIONS = ("text", "image", "without", "balance", "labels", "region", "alike")
TOGGLES = ("features", "metric", "engine")
RESULTS = ("top_k", "gallery")

Answer = dict[str, Any] | str


def add_endpoints(searcher: Searcher, limits: Limits) -> None:
    """Add `/search` (by image), `/query` (everything a query can contain), `/compare` and `/robustness` to the Blocks.

    They are invisible on the page, and each is also an MCP tool. `/search` keeps its six arguments, because raw
    requests pass all arguments by position and would break if another one was added.
    """
    endpoints = Endpoints(searcher, limits)
    shared = arguments() | {"top_k": top_k_up_to(limits.top_k)}
    by_image = shared | {"image": required_image()}
    few = {"top_k": top_k_up_to(COMPARED_MAX)}
    _add(endpoints.search, by_image, ("image", *TOGGLES, *RESULTS))
    _add(endpoints.query, shared, (*CONDITIONS, *TOGGLES, *RESULTS))
    _add(endpoints.compare, shared | few, (*CONDITIONS, *RESULTS))
    _add(endpoints.robustness, by_image | few, ("image", *map(str, Kind), "metric", *RESULTS))


class Endpoints:
    """The functions of the API; their docstrings describe the MCP tools."""

    def __init__(self, searcher: Searcher, limits: Limits) -> None:
        self._searcher = searcher
        self._limits = limits

    def search(self, request: gr.Request, **values: object) -> Answer:
        """Find the images of a gallery that are most similar to a query image, closest first.

        Returns:
            JSON with gallery, features, metric, engine, model, hits (rank, id, label, caption, score) and timings_ms.
        """
        return self._ranked(request, values)

    def query(self, request: gr.Request, **values: object) -> Answer:
        """Find the images of a gallery that match a text, an image or a part of it, or both, closest first.

        Returns:
            JSON like that of search; a hit that represents near-duplicates has their number as duplicates.
        """
        return self._ranked(request, values)

    def compare(self, request: gr.Request, **values: object) -> Answer:
        """Rank a gallery with every feature type, metric and engine, and measure how far each agrees with a baseline.

        Returns:
            JSON with gallery, model, pictures, top_k, baseline, and cells: each with overlap, tau, recall and hits.
        """
        asked = _query(values, COMPARED_MAX)
        compared = compare(self._searcher, asked, check=self._limits.check())
        searched("compare", compared.baseline.ranking, asked.top_k)
        return _for_caller(compared.to_json(), request)

    def robustness(self, request: gr.Request, **values: object) -> Answer:
        """Compare the results for an image with those for a distorted copy of it, with each feature type.

        Returns:
            JSON with gallery, model, pictures, metric, top_k, distortion and results: for each feature type overlap,
            tau, cosine (of the two query vectors), undistorted hits, and distorted hits with their move (null: new).
        """
        distortions = {kind: values.pop(kind) for kind in Kind}
        asked = _query(values, COMPARED_MAX)
        found = measure(self._searcher, replace(asked, distortion=checked_distortion(**distortions)))
        searched("robustness", found.by_features[0].distorted, asked.top_k)
        return _for_caller(found.to_json(), request)

    def _ranked(self, request: gr.Request, values: dict[str, object]) -> Answer:
        asked = _query(values, self._limits.top_k)
        ranking = self._searcher.search(asked)
        searched("search", ranking, asked.top_k)
        return _for_caller(ranking.to_json(), request)


def _add(function: Callable[..., Answer], described: Mapping[str, Argument], names: Sequence[str]) -> None:
    """Add an endpoint for a method of `Endpoints` that takes the arguments with these names."""
    gr.Button(visible=False).click(
        as_shown(html_safe=False)(function),
        inputs_kwargs={name: described[name].component(name) for name in names},
        outputs=Api(None, {"type": "object"}, "answer"),
        api_name=function.__name__,
        **SEARCHES,
    )


def _query(values: dict[str, object], most: int) -> Query:
    """Return the query with these arguments, which may ask for at most `most` results."""
    picture = image_of(values.pop("image"))
    if picture is None and not values.get("text"):
        raise PictureError(NO_IMAGE)
    asked = checked_query(picture=picture, **values)
    if asked.top_k > most:
        raise QueryError(f"top_k must be at most {most:,} on this page, not {asked.top_k:,}.")
    return asked


def _for_caller(answer: dict[str, Any], request: gr.Request) -> Answer:
    """Return the answer, for MCP as JSON text, because gradio would send it in Python's notation."""
    header, caller = MCP_CALLER
    return json.dumps(answer, ensure_ascii=False) if request.headers.get(header) == caller else answer
