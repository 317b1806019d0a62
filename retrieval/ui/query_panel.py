"""The query, beside all tabs: an image, a text, what to exclude, which classes, and the recent queries."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import gradio as gr

from retrieval.features import FEATURES
from retrieval.search.query import KEEP_ALL, Query
from retrieval.search.searcher import Searcher
from retrieval.search.validation import checked_alike, checked_balance, checked_labels
from retrieval.storage.reader import GalleryIndex
from retrieval.ui.controls import QUIET, text_needs
from retrieval.ui.errors import as_shown
from retrieval.ui.widgets.picture_input import PictureInput
from retrieval.ui.widgets.region_input import RegionInput, drawn_region
from retrieval.ui.widgets.thumbnails import PictureStrip, Thumbnails

TRAIL_LENGTH = 8  # recent queries
ALIKE_FROM = 0.5  # below this similarity, images that have little in common would count as near-duplicates
LABELS_LISTED = 1000  # a gallery with more classes is filtered through the API
MAX_TEXT = 500  # characters

HINT = "**Choose an image to start:** drop one, click an example, or describe it."

Updates = dict[Any, Any]  # component -> its new value
SKIP: Updates = gr.skip()  # changes no component


@dataclass(frozen=True)
class Asked:
    """The values of the panel when an event fires; `QueryPanel.inputs` has a component for each field."""

    picture: str | None
    text: str | None
    without: str | None
    balance: float
    labels: list[str] | None
    alike: float
    region: Any
    gallery: str | None

    @property
    def nothing(self) -> bool:
        """Whether there is neither an image nor a text."""
        return self.picture is None and not (self.text or "").strip()

    @property
    def hint(self) -> str:
        """What to do if there is no image, and no text or a text that these features cannot search with."""
        return HINT if self.nothing else f"**Choose an image:** {text_needs()}"

    def query(self, index: GalleryIndex, with_text: bool = True) -> Query:
        """Return the query over a gallery, with defaults for the toggles."""
        return Query(
            picture=Path(self.picture) if self.picture else None,
            # An image of the gallery is looked up, not embedded again from its thumbnail.
            position=index.at_thumbnail(Path(self.picture)) if self.picture else None,
            text=(self.text or "") if with_text else "",
            without=(self.without or "") if with_text else "",
            balance=checked_balance(self.balance),
            labels=checked_labels([label for label in self.labels or [] if label in index.classes]),
            alike=checked_alike(self.alike),
            region=drawn_region(self.region, self.picture),
            gallery=index.manifest.gallery,
        )


class QueryPanel:
    """The components of the query; recent queries are kept in each visitor's own state."""

    def __init__(self, searcher: Searcher, examples: Iterable[Path], thumbnails: Thumbnails) -> None:
        self._searcher = searcher
        self._examples = sorted(examples)
        if self._examples:
            thumbnails.serve_folder(self._examples[0].parent, "examples")
        self.trail = gr.State([])
        self.renewed = gr.State(0)  # changes when the visitor is shown another gallery, or another build of it
        self.picture = PictureInput(
            thumbnails,
            label="Query image",
            sources=["upload", "webcam", "clipboard"],
            placeholder="Drop an image here, paste one, or click to choose",
            alt_text="The query image",
            height=280,
            buttons=["fullscreen"],
            elem_id="query",
        )
        self.region = RegionInput(thumbnails)
        self.text = gr.Textbox(
            value="",
            label="Describe it",
            placeholder="for example: red fruit",
            max_length=MAX_TEXT,
            elem_id="text",
            submit_btn=False,
        )
        self.button = gr.Button("Search", variant="primary", elem_id="search")
        self.trail_strip = _strip(thumbnails, [], "Recent queries", "trail")
        examples_shown = [(str(path), path.stem.replace("-", " ")) for path in self._examples]
        self.example_strip = _strip(thumbnails, examples_shown, "Or try one of these", "examples")
        names = searcher.indexes.names()
        with gr.Accordion("Advanced", open=False, elem_id="more"):
            self._lay_out_advanced(names)
        first = names[0] if names else None
        self.gallery = gr.Dropdown(names, value=first, label="Gallery", visible=len(names) > 1, elem_id="gallery")
        self._wire()

    def _lay_out_advanced(self, names: list[str]) -> None:
        balance = "Image-text balance (0: image only, 1: text only)"
        self.balance = gr.Slider(0, 1, value=0.5, step=0.05, label=balance, elem_id="balance")
        self.without = gr.Textbox(value="", label="Exclude", max_length=MAX_TEXT, elem_id="without")
        classes = self._classes(names[0] if names else "")
        self.labels = gr.Dropdown(classes, value=[], multiselect=True, label="Only these classes", elem_id="labels")
        alike = "Hide near-duplicates above this similarity (1: show all)"
        self.alike = gr.Slider(ALIKE_FROM, KEEP_ALL, value=KEEP_ALL, step=0.01, label=alike, elem_id="alike")

    @property
    def inputs(self) -> dict[str, Any]:
        """The components by the names of the fields of `Asked`."""
        return {field.name: getattr(self, field.name) for field in fields(Asked)}

    @property
    def asked(self) -> list[Any]:
        """The events by which a visitor asks something new."""
        # Only `change` comes after the file has arrived, however the image was chosen. It may come twice; the second
        # search then finds the vector in the cache.
        return [self.picture.change, self.text.submit, self.without.submit, self.button.click]

    @property
    def refined(self) -> list[Any]:
        """The events by which a visitor changes the conditions of the same query."""
        conditions: list[Any] = [self.labels, self.balance, self.alike, self.region, self.gallery]
        return [*(each.input for each in conditions), self.renewed.change]

    @property
    def offered(self) -> list[Any]:
        """The components that `offer` sets."""
        return [self.gallery, self.labels, self.renewed]

    def offer(self, name: str, number: int) -> Updates:
        """Choose a gallery and search it; `number` must be new each time, since its change starts the search."""
        return {
            self.gallery: self.galleries(name),
            self.labels: gr.Dropdown(choices=self._classes(name), value=[]),
            self.renewed: number,
        }

    def galleries(self, chosen: str | None = None) -> gr.Dropdown:
        """Return the current list of galleries, without changing the visitor's choice if `chosen` is None."""
        names = self._searcher.indexes.names()
        value: dict[str, Any] = {} if chosen is None else {"value": chosen}
        return gr.Dropdown(choices=names, visible=len(names) > 1, **value)

    def _wire(self) -> None:
        self.gallery.input(self._new_gallery, self.gallery, self.labels, **QUIET)
        self.example_strip.select(self._take_example, outputs=self.picture, **QUIET)
        self.trail_strip.select(self._take_back, self.trail, self.picture, **QUIET)

    def remember(self, trail: list[str], picture: str | None) -> Updates:
        """Append an image to the visitor's recent queries, whose strip is shown if there are at least two."""
        if picture and (not trail or trail[-1] != picture):
            trail = [*(each for each in trail if each != picture), picture][-TRAIL_LENGTH:]
        pictures = [(path, f"query {step}") for step, path in enumerate(trail, start=1)]
        strip = gr.Gallery(value=pictures, visible=len(trail) > 1, selected_index=None)
        return {self.trail: trail, self.trail_strip: strip}

    @property
    def text_boxes(self) -> list[Any]:
        """The components that `text_allowed` sets."""
        return [self.text, self.without, self.balance]

    def text_allowed(self, features: str, query: Query | None = None) -> Updates:
        """Switch the text boxes on, or off with the reason, and fill in the text of a query if one is given."""
        allowed = features in FEATURES and FEATURES[features].takes_text
        info = None if allowed else f"Off: {text_needs()}"

        def value(of: str) -> Mapping[str, Any]:
            return {} if query is None else {"value": getattr(query, of)}

        return {
            self.text: gr.Textbox(interactive=allowed, info=info, **value("text")),
            self.without: gr.Textbox(interactive=allowed, info=info, **value("without")),
            self.balance: gr.Slider(interactive=allowed, **value("balance")),
        }

    def restored(self, query: Query, index: GalleryIndex) -> Updates:
        """Return the values of all `inputs` that show a query."""
        picture = None if query.position is None else str(index.thumbnail(query.position))
        classes = self._classes(index.manifest.gallery)
        return {
            self.picture: picture,
            **self.text_allowed(query.features, query),
            self.labels: gr.Dropdown(choices=list(dict.fromkeys([*classes, *query.labels])), value=list(query.labels)),
            self.alike: max(query.alike, ALIKE_FROM),
            self.region: picture and query.region and {"of": picture, "box": query.region},
            self.gallery: self.galleries(index.manifest.gallery),
        }

    def _classes(self, gallery: str) -> list[str]:
        if not self._searcher.indexes.names():
            return []
        return self._searcher.indexes.get(gallery).classes[:LABELS_LISTED]

    def _new_gallery(self, gallery: str | None) -> gr.Dropdown:
        with as_shown():
            return gr.Dropdown(choices=self._classes(gallery or ""), value=[])

    def _take_example(self, chosen: gr.SelectData) -> str:
        return str(self._examples[chosen.index])

    def _take_back(self, trail: list[str], chosen: gr.SelectData) -> Any:
        return trail[chosen.index] if chosen.index < len(trail) else gr.skip()


def _strip(thumbnails: Thumbnails, pictures: list[tuple[str, str]], label: str, elem_id: str) -> gr.Gallery:
    return PictureStrip(
        thumbnails, pictures, label=label, columns=10, elem_id=elem_id, elem_classes="strip", visible=bool(pictures)
    )
