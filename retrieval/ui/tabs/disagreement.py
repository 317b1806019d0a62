"""A section of the Search tab: images on which the two feature types that are shown disagree."""

from collections.abc import Iterator, Sequence
from weakref import WeakKeyDictionary

import gradio as gr

from retrieval.analysis.disagreement import TOP_K, Disagreement, Disagreements
from retrieval.features import FEATURES
from retrieval.metrics import Metric
from retrieval.search.validation import checked_features, one_of
from retrieval.storage.reader import GalleryIndex
from retrieval.ui.controls import PRIVATE, QUIET, cancel_button, lane_order
from retrieval.ui.errors import as_shown, warn
from retrieval.ui.query_panel import SKIP, Updates
from retrieval.ui.serving.limits import LONG
from retrieval.ui.tabs.stopping import NOW, Job, Stopped, Stops
from retrieval.ui.tabs.tab import TabContext
from retrieval.ui.widgets.thumbnails import PictureStrip

ABOUT = (
    "Searches with a sample of this gallery by the two feature types chosen above, and shows the images for which "
    "their results differ most. Click one to search with it."
)
TWO = "Choose exactly two feature types above, then try again."
SHOWN = 12  # images in a strip
STARTED = f"(...values) => [...values.slice(0, -1), {NOW}]"

Key = tuple[tuple[str, ...], Metric]


class DisagreementSection:
    """A collapsible section, and its job. What was found is kept as long as the index is in use."""

    def __init__(self, context: TabContext, features: gr.CheckboxGroup, metric: gr.Radio) -> None:
        self._searcher = context.searcher
        self._panel = context.panel
        self._thumbnails = context.thumbnails
        self._viewer = context.viewer
        self._limits = context.limits
        self._features = features
        self._known: WeakKeyDictionary[GalleryIndex, dict[Key, list[Disagreement]]] = WeakKeyDictionary()
        with gr.Accordion("Where do these two disagree?", open=False, elem_id="disagreement"):
            gr.Markdown(ABOUT)
            with gr.Row():
                self.button = gr.Button("Find images", variant="primary", elem_id="disagree")
                self.cancel = cancel_button("disagree_cancel")
            self.state = gr.Markdown(elem_id="disagreement_state")
            self.strips = [self._strip(number) for number in range(2)]
        self.pair = gr.State([])  # the feature types whose images are shown
        self._wire(metric)

    def _strip(self, number: int) -> gr.Gallery:
        return PictureStrip(
            self._thumbnails,
            label="Images",
            columns=SHOWN,
            elem_id=f"disagreement_{number}",
            elem_classes="strip hits labelled",
            visible=False,
        )

    def _wire(self, metric: gr.Radio) -> None:
        stops, panel = Stops(), self._panel
        self.button.click(**stops.event).then(
            self.run,
            inputs_kwargs={"gallery": panel.gallery, "features": self._features, "metric": metric, **stops.inputs},
            outputs=[self.state, self.pair, *self.strips, self.cancel],
            js=STARTED,
            trigger_mode="multiple",
            show_progress_on=self.state,
            **LONG,
            **PRIVATE,
        )
        self.cancel.click(**stops.event)
        for strip in self.strips:
            strip.select(self.take, [panel.gallery, self.pair], [panel.picture, self._features], **QUIET)
        panel.gallery.change(self._empty, None, [self.state, self.pair, *self.strips], **QUIET)

    def _empty(self) -> Updates:
        return {self.state: "", self.pair: [], **{strip: gr.Gallery(visible=False) for strip in self.strips}}

    def run(
        self, gallery: str | None, features: list[str], metric: str, stopped: Stopped, began: float
    ) -> Iterator[Updates]:
        """Yield the progress, then the images; end when the visitor stops it."""
        over = {self.cancel: gr.Button(interactive=False)}
        if len(features) != 2:
            yield self._empty() | over | {self.state: TWO}
            return
        try:
            with as_shown():
                names = lane_order([checked_features(each) for each in features])
                index = self._searcher.indexes.get(gallery or "")
                key = (tuple(names), one_of(Metric, metric))
                both = Disagreements(index, *key)
                both.found = list(self._known.get(index, {}).get(key, []))
                yield from self._found(both, Job(stopped, began, self._limits.deadline()))
        except gr.Error as error:
            yield self._empty() | over | {self.state: warn(error)}

    def _found(self, both: Disagreements, job: Job) -> Iterator[Updates]:
        if job.ended():
            yield SKIP
            return
        why = ""
        if not both.found:
            yield self._empty() | self._progress(both)
            for _ in both.run():
                if why := job.over():
                    break
                yield self._progress(both)
            else:
                self._known.setdefault(both.index, {})[both.features, both.metric] = both.found
        self._thumbnails.serve(both.index)
        yield {
            self.state: " ".join(filter(None, [why, _summary(both)])),
            self.pair: list(both.features),
            self.cancel: gr.Button(interactive=False),
            **self._shown(both),
        }

    def _progress(self, both: Disagreements) -> Updates:
        # Each answer switches Cancel on: one that comes while results are shown anew can get lost in the page.
        said = f"{len(both.found)} of {len(both)} images compared ..."
        return {self.state: said, self.cancel: gr.Button(interactive=True)}

    def _shown(self, both: Disagreements) -> Updates:
        if not both.labelled:
            title = f"The fewest of {TOP_K} results in common"
            found = [(title, both.least_shared(SHOWN)), ("", [])]
        else:
            names = [FEATURES[name].title for name in both.features]
            found = [(f"More correct results: {name}", both.strongest(at, SHOWN)) for at, name in enumerate(names)]
        return {
            strip: gr.Gallery(
                value=[(str(both.index.thumbnail(each.position)), _caption(each)) for each in images],
                label=title,
                visible=bool(images),
                selected_index=None,
            )
            for strip, (title, images) in zip(self.strips, found, strict=True)
        }

    def take(self, gallery: str | None, pair: list[str], chosen: gr.EventData) -> Updates:
        """Make an image the query, by the two feature types that were compared."""
        picture = self._viewer.taken(chosen, gallery)
        return {self._panel.picture: picture, self._features: pair} if picture else SKIP


def _caption(found: Disagreement) -> str:
    if found.correct is None:
        return f"{found.shared} in common"
    return f"{found.correct[0]} : {found.correct[1]}"


def _titles(features: Sequence[str]) -> str:
    return " and ".join(FEATURES[name].title for name in features)


def _summary(both: Disagreements) -> str:
    """Return how often each feature type is better, or how much the two have in common."""
    if not both.found:
        return ""
    count = f"{len(both.found):,} of {len(both.index):,} images compared"
    if not both.labelled:
        shared = sum(each.shared for each in both.found) / len(both.found)
        return f"{_titles(both.features)}: {shared:.1f} of {TOP_K} results in common on average ({count})."
    better = [len(both.better(at)) for at in range(2)]
    names = [FEATURES[name].title for name in both.features]
    equal = len(both.found) - sum(better)
    return (
        f"More correct results: {names[0]} for {better[0]} images, {names[1]} for {better[1]}; equal for {equal} "
        f"({count}). Below each image: correct of {TOP_K}, {names[0]} : {names[1]}."
    )
