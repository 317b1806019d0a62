"""The Search tab: a query picture, three toggles, and the gallery ranked by them."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import gradio as gr

from retrieval import words
from retrieval.features import Features
from retrieval.indexes import GalleryIndex
from retrieval.metrics import Metric
from retrieval.query import Engine, Query, checked_top_k, one_of
from retrieval.search import Searcher
from retrieval.ui.errors import as_shown
from retrieval.ui.picture_input import PictureInput

TOP_K = 12
# On a phone the results lie below the fold; who chose a picture wants to see them.
SCROLL_ON_PHONE = """() => { if (innerWidth <= 640 && document.querySelector("#results img"))
    document.getElementById("results").scrollIntoView({ behavior: "smooth" }); }"""
TOP_K_MAX = 60  # on the page; the command line and the API allow more


class SearchTab:
    """Components and events of the tab; holds no state of any visitor."""

    def __init__(self, searcher: Searcher, examples: Iterable[Path]) -> None:
        """Lay the tab out inside the Blocks that are being made, and wire it."""
        self._searcher = searcher
        self._examples = sorted(examples)
        self._served: set[Path] = set()
        if self._examples:
            gr.set_static_paths([self._examples[0].parent])
        names = searcher.indexes.names()
        with gr.Row(equal_height=False):
            with gr.Column(scale=4, min_width=300):
                self.picture = PictureInput(
                    label=words.QUERY,
                    sources=["upload", "webcam", "clipboard"],
                    placeholder=words.DROP,
                    alt_text=words.QUERY_ALT,
                    height=300,
                    buttons=["fullscreen"],
                    elem_id="query",
                )
                self.button = gr.Button(words.SEARCH, variant="primary", elem_id="search")
                self.example_strip = gr.Gallery(
                    [(str(path), path.stem.replace("-", " ")) for path in self._examples],
                    label=words.EXAMPLES,
                    columns=10,
                    allow_preview=False,
                    buttons=[],
                    interactive=False,
                    elem_id="examples",
                    visible=bool(self._examples),
                )
            with gr.Column(scale=8, min_width=320):
                with gr.Row(elem_id="toggles"):
                    self.features = gr.Radio(
                        [(words.FEATURES[each], str(each)) for each in (Features.CLIP, Features.PIXELS)],
                        value=str(Features.CLIP),
                        label=words.FEATURES_LABEL,
                        elem_id="features",
                        min_width=290,
                        scale=3,
                    )
                    self.metric = gr.Radio(
                        [(words.METRICS[each], str(each)) for each in Metric],
                        value=str(Metric.COSINE),
                        label=words.METRIC_LABEL,
                        elem_id="metric",
                        min_width=300,
                        scale=4,
                    )
                    self.engine = gr.Radio(
                        [(words.ENGINES[each], str(each)) for each in Engine],
                        value=str(Engine.EXACT),
                        label=words.ENGINE_LABEL,
                        elem_id="engine",
                        min_width=290,
                        scale=3,
                    )
                    self.top_k = gr.Slider(
                        1,
                        TOP_K_MAX,
                        value=TOP_K,
                        step=1,
                        label=words.TOP_K_LABEL,
                        elem_id="top_k",
                        min_width=180,
                        scale=2,
                    )
                    self.gallery = gr.Dropdown(
                        names,
                        value=names[0] if names else None,
                        label=words.GALLERY_LABEL,
                        visible=len(names) > 1,
                        elem_id="gallery",
                        min_width=180,
                        scale=2,
                    )
                self.results = gr.Gallery(
                    label=words.RESULTS,
                    columns=6,
                    allow_preview=False,
                    buttons=[],
                    interactive=False,
                    elem_id="results",
                )
                self.timings = gr.Markdown(words.HINT, elem_id="timings")
                self.explanation = gr.Markdown(elem_id="explanation")
        self._wire()

    def _wire(self) -> None:
        toggles = [self.features, self.metric, self.engine, self.top_k, self.gallery]
        quiet: dict[str, Any] = {"api_visibility": "private", "show_progress": "minimal"}
        search: dict[str, Any] = {
            "fn": self.run,
            "inputs": [self.picture, *toggles],
            "outputs": [self.results, self.timings, self.explanation],
            **quiet,
        }
        shown: dict[str, Any] = {"fn": None, "js": SCROLL_ON_PHONE}
        # `input` is the visitor's own doing: upload, paste, webcam, removal. A value set from here is none.
        for changed in (self.features, self.metric, self.engine, self.gallery):
            changed.input(**search)
        self.top_k.input(trigger_mode="always_last", **search)
        self.button.click(**search).then(**shown)
        self.picture.input(**search).then(**shown)
        self.example_strip.select(self.take_example, outputs=self.picture, **quiet).then(**search).then(**shown)
        self.results.select(self.take_result, inputs=self.gallery, outputs=self.picture, **quiet).then(**search)

    def run(
        self, picture: str | None, features: str, metric: str, engine: str, top_k: float, gallery: str | None
    ) -> tuple[gr.Gallery, str, str]:
        """Search with what the page shows; without a picture, say kindly what to do."""
        if picture is None:
            return gr.Gallery(value=[], selected_index=None), words.HINT, ""
        with as_shown():
            index = self._searcher.indexes.get(gallery or "")
            query = Query(
                picture=Path(picture),
                # A picture of the gallery is looked up, not embedded again from its thumbnail.
                position=index.at_thumbnail(Path(picture)),
                features=one_of(Features, features),
                metric=one_of(Metric, metric),
                engine=one_of(Engine, engine),
                top_k=checked_top_k(top_k),
                gallery=index.manifest.gallery,
            )
            ranking = self._searcher.search(query)
            self._serve(index)
        hits = [(str(index.thumbnail(hit.position)), words.caption(hit)) for hit in ranking.hits]
        return (
            gr.Gallery(value=hits, selected_index=None),
            words.timings(ranking),
            f"{words.explain(query.features, query.metric, query.engine)} {words.CLICK}",
        )

    def _serve(self, index: GalleryIndex) -> None:
        """Let gradio serve the thumbnails as the files they are; nothing else of the index is reachable."""
        if index.thumbnails not in self._served:
            gr.set_static_paths([index.thumbnails])
            self._served.add(index.thumbnails)

    def take_example(self, chosen: gr.SelectData) -> str:
        """Make a bundled picture the query."""
        return str(self._examples[chosen.index])

    def take_result(self, gallery: str | None, chosen: gr.SelectData) -> Any:
        """Make a result the query. The path comes from the visitor's browser: only a thumbnail is taken."""
        path = Path(str(chosen.value["image"]["path"]))
        with as_shown():
            known = self._searcher.indexes.get(gallery or "").at_thumbnail(path)
        return gr.skip() if known is None else str(path)
