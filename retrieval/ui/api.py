"""The HTTP API and the MCP tools: the same query and the same JSON as the command line's `--json`."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr

from retrieval.analysis.comparison import compare as compare_all
from retrieval.analysis.robustness import Kind, measure
from retrieval.engines import DEFAULT_ENGINE, ENGINES
from retrieval.errors import PictureError, QueryError
from retrieval.features import DEFAULT_FEATURES, FEATURES
from retrieval.metrics import Metric
from retrieval.pictures.distortion import LIMITS, UNDISTORTED
from retrieval.search.query import KEEP_ALL, Query, Ranking
from retrieval.search.searcher import Searcher
from retrieval.search.validation import checked_distortion, checked_query
from retrieval.ui.arguments import Argument, PictureArgument
from retrieval.ui.errors import as_shown
from retrieval.ui.serving.limits import SEARCHES, Limits
from retrieval.ui.serving.search_log import searched

NO_IMAGE = "The argument image is missing. Send an image: handle_file('cat.jpg'), or its bytes in base64."
CALLER = "x-gradio-user"  # the header by which gradio's MCP server says who it is
COMPARED_MAX = 1000  # Kendall's tau takes the square of it

Picture = Path | bytes | None
Answer = dict[str, Any] | str


def add_endpoints(searcher: Searcher, limits: Limits) -> None:
    """Add `/search` (by picture), `/query` (all that a query can hold), `/compare` and `/robustness` to the Blocks.

    They have no visible part. They are the tools of the MCP server too, which tells models what the docstrings say, of
    an argument one line. `/search` keeps its six arguments, so that callers who send them all by position, as a raw
    request must, are not broken by new ones.
    """

    def answer(asked: Query) -> Ranking:
        if asked.top_k > limits.top_k:
            raise QueryError(f"top_k must be at most {limits.top_k:,} on this page, not {asked.top_k:,}.")
        ranking = searcher.search(asked)
        searched("search", ranking, asked.top_k)
        return ranking

    def search(
        image: Picture,
        features: str,
        metric: str,
        engine: str,
        top_k: float,
        gallery: str | None,
        request: gr.Request,
    ) -> Answer:
        """Find the pictures of a gallery that look most like a given picture, closest first.

        Args:
            image: the query picture, as an uploaded file or in base64 (data:image/png;base64,...); no addresses.
            features: what is compared: "clip" (what is shown) or "pixels" (colours and their places).
            metric: how it is compared: "l1" or "l2" (smaller is closer), "cosine" or "correlation" (larger is closer).
            engine: "exact" (scan of every picture) or "chroma" (approximate index; may miss some).
            top_k: how many pictures to return, from 1 to 10,000.
            gallery: name of the gallery; empty means the first.

        Returns:
            JSON with gallery, features, metric, engine, model, hits (rank, id, label, caption, score) and timings_ms.
        """
        with as_shown(html_safe=False):
            asked = _query(image, features=features, metric=metric, engine=engine, top_k=top_k, gallery=gallery)
            return _for_caller(answer(asked).to_json(), request)

    def query(
        text: str | None,
        image: Picture,
        without: str | None,
        balance: float,
        labels: list[str] | None,
        region: list[float] | None,
        alike: float,
        features: str,
        metric: str,
        engine: str,
        top_k: float,
        gallery: str | None,
        request: gr.Request,
    ) -> Answer:
        """Find the pictures of a gallery that fit words, look like a picture or a part of it, or both, closest first.

        Args:
            text: what to look for, in English words such as "red fruit"; needs features "clip".
            image: a query picture, as an uploaded file or in base64 (data:image/png;base64,...); may be left out.
            without: what to stay away from, in words.
            balance: share of the words where there are picture and text: 0 the picture alone, 1 the words alone.
            labels: keep only pictures of these classes, the label of hits; empty keeps all.
            region: search only this part of the picture: left, top, right, bottom from 0 to 1; empty means all of it.
            alike: of pictures whose CLIP features have this cosine or more show one; 1 shows all.
            features: "clip" (what is shown), or for a picture without words "pixels" (colours and their places).
            metric: how it is compared: "l1" or "l2" (smaller is closer), "cosine" or "correlation" (larger is closer).
            engine: "exact" (scan of every picture) or "chroma" (approximate index; may miss some).
            top_k: how many pictures to return, from 1 to 10,000.
            gallery: name of the gallery; empty means the first.

        Returns:
            JSON as of search; a hit that stands for near-duplicates has their number as duplicates.
        """
        with as_shown(html_safe=False):
            asked = _query(
                image,
                text,
                without,
                balance=balance,
                labels=labels,
                region=region,
                alike=alike,
                features=features,
                metric=metric,
                engine=engine,
                top_k=top_k,
                gallery=gallery,
            )
            return _for_caller(answer(asked).to_json(), request)

    def compare(
        text: str | None,
        image: Picture,
        without: str | None,
        balance: float,
        labels: list[str] | None,
        region: list[float] | None,
        alike: float,
        top_k: float,
        gallery: str | None,
        request: gr.Request,
    ) -> Answer:
        """Rank a gallery by every features x metric x engine, and tell how far each agrees with CLIP's cosine.

        Args:
            text: what to look for, in English words; then only CLIP features are compared.
            image: a query picture, as an uploaded file or in base64 (data:image/png;base64,...); may be left out.
            without: what to stay away from, in words.
            balance: share of the words where there are picture and text: 0 the picture alone, 1 the words alone.
            labels: keep only pictures of these classes, the label of hits; empty keeps all.
            region: search only this part of the picture: left, top, right, bottom from 0 to 1; empty means all of it.
            alike: of pictures whose CLIP features have this cosine or more show one; 1 shows all.
            top_k: how many pictures of each, from 1 to 1,000.
            gallery: name of the gallery; empty means the first.

        Returns:
            JSON with gallery, model, pictures, top_k, baseline, and cells: each with overlap, tau, recall and hits.
        """
        with as_shown(html_safe=False):
            asked = _query(
                image,
                text,
                without,
                balance=balance,
                labels=labels,
                region=region,
                alike=alike,
                top_k=_few(top_k),
                gallery=gallery,
            )
            compared = compare_all(searcher, asked)
            searched("compare", compared.baseline.ranking, asked.top_k)
            return _for_caller(compared.to_json(), request)

    def robustness(
        image: Picture,
        rotation: float,
        crop: float,
        blur: float,
        grey: float,
        quality: float,
        metric: str,
        top_k: float,
        gallery: str | None,
        request: gr.Request,
    ) -> Answer:
        """Compare what a picture finds as it is and what it finds distorted as asked, by raw pixels and CLIP features.

        Args:
            image: the query picture, as an uploaded file or in base64 (data:image/png;base64,...); no addresses.
            rotation: degrees counter-clockwise, from -180 to 180.
            crop: share of width and height that is cut away around the middle, from 0 to 0.9.
            blur: standard deviation of a Gaussian as a share of the shorter side, from 0 to 0.1.
            grey: share of grey mixed in, from 0 to 1.
            quality: of the JPEG that the picture is saved as, from 1 to 100; 100 leaves it as it is.
            metric: how it is compared: "l1" or "l2" (smaller is closer), "cosine" or "correlation" (larger is closer).
            top_k: how many pictures to compare, from 1 to 1,000.
            gallery: name of the gallery; empty means the first.

        Returns:
            JSON with gallery, model, pictures, metric, top_k, distortion and results, for each features its overlap
            and tau and cosine (of both query vectors), undistorted hits and distorted hits with their move (null: new).
        """
        with as_shown(html_safe=False):
            asked = _query(image, metric=metric, top_k=_few(top_k), gallery=gallery)
            distortion = checked_distortion(rotation, crop, blur, grey, quality)
            found = measure(searcher, replace(asked, distortion=distortion))
            searched("robustness", found.by_features[0].distorted, asked.top_k)
            return _for_caller(found.to_json(), request)

    asked = [
        Argument("text", "", type="string", default=""),
        PictureArgument("image", ""),
        Argument("without", "", type="string", default=""),
        Argument("balance", 0.5, type="number", minimum=0, maximum=1),
        Argument("labels", [], type="array", items={"type": "string"}, default=[]),
        Argument("region", [], type="array", items={"type": "number"}, default=[]),
        Argument("alike", KEEP_ALL, type="number", minimum=0, maximum=1),
    ]
    toggles = [
        Argument("features", DEFAULT_FEATURES, type="string", enum=list(FEATURES)),
        Argument("metric", str(Metric.COSINE), type="string", enum=[str(each) for each in Metric]),
        Argument("engine", DEFAULT_ENGINE, type="string", enum=list(ENGINES)),
    ]
    distortion = [
        Argument(kind, getattr(UNDISTORTED, kind), type="number", minimum=LIMITS[kind][0], maximum=LIMITS[kind][1])
        for kind in Kind
    ]
    gallery = Argument("gallery", "", type="string", default="")
    top_k = Argument("top_k", 10, type="integer", minimum=1, maximum=limits.top_k)
    few = Argument("top_k", 10, type="integer", minimum=1, maximum=COMPARED_MAX)
    returned = Argument("answer", None, type="object")
    for function, arguments in (
        (search, [PictureArgument("image"), *toggles, top_k, gallery]),
        (query, [*asked, *toggles, top_k, gallery]),
        (compare, [*asked, few, gallery]),
        (robustness, [PictureArgument("image"), *distortion, toggles[1], few, gallery]),
    ):
        gr.Button(visible=False).click(function, arguments, returned, api_name=function.__name__, **SEARCHES)


def _query(image: Picture, text: str | None = "", without: str | None = "", **values: Any) -> Query:
    if image is None and not text:
        raise PictureError(NO_IMAGE)
    return checked_query(picture=image, text=text, without=without, **values)


def _few(top_k: float) -> float:
    if isinstance(top_k, (int, float)) and top_k > COMPARED_MAX:
        raise QueryError(f"top_k must be at most {COMPARED_MAX:,} to compare, not {top_k:,}.")
    return top_k


def _for_caller(answer: dict[str, Any], request: gr.Request) -> Answer:
    """Return the answer as it is; for MCP, whose answers are texts, as JSON, where gradio would write Python."""
    return json.dumps(answer, ensure_ascii=False) if request.headers.get(CALLER) == "mcp" else answer
