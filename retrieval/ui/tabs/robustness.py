"""The Robustness tab: how a distortion of the query image changes its results, for each feature type."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import gradio as gr
from typing_extensions import override

from retrieval.analysis.agreement import move
from retrieval.analysis.explanation import caption
from retrieval.analysis.robustness import (
    STEPS,
    Kind,
    Robustness,
    Step,
    about_distortion,
    lesson,
    measure,
    sweep,
    sweep_columns,
    sweep_rows,
    withstood,
)
from retrieval.features import FEATURES
from retrieval.metrics import Metric
from retrieval.pictures.distortion import LIMITS, UNDISTORTED
from retrieval.pictures.loading import fit_within
from retrieval.search.embedding import QueryPictures
from retrieval.search.query import Query
from retrieval.search.validation import checked_distortion, checked_top_k, one_of
from retrieval.storage.reader import GalleryIndex
from retrieval.ui.controls import PRIVATE, cancel_button, figures_plot, figures_table, metric_choice, top_k_slider
from retrieval.ui.errors import as_shown, warn
from retrieval.ui.permalink import SHOWN_FIRST
from retrieval.ui.query_panel import HINT, SKIP, Asked, QueryPanel, Updates
from retrieval.ui.scripts import beside, release_by_keys
from retrieval.ui.serving.limits import LONG
from retrieval.ui.serving.search_log import searched
from retrieval.ui.tabs.stopping import STOPPED, Job, Stopped, Stops
from retrieval.ui.tabs.tab import Tab, TabContext, run_on
from retrieval.ui.widgets.thumbnails import PictureStrip, strip_of

TOP_K = 8  # as many as fit beside the sliders
TOP_K_MAX = 20
PREVIEW = 320  # pixels of the longer side
PERCENT = (Kind.CROP, Kind.BLUR, Kind.GREY)  # sliders that show shares in percent
STEP = {Kind.ROTATION: 1, Kind.CROP: 1, Kind.BLUR: 0.5, Kind.GREY: 5, Kind.QUALITY: 1}
SLIDERS = {
    Kind.ROTATION: "Rotation (degrees)",
    Kind.CROP: "Crop (% cut away)",
    Kind.BLUR: "Blur (% of the side)",
    Kind.GREY: "Grey (% mixed in)",
    Kind.QUALITY: "JPEG quality (100: off)",
}
NOTE = (
    "Kept (green ring): results of the original image that the distorted one finds too. Order: Kendall's τ of both "
    "rankings (1: the same). Cosine: between the vectors of both images. ↑ ↓: places gained or lost; new (dashed): not "
    "found before."
)
START = "**Nothing is distorted:** move a slider and see which results stay."
NEEDS_IMAGE = "**Choose an image:** a text cannot be rotated or blurred."
TEXT_IGNORED = "Only images count here, not the text."
SWEEP_NOTE = (
    "Tries each distortion alone, from weak to strong, and shows the share of results that each feature type keeps."
)
SWEPT = "Overlap by distortion"


class RobustnessTab(Tab):
    """Sliders, the distorted image, the results of both images for each feature type, and a sweep of distortions."""

    title = "Robustness"

    @override
    def __init__(self, context: TabContext, tab: gr.Tab) -> None:
        super().__init__(context, tab)
        with gr.Row(elem_id="distortions"):
            with gr.Column(scale=2, min_width=260, elem_id="sliders"):
                self.sliders = {str(kind): _slider(kind) for kind in Kind}
                self.reset = gr.Button("Reset", elem_id="reset", size="md")
                self.metric = metric_choice(gr.Dropdown, "robustness_metric")
                self.top_k = top_k_slider(TOP_K, TOP_K_MAX, "robustness_top_k")
                gr.Markdown(SWEEP_NOTE, elem_id="sweep_note")
                with gr.Row():
                    text = "Try every distortion"
                    self.sweep_button = gr.Button(text, variant="primary", elem_id="sweep", scale=2, min_width=150)
                    self.cancel = cancel_button("sweep_cancel")
                self.state = gr.Markdown(elem_id="sweep_state")
            with gr.Column(scale=5, min_width=300):
                self.plot = figures_plot(SWEPT, "sweep_plot")
                self._lay_out_results(context)
        layout: dict[str, Any] = {"max_height": 720, "visible": False}
        self.table = figures_table(sweep_columns(context.shown), SWEPT, "sweep_table", **layout)
        for strip in (*self.undistorted.values(), *self.distorted.values()):
            context.viewer.opens(strip.select)
        self._wire(context.panel, tab)

    def _lay_out_results(self, context: TabContext) -> None:
        with gr.Row():
            self.preview = gr.Image(
                label="Distorted query image",
                alt_text=about_distortion(SHOWN_FIRST),
                height=150,
                format="png",  # another JPEG would add marks of its own
                interactive=False,
                buttons=[],
                elem_id="distorted",
                min_width=180,
            )
            with gr.Column(scale=3, min_width=280):
                self.note = gr.Markdown(HINT, elem_id="robustness_note")
        self.figures: dict[str, gr.Markdown] = {}
        self.undistorted: dict[str, gr.Gallery] = {}
        self.distorted: dict[str, gr.Gallery] = {}
        self.groups: dict[str, gr.Column] = {}
        for features in context.features:
            with gr.Column(visible=features in context.shown) as self.groups[features]:
                title = f"**{FEATURES[features].title}**"
                self.figures[features] = gr.Markdown(title, elem_id=f"withstood_{features}", elem_classes="withstood")
                self.undistorted[features] = self._strip(features, "original", f"undistorted_{features}")
                self.distorted[features] = self._strip(features, "distorted", f"distorted_{features}")

    def _strip(self, features: str, name: str, elem_id: str) -> gr.Gallery:
        return PictureStrip(
            self._thumbnails,
            label=f"{FEATURES[features].title}, {name}",
            columns=TOP_K,
            elem_id=elem_id,
            elem_classes="strip hits labelled",
        )

    def _wire(self, panel: QueryPanel, tab: gr.Tab) -> None:
        asked = {**panel.inputs, "metric": self.metric, "top_k": self.top_k}
        changed = [*panel.asked, *panel.refined, self.metric.input, self.top_k.release]
        strips = [*self.undistorted.values(), *self.distorted.values()]
        sliders = list(self.sliders.values())
        event = run_on(
            self.run,
            [*changed, *(slider.release for slider in sliders)],
            "distortions",
            inputs_kwargs={**asked, **self.sliders},
            outputs=[self.note, self.preview, *self.groups.values(), *self.figures.values(), *strips],
            show_progress_on=self.note,
            **PRIVATE,
        )
        undistorted = [getattr(UNDISTORTED, kind) for kind in Kind]
        self.reset.click(lambda: undistorted, None, sliders, **PRIVATE).then(**event)
        tab.select(**event)
        self._wire_sweep(asked, changed)
        gr.on(None, None, js=release_by_keys("distortions"))

    def _wire_sweep(self, asked: dict[str, Any], changed: list[Any]) -> None:
        dark = gr.Checkbox(visible=False)  # set by the script
        stops = Stops()
        self.sweep_button.click(
            self.sweep,
            inputs_kwargs={**asked, **stops.inputs, "dark": dark},
            outputs=[self.state, self.table, self.plot, self.cancel],
            js=beside(__file__, "sweep_started.js"),
            show_progress_on=self.state,
            **LONG,
            **PRIVATE,
        )
        self.cancel.click(**stops.event)
        # For the script, because Cancel is off until a sweep has begun to answer.
        gr.Button(visible="hidden", elem_id="sweep_forget").click(**stops.event)
        figures = [self.state, self.table, self.plot]
        gr.on(
            changed,
            None,
            list(asked.values()),
            figures,
            js=beside(__file__, "sweep_forget.js"),
            trigger_mode="multiple",
        )

    def run(self, metric: str, top_k: float, **values: Any) -> Updates:
        """Search with the query image, undistorted and distorted; without an image, show what to do.

        `values` are those of the sliders, by the kind of distortion, and of the panel.
        """
        sliders = {kind: values.pop(kind) for kind in Kind}
        asked = Asked(**values)
        if asked.picture is None:
            return self._empty(HINT if asked.nothing else NEEDS_IMAGE)
        try:
            with as_shown():
                index, query = self._query(asked, metric, top_k)
                shares = {str(kind): value / 100 if kind in PERCENT else value for kind, value in sliders.items()}
                distortion = checked_distortion(**shares)
                query = replace(query, distortion=distortion)
                pictures = QueryPictures(self._searcher.embedder, index, query, index.features)
                result = measure(self._searcher, query, pictures)
                preview = fit_within(distortion.apply(pictures.main.undistorted()), PREVIEW)
                self._thumbnails.serve(index)
                searched("robustness", result.by_features[0].distorted, query.top_k)
        except gr.Error as error:
            return self._empty(str(error.message))
        note = START if distortion == UNDISTORTED else NOTE
        return {
            self.note: f"{note} {TEXT_IGNORED}" if (asked.text or "").strip() else note,
            self.preview: gr.Image(value=preview, alt_text=about_distortion(distortion)),
            **self._shown(index, result),
        }

    def sweep(
        self, metric: str, top_k: float, stopped: Stopped, began: float, dark: bool, **panel: Any
    ) -> Iterator[Updates]:
        """Yield the table as it fills, then the plot and what it shows; end when the visitor stops it."""
        asked = Asked(**panel)
        if asked.picture is None:
            yield {self.state: HINT if asked.nothing else NEEDS_IMAGE}
            return
        try:
            with as_shown():
                index, query = self._query(asked, metric, top_k)
                pictures = QueryPictures(self._searcher.embedder, index, query, index.features)
                yield from self._swept(query, pictures, Job(stopped, began, self._limits.deadline()), dark)
        except gr.Error as error:
            hidden = {self.table: gr.Dataframe(visible=False), self.plot: gr.Image(visible=False)}
            yield {self.state: warn(error), self.cancel: gr.Button(interactive=False), **hidden}

    def _swept(self, query: Query, pictures: QueryPictures, job: Job, dark: bool) -> Iterator[Updates]:
        pictures.main.undistorted()  # decoded first, so that a damaged image is reported before anything is shown
        done: list[Step] = []
        names = pictures.index.features
        if job.ended():
            yield SKIP
            return
        # Each answer shows all of it: an update that comes while the results are shown anew can get lost in the page.
        yield self._progress(done, names) | {self.plot: gr.Image(value=None, visible=False)}
        for step in sweep(self._searcher, query, pictures):
            if why := job.over():
                yield {self.state: why, self.cancel: gr.Button(interactive=False)}
                return
            done.append(step)
            yield self._progress(done, names)
        from retrieval.analysis.plots import plot_sweep  # with matplotlib, which the page starts without

        sentence = lesson(done)
        plot = gr.Image(value=plot_sweep(done, bool(dark)), alt_text=sentence, visible=True)
        over = {self.cancel: gr.Button(interactive=False)}
        if job.ended():
            yield over | {self.state: STOPPED}
        else:
            yield over | {self.state: sentence, self.table: _table(done, names), self.plot: plot}

    def _progress(self, done: list[Step], names: Sequence[str]) -> Updates:
        return {
            self.state: f"{len(done)} of {STEPS} distortions tried ...",
            self.table: _table(done, names),
            self.cancel: gr.Button(interactive=True),
        }

    def _query(self, asked: Asked, metric: object, top_k: object) -> tuple[GalleryIndex, Query]:
        index = self._searcher.indexes.get(asked.gallery or "")
        query = asked.query(index, with_text=False)
        return index, replace(query, metric=one_of(Metric, metric), top_k=checked_top_k(top_k))

    def _empty(self, note: str) -> Updates:
        strips = [*self.undistorted.values(), *self.distorted.values()]
        return {
            self.note: note,
            self.preview: gr.Image(value=None, alt_text=about_distortion(UNDISTORTED)),
            **{figures: f"**{FEATURES[features].title}**" for features, figures in self.figures.items()},
            **{strip: gr.Gallery(value=[]) for strip in strips},
        }

    def _shown(self, index: GalleryIndex, result: Robustness) -> Updates:
        updates: Updates = {group: gr.Column(visible=name in index.features) for name, group in self.groups.items()}
        for each in result.by_features:
            features = each.distorted.features
            if features not in self.groups:
                continue  # the gallery has got it since the page was started
            updates[self.figures[features]] = withstood(each)
            updates[self.undistorted[features]] = strip_of(index, each.undistorted)
            hits = zip(each.distorted.hits, each.moves, strict=True)
            captions = [f"{caption(hit)} {move(moved)}".rstrip() for hit, moved in hits]
            updates[self.distorted[features]] = strip_of(index, each.distorted, captions)
        return updates


def _table(done: list[Step], names: Sequence[str]) -> gr.Dataframe:
    columns = sweep_columns(names)
    widths: list[str | int] = ["40%", *[f"{60 / len(names):g}%"] * len(names)]
    return gr.Dataframe(value=sweep_rows(done, names), headers=columns, column_widths=widths, visible=True)


def _slider(kind: Kind) -> gr.Slider:
    low, high = (limit * (100 if kind in PERCENT else 1) for limit in LIMITS[kind])
    value = getattr(SHOWN_FIRST, kind)
    return gr.Slider(low, high, value=value, step=STEP[kind], label=SLIDERS[kind], elem_id=f"distort_{kind}")
