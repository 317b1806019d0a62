"""The HTTP API and the MCP tools, with the same queries and the same JSON as the command line's `--json`."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import gradio as gr
from gradio.components.api_component import Api

from retrieval.analysis.comparison import compare
from retrieval.analysis.evaluation import Evaluation
from retrieval.analysis.leaderboard import leaderboard
from retrieval.analysis.queries import leave_one_out
from retrieval.analysis.results import classes_to_json, to_json
from retrieval.analysis.robustness import Kind, measure
from retrieval.analysis.why import Explainer
from retrieval.errors import PictureError, QueryError
from retrieval.search.query import Query, rankings_to_json
from retrieval.search.validation import (
    added_to,
    checked_distortion,
    checked_ks,
    checked_names,
    checked_query,
    checked_sample,
)
from retrieval.storage.reader import GalleryIndex
from retrieval.ui.arguments import (
    Argument,
    added_of,
    arguments,
    evaluation_arguments,
    image_of,
    required_image,
    top_k_up_to,
)
from retrieval.ui.errors import as_shown
from retrieval.ui.serving.limits import LONG, SEARCHES, Limits
from retrieval.ui.serving.search_log import searched

MCP_CALLER = ("x-gradio-user", "mcp")  # the header that gradio's MCP server adds to its requests
COMPARED_MAX = 1000  # results, because Kendall's tau takes quadratic time
NO_IMAGE = "The argument image is missing. Send an image: handle_file('cat.jpg'), or its bytes in base64."

# Arguments, in the order in which raw requests pass them.
CONDITIONS = ("text", "image", "more", "less", "without", "balance", "labels", "region", "alike")
TOGGLES = ("features", "metric", "engine")
RESULTS = ("top_k", "gallery")
EXPLAINED = ("image", "text", "id", "features", "metric", "gallery")

Answer = dict[str, Any] | str


def add_endpoints(explainer: Explainer, limits: Limits, features: Sequence[str]) -> None:
    """Add `/search` (by image), `/query` (everything a query can contain) and the endpoints of the other tabs.

    They are invisible on the page, and each is also an MCP tool. `/search` keeps its six arguments, because raw
    requests pass all arguments by position and would break if another one was added.
    """
    endpoints = Endpoints(explainer, limits)
    shared = arguments(features) | {"top_k": top_k_up_to(limits.top_k)}
    by_image = shared | {"image": required_image()}
    few = {"top_k": top_k_up_to(COMPARED_MAX)}
    _add(endpoints.search, by_image, ("image", *TOGGLES, *RESULTS))
    _add(endpoints.query, shared, (*CONDITIONS, *TOGGLES, *RESULTS, "min_score"))
    _add(endpoints.compare, shared | few, (*CONDITIONS, *RESULTS))
    _add(endpoints.robustness, by_image | few, ("image", *map(str, Kind), "metric", *RESULTS))
    _add(
        endpoints.evaluate, shared | evaluation_arguments(limits.sample), ("gallery", "sample", "k", "per_class"), LONG
    )
    _add(endpoints.why, shared, EXPLAINED, LONG)


class Endpoints:
    """The functions of the API; their docstrings describe the MCP tools."""

    def __init__(self, explainer: Explainer, limits: Limits) -> None:
        self._explainer = explainer
        self._searcher = explainer.searcher
        self._limits = limits

    def search(self, request: gr.Request, **values: object) -> Answer:
        """Find the images of a gallery that are most similar to a query image, closest first.

        Returns:
            JSON with gallery, features, metric, engine, model, notes, hits (rank, id, label, caption, score) and
            timings_ms; for several feature types, JSON with gallery and rankings, one such JSON for each.
        """
        return self._ranked(request, values)

    def query(self, request: gr.Request, **values: object) -> Answer:
        """Find the images of a gallery that match texts, images or a part of one, all of them together, closest first.

        Returns:
            JSON like that of search; notes say what of the query was not searched, and a hit that represents
            near-duplicates has their number as duplicates.
        """
        return self._ranked(request, values)

    def compare(self, request: gr.Request, **values: object) -> Answer:
        """Rank a gallery with every feature type, metric and engine, and measure how far each agrees with a baseline.

        Returns:
            JSON with gallery, model, pictures, top_k, notes, baseline, and cells: each with overlap, tau, recall and
            hits.
        """
        asked, index = self._query(values, COMPARED_MAX)
        compared = compare(self._searcher, asked, index=index, check=self._limits.check())
        searched("compare", compared.baseline.ranking, asked.top_k)
        return _for_caller(compared.to_json(), request)

    def robustness(self, request: gr.Request, **values: object) -> Answer:
        """Compare the results for an image with those for a distorted copy of it, with each feature type.

        Returns:
            JSON with gallery, model, pictures, metric, top_k, distortion and results: for each feature type overlap,
            tau, cosine (of the two query vectors), undistorted hits, and distorted hits with their move (null: new).
        """
        distortions = {kind: values.pop(kind) for kind in Kind}
        asked, _ = self._query(values, COMPARED_MAX)
        found = measure(self._searcher, replace(asked, distortion=checked_distortion(**distortions)))
        searched("robustness", found.by_features[0].distorted, asked.top_k)
        return _for_caller(found.to_json(), request)

    def evaluate(self, request: gr.Request, gallery: object, sample: object, k: object, per_class: object) -> Answer:
        """Measure how well each feature type and metric finds images with the label of a gallery's image.

        Returns:
            JSON with gallery, method, queries, classes, chance, verdict, about, warnings, and results: for each
            configuration its place, and measures with value, low and high (95 % interval); also per_class if asked for.
        """
        asked, ks, check = checked_sample(sample, self._limits.sample), checked_ks(k), self._limits.check()
        index = self._searcher.indexes.get(checked_query(picture=None, gallery=gallery).gallery)
        evaluation = Evaluation(index, leave_one_out(index, asked), ks)
        for _ in evaluation.run():
            check()
        answer = to_json(leaderboard(evaluation))
        return _for_caller(answer | ({"per_class": classes_to_json(evaluation)} if per_class else {}), request)

    def why(self, request: gr.Request, **values: object) -> Answer:
        """Explain why an image of the gallery is a result: what each part of it and of the query image contributes.

        Returns:
            JSON with gallery, id, features, metric, score, method ("pixels", "places": exact; "covering": change of the
            score when a cell is covered), and two maps, query (null without an image) and result: each with
            contributions (rows of numbers), region (left, top, right, bottom of the part they cover) and rest. With an
            exact method, all contributions and the rest add up to the score, for L2 to its square.
        """
        id = values.pop("id")
        asked, _ = self._query(values, self._limits.top_k)
        index = self._searcher.indexes.get(asked.gallery)
        found, _ = self._explainer.why(asked, index.position(str(id)), index, self._limits.check())
        return _for_caller(found.to_json(), request)

    def _ranked(self, request: gr.Request, values: dict[str, object]) -> Answer:
        names = checked_names(values.pop("features"))
        asked, index = self._query(values, self._limits.top_k)
        rankings = self._searcher.search_each(asked, names, index)
        for ranking in rankings:
            searched("search", ranking, asked.top_k)
        return _for_caller(rankings_to_json(rankings), request)

    def _query(self, values: dict[str, object], most: int) -> tuple[Query, GalleryIndex | None]:
        """Return the query with these arguments, for at most `most` results, and the build of its gallery items."""
        picture = image_of(values.pop("image"))
        more, less = (added_of(name, values.pop(name, None)) for name in ("more", "less"))
        asked = checked_query(picture=picture, **values)
        if asked.top_k > most:
            raise QueryError(f"top_k must be at most {most:,} on this page, not {asked.top_k:,}.")
        if picture is None and not (asked.text or more):
            raise PictureError(NO_IMAGE)
        if not (more or less):
            return asked, None
        index = self._searcher.indexes.get(asked.gallery)
        return replace(asked, added=added_to(index, more, less)), index


def _add(
    function: Callable[..., Answer],
    described: Mapping[str, Argument],
    names: Sequence[str],
    shares: Mapping[str, Any] = SEARCHES,
) -> None:
    """Add an endpoint for a method of `Endpoints` that takes the arguments with these names.

    `shares` names the events with which it shares a limit on how many run at once.
    """
    gr.Button(visible=False).click(
        as_shown(html_safe=False)(function),
        inputs_kwargs={name: described[name].component(name) for name in names},
        outputs=Api(None, {"type": "object"}, "answer"),
        api_name=function.__name__,
        **shares,
    )


def _for_caller(answer: dict[str, Any], request: gr.Request) -> Answer:
    """Return the answer, for MCP as JSON text, because gradio would send it in Python's notation."""
    header, caller = MCP_CALLER
    return json.dumps(answer, ensure_ascii=False) if request.headers.get(header) == caller else answer
