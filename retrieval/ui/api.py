"""The HTTP API and the MCP tools: the same query and the same JSON as the command line's `search --json`."""

import json
from pathlib import Path
from typing import Any

import gradio as gr

from retrieval import words
from retrieval.errors import PictureError
from retrieval.features import Features
from retrieval.metrics import Metric
from retrieval.query import MAX_TOP_K, Engine, Query, Ranking, checked_balance, checked_labels, checked_top_k, one_of
from retrieval.search import Searcher
from retrieval.ui.arguments import Argument, PictureArgument
from retrieval.ui.errors import as_shown

CALLER = "x-gradio-user"  # the header by which gradio's MCP server says who it is


def add_endpoints(searcher: Searcher) -> None:
    """Add `/search` (by picture) and `/search_words` (by words, or both) to the Blocks that are being made.

    They have no visible part. They are the tools of the MCP server too, which tells models what the docstrings say, of
    an argument one line. `/search` keeps its six arguments, so that callers who send them all by position, as a raw
    request must, are not broken by new ones.
    """

    def search(
        image: Path | bytes | None,
        features: str,
        metric: str,
        engine: str,
        top_k: float,
        gallery: str | None,
        request: gr.Request,
    ) -> dict[str, Any] | str:
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
        return search_words("", image, "", 0.5, [], features, metric, engine, top_k, gallery, request)

    def search_words(
        text: str | None,
        image: Path | bytes | None,
        without: str | None,
        balance: float,
        labels: list[str] | None,
        features: str,
        metric: str,
        engine: str,
        top_k: float,
        gallery: str | None,
        request: gr.Request,
    ) -> dict[str, Any] | str:
        """Find the pictures of a gallery that fit words, look like a given picture, or both, closest first.

        Args:
            text: what to look for, in English words such as "red fruit"; needs features "clip".
            image: a query picture, as an uploaded file or in base64 (data:image/png;base64,...); may be left out.
            without: what to stay away from, in words.
            balance: share of the words where there are picture and text: 0 the picture alone, 1 the words alone.
            labels: keep only pictures of these classes, the label of hits; empty keeps all.
            features: "clip" (what is shown), or for a picture without words "pixels" (colours and their places).
            metric: how it is compared: "l1" or "l2" (smaller is closer), "cosine" or "correlation" (larger is closer).
            engine: "exact" (scan of every picture) or "chroma" (approximate index; may miss some).
            top_k: how many pictures to return, from 1 to 10,000.
            gallery: name of the gallery; empty means the first.

        Returns:
            JSON with gallery, features, metric, engine, model, hits (rank, id, label, caption, score) and timings_ms.
        """
        with as_shown(html_safe=False):
            if image is None and not text:
                raise PictureError(words.NO_IMAGE)
            query = Query(
                picture=image,
                text=text or "",
                without=without or "",
                balance=checked_balance(balance),
                labels=checked_labels(labels),
                features=one_of(Features, features),
                metric=one_of(Metric, metric),
                engine=one_of(Engine, engine),
                top_k=checked_top_k(top_k),
                gallery=gallery or "",
            )
            return _for_caller(searcher.search(query), request)

    toggles = [
        Argument("features", str(Features.CLIP), type="string", enum=[str(each) for each in Features]),
        Argument("metric", str(Metric.COSINE), type="string", enum=[str(each) for each in Metric]),
        Argument("engine", str(Engine.EXACT), type="string", enum=[str(each) for each in Engine]),
        Argument("top_k", 10, type="integer", minimum=1, maximum=MAX_TOP_K),
        Argument("gallery", "", type="string", default=""),
    ]
    worded = [
        Argument("text", "", type="string", default=""),
        PictureArgument("image", ""),
        Argument("without", "", type="string", default=""),
        Argument("balance", 0.5, type="number", minimum=0, maximum=1),
        Argument("labels", [], type="array", items={"type": "string"}, default=[]),
    ]
    ranking = Argument("ranking", None, type="object")
    gr.Button(visible=False).click(search, [PictureArgument("image"), *toggles], ranking, api_name="search")
    gr.Button(visible=False).click(search_words, [*worded, *toggles], ranking, api_name="search_words")


def _for_caller(ranking: Ranking, request: gr.Request) -> dict[str, Any] | str:
    """Return the ranking as JSON; for MCP, whose answers are texts, written out, since gradio would write Python."""
    answer = ranking.to_json()
    return json.dumps(answer, ensure_ascii=False) if request.headers.get(CALLER) == "mcp" else answer
