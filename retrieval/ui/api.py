"""The HTTP API: the same query and the same JSON as the command line's `search --json` and `compare --json`."""

from pathlib import Path
from typing import Any

import gradio as gr

from retrieval.comparison import compare as compare_all
from retrieval.errors import PictureError, QueryError
from retrieval.features import Features
from retrieval.metrics import Metric
from retrieval.query import KEEP_ALL, Engine, Query, checked_query
from retrieval.search import Searcher
from retrieval.ui.errors import as_shown
from retrieval.ui.picture_input import PictureInput

COMPARED_MAX = 1000  # Kendall's tau takes the square of it


def add_endpoints(searcher: Searcher) -> None:
    """Add `/search` (by picture), `/query` (all that a query can hold) and `/compare` to the Blocks being made.

    They have no visible part. `/search` keeps its six arguments, so that callers who send them all by position, as a
    raw request must, are not broken by new ones.
    """

    def search(
        image: str | None, features: str, metric: str, engine: str, top_k: float, gallery: str | None
    ) -> dict[str, Any]:
        """Rank a gallery of pictures by their closeness to a query picture.

        Args:
            image: the query picture, a file.
            features: "pixels" or "clip".
            metric: "l1", "l2", "cosine" or "correlation".
            engine: "exact" (scan of every picture) or "chroma" (approximate index).
            top_k: how many pictures to return, from 1 to 10,000.
            gallery: name of the gallery; empty means the first.

        Returns:
            gallery, features, metric, engine, model, hits (rank, id, label, caption, score) and timings_ms.
        """
        with as_shown(html_safe=False):
            asked = _query(image, features=features, metric=metric, engine=engine, top_k=top_k, gallery=gallery)
            return searcher.search(asked).to_json()

    def query(
        text: str | None,
        image: str | None,
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
    ) -> dict[str, Any]:
        """Rank a gallery of pictures by words, by a picture or a part of it, or by both.

        Args:
            text: what to look for, in words; needs features "clip".
            image: a query picture, a file; may be left out where there is a text.
            without: what to stay away from, in words.
            balance: share of the words where there are picture and text, from 0 to 1.
            labels: keep only pictures of these classes; empty keeps all.
            region: search only this part of the picture: left, top, right, bottom from 0 to 1; empty means all.
            alike: of pictures whose CLIP features have this cosine or more show one; 1 shows all.
            features: "clip", or "pixels" for a picture alone.
            metric: "l1", "l2", "cosine" or "correlation".
            engine: "exact" (scan of every picture) or "chroma" (approximate index).
            top_k: how many pictures to return, from 1 to 10,000.
            gallery: name of the gallery; empty means the first.

        Returns:
            gallery, features, metric, engine, model, hits (rank, id, label, caption, score, and duplicates where some
            were left out) and timings_ms.
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
            return searcher.search(asked).to_json()

    def compare(
        text: str | None,
        image: str | None,
        without: str | None,
        balance: float,
        labels: list[str] | None,
        region: list[float] | None,
        alike: float,
        top_k: float,
        gallery: str | None,
    ) -> dict[str, Any]:
        """Rank a gallery by every features x metric x engine, and tell how far each agrees with CLIP's cosine.

        Args:
            text: what to look for, in words; then only CLIP features are compared.
            image: a query picture, a file; may be left out where there is a text.
            without: what to stay away from, in words.
            balance: share of the words where there are picture and text, from 0 to 1.
            labels: keep only pictures of these classes; empty keeps all.
            region: search only this part of the picture: left, top, right, bottom from 0 to 1; empty means all.
            alike: of pictures whose CLIP features have this cosine or more show one; 1 shows all.
            top_k: how many pictures of each, from 1 to 1,000.
            gallery: name of the gallery; empty means the first.

        Returns:
            gallery, model, pictures, top_k, baseline, and cells: each with its overlap, tau, recall and hits.
        """
        with as_shown(html_safe=False):
            if isinstance(top_k, (int, float)) and top_k > COMPARED_MAX:
                raise QueryError(f"top_k must be at most {COMPARED_MAX:,} to compare, not {top_k:,}.")
            asked = _query(
                image,
                text,
                without,
                balance=balance,
                labels=labels,
                region=region,
                alike=alike,
                top_k=top_k,
                gallery=gallery,
            )
            return compare_all(searcher, asked).to_json()

    hidden: dict[str, Any] = {"visible": False}
    image = PictureInput(label="image", **hidden)
    asked = [
        gr.Textbox("", label="text", **hidden),
        image,
        gr.Textbox("", label="without", **hidden),
        gr.Number(0.5, label="balance", **hidden),
        gr.JSON([], label="labels", **hidden),
        gr.JSON([], label="region", **hidden),
        gr.Number(KEEP_ALL, label="alike", **hidden),
    ]
    toggles = [
        gr.Textbox(str(Features.CLIP), label="features", **hidden),
        gr.Textbox(str(Metric.COSINE), label="metric", **hidden),
        gr.Textbox(str(Engine.EXACT), label="engine", **hidden),
    ]
    where = [gr.Number(10, label="top_k", **hidden), gr.Textbox("", label="gallery", **hidden)]
    answer = gr.JSON(label="answer", **hidden)
    gr.Button(**hidden).click(search, [image, *toggles, *where], answer, api_name="search")
    gr.Button(**hidden).click(query, [*asked, *toggles, *where], answer, api_name="query")
    gr.Button(**hidden).click(compare, [*asked, *where], answer, api_name="compare")


def _query(image: str | None, text: str | None = "", without: str | None = "", **values: Any) -> Query:
    if image is None and not text:
        raise PictureError("The argument image is missing. Send a picture: handle_file('cat.jpg').")
    values["gallery"] = values["gallery"] or ""
    return checked_query(picture=Path(image) if image else None, text=text or "", without=without or "", **values)
