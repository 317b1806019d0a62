"""The Robustness tab: what a distortion of the query picture does to its hits, by each features."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import gradio as gr

from retrieval.analysis import sentences as words
from retrieval.analysis.robustness import STEPS, Kind, Robustness, Step, measure, sweep
from retrieval.metrics import Metric
from retrieval.pictures.distortion import LIMITS, UNDISTORTED
from retrieval.pictures.loading import fit_within
from retrieval.search.embedding import QueryPicture
from retrieval.search.query import Query
from retrieval.search.searcher import Searcher
from retrieval.search.validation import checked_distortion, checked_top_k, one_of
from retrieval.storage.reader import GalleryIndex
from retrieval.ui.errors import as_shown
from retrieval.ui.query_panel import Asked, QueryPanel
from retrieval.ui.scripts import OPENED, if_open, release_by_keys
from retrieval.ui.serving.limits import LONG, SEARCHES, Limits
from retrieval.ui.serving.search_log import searched
from retrieval.ui.tabs.stopping import NOW, Stopped, Stops, ended, over
from retrieval.ui.widgets.thumbnails import PictureStrip, Thumbnails, strip_of

TOP_K = 10
TOP_K_MAX = 20
PREVIEW = 320  # pixels of the longer side
PERCENT = (Kind.CROP, Kind.BLUR, Kind.GREY)  # sliders that show shares in percent
STEP = {Kind.ROTATION: 1, Kind.CROP: 1, Kind.BLUR: 0.5, Kind.GREY: 5, Kind.QUALITY: 1}

# What a sweep was asked for is kept in the page. Where that changes, a sweep under way is cancelled and its figures go,
# which would be taken for those of the new query; events come late and twice, so they alone do not mean a change. The
# page does it, since the server's answer could come so late that it would take the figures of the next sweep.
ASKED = "const asked = JSON.stringify(values.map(value => value?.path ?? value));"
STARTED = f"""(...values) => {{
    const stopped = values.splice(-3)[0];
    {ASKED}
    document.getElementById("sweep").dataset.asked = asked;
    return [...values, stopped, {NOW}, document.body.classList.contains("dark")];
}}"""
FORGET = f"""(...values) => {{
    {ASKED}
    const button = document.getElementById("sweep");
    const update = changes => ({{ __type__: "update", ...changes }});
    if (!button?.dataset.asked || button.dataset.asked === asked) return [update(), update(), update()];
    delete button.dataset.asked;
    document.querySelector("button#sweep_forget, #sweep_forget button").click();
    return ["", update({{ visible: false }}), update({{ value: null, visible: false }})];
}}"""


class RobustnessTab:
    """Sliders, the picture they make, the hits of both pictures by each features, and a sweep of distortions."""

    def __init__(
        self, searcher: Searcher, panel: QueryPanel, thumbnails: Thumbnails, tab: gr.Tab, limits: Limits
    ) -> None:
        """Lay the tab out inside `tab`, and run it when it is opened and when query or sliders change in it."""
        self._searcher = searcher
        self._thumbnails = thumbnails
        self._limits = limits
        with gr.Row(elem_id="distortions"):
            with gr.Column(scale=5, min_width=280):
                self.sliders = [_slider(kind) for kind in Kind]
                self.reset = gr.Button(words.RESET, elem_id="reset")
            with gr.Column(scale=4, min_width=240):
                self.preview = gr.Image(
                    label=words.DISTORTED,
                    alt_text=words.about_distortion(UNDISTORTED),
                    height=300,
                    format="png",  # the marks of a JPEG are to be seen as they are
                    interactive=False,
                    buttons=[],
                    elem_id="distorted",
                )
                self.metric = gr.Dropdown(
                    [(words.METRICS[each], str(each)) for each in Metric],
                    value=str(Metric.COSINE),
                    label=words.METRIC_LABEL,
                    elem_id="robustness_metric",
                )
                self.top_k = gr.Slider(
                    1, TOP_K_MAX, value=TOP_K, step=1, label=words.TOP_K_LABEL, elem_id="robustness_top_k"
                )
        self.note = gr.Markdown(words.HINT, elem_id="robustness_note")
        self.figures: list[gr.Markdown] = []
        self.strips: list[gr.Gallery] = []
        for features in words.SWEPT_FEATURES:
            self.figures.append(
                gr.Markdown(
                    f"**{words.FEATURES[features]}**", elem_id=f"withstood_{features}", elem_classes="withstood"
                )
            )
            for which, name in (("undistorted", words.AS_IT_IS), ("distorted", words.AS_DISTORTED)):
                self.strips.append(
                    PictureStrip(
                        thumbnails,
                        label=f"{words.FEATURES[features]}, {name}",
                        columns=TOP_K,
                        elem_id=f"{which}_{features}",
                        elem_classes="strip hits labelled",
                    )
                )
        gr.Markdown(words.SWEEP_NOTE)
        with gr.Row():
            self.sweep_button = gr.Button(words.SWEEP, variant="primary", elem_id="sweep")
            self.cancel = gr.Button(words.CANCEL, elem_id="sweep_cancel", interactive=False)
        self.state = gr.Markdown(elem_id="sweep_state")
        with gr.Row():
            with gr.Column(scale=4, min_width=300):
                self.table = gr.Dataframe(
                    headers=words.sweep_columns(),
                    interactive=False,
                    label=words.SWEPT,
                    max_height=720,
                    wrap=True,
                    column_widths=["40%", "30%", "30%"],
                    elem_id="sweep_table",
                    visible=False,
                )
            with gr.Column(scale=5, min_width=300):
                self.plot = gr.Image(  # gr.Plot has no alternative text
                    label=words.SWEPT,
                    show_label=False,
                    format="png",
                    interactive=False,
                    buttons=[],
                    elem_id="sweep_plot",
                    visible=False,
                )
        self._wire(panel, tab)

    def _wire(self, panel: QueryPanel, tab: gr.Tab) -> None:
        opened, dark = gr.Checkbox(visible=False), gr.Checkbox(visible=False)  # set by the page itself
        toggles = [self.metric, self.top_k]
        changed = [*panel.asked, *panel.refined, self.metric.input, self.top_k.release]
        quiet: dict[str, Any] = {"api_visibility": "private", "show_progress": "minimal"}
        event: dict[str, Any] = {
            "fn": self.run,
            "inputs": [*panel.inputs, *self.sliders, *toggles, opened],
            "outputs": [self.note, self.preview, *self.figures, *self.strips],
            "trigger_mode": "always_last",
            "show_progress_on": self.note,
            **SEARCHES,
            **quiet,
        }
        tab.select(**event, js=OPENED)
        gr.on([*changed, *(slider.release for slider in self.sliders)], **event, js=if_open("distortions"))
        self.reset.click(_undistorted, None, self.sliders, **quiet).then(**event, js=OPENED)
        swept = [self.state, self.table, self.plot, self.cancel]
        stops = Stops()
        self.sweep_button.click(
            self.sweep,
            [*panel.inputs, *toggles, stops.stopped, stops.now, dark],
            swept,
            js=STARTED,
            show_progress_on=self.state,
            **LONG,
            **quiet,
        )
        self.cancel.click(**stops.event)
        # Beside Cancel, which can be clicked only once a sweep has begun to answer.
        gr.Button(visible="hidden", elem_id="sweep_forget").click(**stops.event)
        gr.on(changed, None, [*panel.inputs, *toggles], swept[:-1], js=FORGET, trigger_mode="multiple")
        gr.on(None, None, js=release_by_keys("distortions"))

    def run(self, *values: Any) -> Any:
        """Rank the query's picture as it is and distorted; without a picture, say kindly what to do."""
        *panel, rotation, crop, blur, grey, quality, metric, top_k, opened = values
        if not opened:
            return gr.skip()
        asked = Asked(*panel)
        if asked.picture is None:
            return self._empty(words.HINT if asked.nothing else words.ROBUSTNESS_WORDS)
        try:
            with as_shown():
                index, query = self._query(asked, metric, top_k)
                distortion = checked_distortion(rotation, crop / 100, blur / 100, grey / 100, quality)
                query = replace(query, distortion=distortion)
                picture = QueryPicture(self._searcher.embedder, index, query)
                result = measure(self._searcher, query, picture)
                preview = fit_within(distortion.apply(picture.undistorted), PREVIEW)
                self._thumbnails.serve(index)
                searched("robustness", result.by_features[0].distorted, query.top_k)
        except gr.Error as error:
            # Said in a toast and in words; raised, it would lie as "Error" over everything.
            gr.Warning(str(error.message))
            return self._empty(str(error.message))
        note = words.ROBUSTNESS_START if distortion == UNDISTORTED else words.ROBUSTNESS_NOTE
        return [
            f"{note} {words.WORDS_LEFT_OUT}" if (asked.text or "").strip() else note,
            gr.Image(value=preview, alt_text=words.about_distortion(distortion)),
            *self._shown(index, result),
        ]

    def sweep(self, *values: Any) -> Iterator[tuple[Any, ...]]:
        """Yield the table as it fills, then the plot and what the figures say; end when the visitor stops it."""
        *panel, metric, top_k, stopped, began, dark = values
        asked = Asked(*panel)
        if asked.picture is None:
            yield words.HINT if asked.nothing else words.ROBUSTNESS_WORDS, gr.skip(), gr.skip(), gr.skip()
            return
        try:
            with as_shown():
                index, query = self._query(asked, metric, top_k)
                yield from self._swept(index, query, stopped, began, dark)
        except gr.Error as error:
            gr.Warning(str(error.message))
            yield str(error.message), gr.Dataframe(visible=False), gr.Image(visible=False), gr.Button(interactive=False)

    def _swept(
        self, index: GalleryIndex, query: Query, stopped: Stopped, began: float, dark: bool
    ) -> Iterator[tuple[Any, ...]]:
        deadline = self._limits.deadline()
        halted = gr.skip(), gr.skip(), gr.Button(interactive=False)
        picture = QueryPicture(self._searcher.embedder, index, query)
        _ = picture.undistorted  # decoded first, so that a damaged image is reported before anything is shown
        done: list[Step] = []
        if ended(stopped, began):
            yield (gr.skip(),) * 4
            return
        yield (
            words.sweep_progress(0, STEPS),
            gr.Dataframe(value=words.sweep_rows(done), visible=True),
            gr.Image(value=None, visible=False),
            gr.Button(interactive=True),
        )
        for step in sweep(self._searcher, query, picture):
            if why := over(stopped, began, deadline):
                yield why, *halted
                return
            done.append(step)
            yield words.sweep_progress(len(done), STEPS), words.sweep_rows(done), gr.skip(), gr.skip()
        from retrieval.analysis.robustness_plot import plot_sweep  # with matplotlib, which the page starts without

        lesson = words.lesson(done)
        plot = gr.Image(value=plot_sweep(done, bool(dark)), alt_text=lesson, visible=True)
        if ended(stopped, began):
            yield words.STOPPED, *halted
            return
        yield lesson, words.sweep_rows(done), plot, gr.Button(interactive=False)

    def _query(self, asked: Asked, metric: object, top_k: object) -> tuple[GalleryIndex, Query]:
        index = self._searcher.indexes.get(asked.gallery or "")
        query = asked.query(index, with_words=False)
        return index, replace(query, metric=one_of(Metric, metric), top_k=checked_top_k(top_k))

    def _empty(self, note: str) -> list[Any]:
        image = gr.Image(value=None, alt_text=words.about_distortion(UNDISTORTED))
        names = (f"**{words.FEATURES[features]}**" for features in words.SWEPT_FEATURES)
        return [note, image, *names, *(gr.Gallery(value=[]) for _ in self.strips)]

    def _shown(self, index: GalleryIndex, result: Robustness) -> list[Any]:
        by_features = {each.distorted.features: each for each in result.by_features}
        results = [by_features[features] for features in words.SWEPT_FEATURES]
        strips = [
            strip
            for each in results
            for strip in (strip_of(index, each.undistorted), strip_of(index, each.distorted, each.moves))
        ]
        return [*(words.withstood(each) for each in results), *strips]


def _slider(kind: Kind) -> gr.Slider:
    low, high = (limit * (100 if kind in PERCENT else 1) for limit in LIMITS[kind])
    return gr.Slider(
        low,
        high,
        value=getattr(UNDISTORTED, kind),
        step=STEP[kind],
        label=words.SLIDERS[kind],
        elem_id=f"distort_{kind}",
    )


def _undistorted() -> list[float]:
    return [getattr(UNDISTORTED, kind) for kind in Kind]
