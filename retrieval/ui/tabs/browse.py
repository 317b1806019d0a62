"""A section of the Search tab: the images of the gallery, class by class, to search with."""

from typing import Any

import gradio as gr
import numpy as np

from retrieval.analysis.explanation import name_of
from retrieval.ui.controls import QUIET, FeaturesDropdown
from retrieval.ui.errors import as_shown
from retrieval.ui.query_panel import LABELS_LISTED, Updates
from retrieval.ui.tabs.tab import TabContext, run_on
from retrieval.ui.widgets.thumbnails import PictureStrip

PAGE = 48  # images


class BrowseSection:
    """A collapsible section that shows a page of images at a time."""

    def __init__(self, context: TabContext) -> None:
        self._searcher = context.searcher
        self._panel = context.panel
        self._thumbnails = context.thumbnails
        self._viewer = context.viewer
        with gr.Accordion("Browse the gallery by class", open=False, elem_id="browse") as section:
            with gr.Row():
                self.label = FeaturesDropdown(
                    [], value=None, label="Class", elem_id="browse_class", min_width=240, scale=3
                )
                self.previous = gr.Button("Previous", elem_id="browse_previous", interactive=False, min_width=100)
                self.next = gr.Button("Next", elem_id="browse_next", interactive=False, min_width=100)
            self.state = gr.Markdown(elem_id="browse_state")
            self.strip = PictureStrip(
                self._thumbnails,
                label="Images of the gallery",
                show_label=False,
                columns=12,
                elem_id="browse_images",
                elem_classes="strip browse",
            )
        self.start = gr.State(0)  # number of the first image shown
        self._wire(section)

    def _wire(self, section: gr.Accordion) -> None:
        step = gr.Number(0, visible=False)  # set by the scripts
        event = run_on(
            self.run,
            [self.label.input, self._panel.gallery.input, self._panel.renewed.change],
            "browse_state",
            inputs_kwargs={
                "gallery": self._panel.gallery,
                "label": self.label,
                "start": self.start,
                "step": step,
            },
            outputs=[self.label, self.previous, self.next, self.state, self.strip, self.start],
            **QUIET,
        )
        section.expand(**event)
        for button, pages in ((self.previous, -1), (self.next, 1)):
            button.click(**event, js=f"(...values) => [...values.slice(0, -1), {pages}]")
        self.strip.select(self.take, self._panel.gallery, self._panel.picture, **QUIET)

    def run(self, gallery: str | None, label: object, start: int, step: float) -> Updates:
        """Show the first images of a class, or those after (`step` is 1) or before (-1) the ones shown."""
        with as_shown():
            index = self._searcher.indexes.get(gallery or "")
            classes = index.classes[:LABELS_LISTED]
            name = label if label in classes else next(iter(classes), "")
            positions = index.with_labels([name]) if name else np.arange(len(index))
            last = (len(positions) - 1) // PAGE * PAGE
            start = min(max(0, start + (PAGE if step > 0 else -PAGE)), last) if step and label == name else 0
            shown = positions[start : start + PAGE].tolist()
            self._thumbnails.serve(index)
            images = [(str(index.thumbnail(each.position)), name_of(each)) for each in index.entries(shown)]
        return {
            self.label: gr.Dropdown(choices=classes, value=name, visible=bool(classes)),
            self.previous: gr.Button(interactive=start > 0),
            self.next: gr.Button(interactive=start + PAGE < len(positions)),
            self.state: f"{start + 1:,} to {start + len(shown):,} of {len(positions):,} images",
            self.strip: gr.Gallery(value=images, selected_index=None),
            self.start: start,
        }

    def take(self, gallery: str | None, chosen: gr.EventData) -> Any:
        """Make an image the query. It comes from the visitor's browser, so it may be anything."""
        return self._viewer.taken(chosen, gallery) or gr.skip()
