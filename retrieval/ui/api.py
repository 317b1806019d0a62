"""The HTTP API: the same query and the same JSON as the command line's `search --json`."""

from pathlib import Path
from typing import Any

import gradio as gr

from retrieval.errors import PictureError
from retrieval.features import Features
from retrieval.metrics import Metric
from retrieval.query import Engine, Query, checked_balance, checked_labels, checked_top_k, one_of
from retrieval.search import Searcher
from retrieval.ui.errors import as_shown
from retrieval.ui.picture_input import PictureInput


def add_endpoints(searcher: Searcher) -> None:
    """Add `/search` (by picture) and `/search_words` (by words, or both) to the Blocks that are being made.

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
        return search_words("", image, "", 0.5, [], features, metric, engine, top_k, gallery)

    def search_words(
        text: str | None,
        image: str | None,
        without: str | None,
        balance: float,
        labels: list[str] | None,
        features: str,
        metric: str,
        engine: str,
        top_k: float,
        gallery: str | None,
    ) -> dict[str, Any]:
        """Rank a gallery of pictures by words, by a picture, or by both.

        Args:
            text: what to look for, in words; needs features "clip".
            image: a query picture, a file; may be left out where there is a text.
            without: what to stay away from, in words.
            balance: share of the words where there are picture and text, from 0 to 1.
            labels: keep only pictures of these classes; empty keeps all.
            features: "clip", or "pixels" for a picture alone.
            metric: "l1", "l2", "cosine" or "correlation".
            engine: "exact" (scan of every picture) or "chroma" (approximate index).
            top_k: how many pictures to return, from 1 to 10,000.
            gallery: name of the gallery; empty means the first.

        Returns:
            gallery, features, metric, engine, model, hits (rank, id, label, caption, score) and timings_ms.
        """
        with as_shown(html_safe=False):
            if image is None and not text:
                raise PictureError("The argument image is missing. Send a picture: handle_file('cat.jpg').")
            query = Query(
                picture=Path(image) if image else None,
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
            return searcher.search(query).to_json()

    hidden: dict[str, Any] = {"visible": False}
    image = PictureInput(label="image", **hidden)
    toggles = [
        gr.Textbox(str(Features.CLIP), label="features", **hidden),
        gr.Textbox(str(Metric.COSINE), label="metric", **hidden),
        gr.Textbox(str(Engine.EXACT), label="engine", **hidden),
        gr.Number(10, label="top_k", **hidden),
        gr.Textbox("", label="gallery", **hidden),
    ]
    worded = [
        gr.Textbox("", label="text", **hidden),
        image,
        gr.Textbox("", label="without", **hidden),
        gr.Number(0.5, label="balance", **hidden),
        gr.JSON([], label="labels", **hidden),
    ]
    ranking = gr.JSON(label="ranking", **hidden)
    gr.Button(**hidden).click(search, [image, *toggles], ranking, api_name="search")
    gr.Button(**hidden).click(search_words, [*worded, *toggles], ranking, api_name="search_words")
