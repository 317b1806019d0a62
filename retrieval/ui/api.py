"""The HTTP API: the same query and the same JSON as the command line's `search --json`."""

from pathlib import Path
from typing import Any

import gradio as gr

from retrieval.distortion import UNDISTORTED
from retrieval.errors import PictureError
from retrieval.features import Features
from retrieval.metrics import Metric
from retrieval.query import Engine, Query, checked_balance, checked_distortion, checked_labels, checked_top_k, one_of
from retrieval.robustness import Kind, measure
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


def add_robustness_endpoint(searcher: Searcher) -> None:
    """Add `/robustness` to the Blocks that are being made; it has no visible part."""

    def robustness(
        image: str | None,
        rotation: float,
        crop: float,
        blur: float,
        grey: float,
        quality: float,
        metric: str,
        top_k: float,
        gallery: str | None,
    ) -> dict[str, Any]:
        """Compare what a picture finds as it is with what it finds when distorted, by raw pixels and by CLIP features.

        Args:
            image: the query picture, a file.
            rotation: degrees counter-clockwise, from -180 to 180.
            crop: share of width and height that is cut away around the middle, from 0 to 0.9.
            blur: standard deviation of a Gaussian as a share of the shorter side, from 0 to 0.1.
            grey: share of grey mixed in, from 0 to 1.
            quality: of the JPEG that the picture is saved as, from 1 to 100; 100 leaves it as it is.
            metric: "l1", "l2", "cosine" or "correlation".
            top_k: how many pictures to compare, from 1 to 10,000.
            gallery: name of the gallery; empty means the first.

        Returns:
            gallery, model, pictures, metric, top_k, distortion and results, one for each features: overlap, tau,
            cosine (of both query vectors), undistorted hits and distorted hits with their move (null: new).
        """
        with as_shown(html_safe=False):
            if image is None:
                raise PictureError("The argument image is missing. Send a picture: handle_file('cat.jpg').")
            query = Query(
                picture=Path(image),
                distortion=checked_distortion(rotation, crop, blur, grey, quality),
                metric=one_of(Metric, metric),
                top_k=checked_top_k(top_k),
                gallery=gallery or "",
            )
            return measure(searcher, query).to_json()

    hidden: dict[str, Any] = {"visible": False}
    inputs = [
        PictureInput(label="image", **hidden),
        *(gr.Number(getattr(UNDISTORTED, kind), label=kind, **hidden) for kind in Kind),
        gr.Textbox(str(Metric.COSINE), label="metric", **hidden),
        gr.Number(10, label="top_k", **hidden),
        gr.Textbox("", label="gallery", **hidden),
    ]
    answer = gr.JSON(label="robustness", **hidden)
    gr.Button(**hidden).click(robustness, inputs, answer, api_name="robustness")
