"""The query, beside all tabs: images, a text, what to exclude, which classes, and the recent queries."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import gradio as gr

from retrieval.analysis.explanation import name_of
from retrieval.errors import IndexingError
from retrieval.search.query import KEEP_ALL, Query
from retrieval.search.searcher import Searcher
from retrieval.search.terms import MAX_TEXT
from retrieval.search.validation import checked_alike, checked_balance, checked_labels
from retrieval.storage.catalog import Indexes
from retrieval.storage.reader import GalleryIndex
from retrieval.ui.controls import QUIET
from retrieval.ui.errors import as_shown, warn
from retrieval.ui.examples import Example, examples_of, queries_folder
from retrieval.ui.widgets.added_input import NAME_LENGTH, AddedImage, AddedImages, AddedInput
from retrieval.ui.widgets.picture_input import PictureInput, UploadImage
from retrieval.ui.widgets.region_input import RegionInput, drawn_region
from retrieval.ui.widgets.thumbnails import PictureStrip, Thumbnails

TRAIL_LENGTH = 8  # recent queries
ALIKE_FROM = 0.5  # below this similarity, images that have little in common would count as near-duplicates
LABELS_LISTED = 1000  # a gallery with more classes is filtered through the API

HINT = "Choose an image to start: drop one, take an example, or describe it."

Updates = dict[Any, Any]  # component -> its new value
SKIP: Updates = gr.skip()  # changes no component


@dataclass(frozen=True)
class Asked:
    """The values of the panel when an event fires; `QueryPanel.inputs` has a component for each field."""

    picture: str | None
    added: AddedImages
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
        return self.picture is None and not self.added.to(None).images and not (self.text or "").strip()

    def hint(self, index: GalleryIndex) -> str:
        """Return what to do if there is no image, and no text or a text that these features cannot search with."""
        return HINT if self.nothing else f"Choose an image: {index.text_needs}"

    def query(self, index: GalleryIndex, with_text: bool = True) -> Query:
        """Return the query over a gallery, with defaults for the toggles."""
        return Query(
            picture=Path(self.picture) if self.picture else None,
            # An image of the gallery is looked up, not embedded again from its thumbnail.
            position=index.at_thumbnail(Path(self.picture)) if self.picture else None,
            added=self.added.to(self.picture).searched(index),
            text=(self.text or "") if with_text else "",
            without=(self.without or "") if with_text else "",
            balance=checked_balance(self.balance),
            labels=checked_labels([label for label in self.labels or [] if label in index.classes]),
            alike=checked_alike(self.alike),
            region=drawn_region(self.region, self.picture),
            gallery=index.manifest.gallery,
        )


def gallery_choices(indexes: Indexes) -> list[tuple[str, str]]:
    """Return the galleries with their sizes, for a list of choices."""
    choices = []
    for name in indexes.names():
        try:
            choices.append((f"{name} ({indexes.get(name).manifest.pictures:,} images)", name))
        except IndexingError:
            choices.append((f"{name} (damaged)", name))
    return choices


def gallery_choice(searcher: Searcher) -> gr.Dropdown:
    """Return the choice of a gallery."""
    choices = gallery_choices(searcher.indexes)
    first = choices[0][1] if choices else None
    return gr.Dropdown(
        choices,
        value=first,
        label="Gallery",
        show_label=False,
        container=False,
        elem_id="gallery",
        min_width=240,
        scale=0,
    )


class QueryPanel:
    """The components of the query; recent queries are kept in each visitor's own state."""

    def __init__(self, searcher: Searcher, thumbnails: Thumbnails, gallery: gr.Dropdown) -> None:
        self._searcher = searcher
        self._thumbnails = thumbnails
        self.gallery = gallery
        # An entry lasts as long as its index is in use.
        self._offered: WeakKeyDictionary[GalleryIndex, list[Example]] = WeakKeyDictionary()
        self.trail = gr.State([])
        # Changes when the visitor is shown another gallery or build of it, or another search by its address.
        self.renewed = gr.State(0)
        self.picture = PictureInput(
            thumbnails,
            label="Query image",
            sources=["upload", "webcam", "clipboard"],
            placeholder="Drop or paste an image here, or choose a file",
            alt_text="The query image",
            height=210,
            buttons=["fullscreen"],
            elem_id="query",
        )
        with gr.Row(elem_id="parts"):
            self.region = RegionInput(thumbnails)
            self.add_image = UploadImage("Add image", file_types=["image"], size="sm", elem_id="add_image")
        self.added = AddedInput(thumbnails)
        with gr.Row(elem_id="choose"):
            self.upload = UploadImage("Upload image", size="md", elem_id="upload", min_width=110)
            self.surprise = gr.Button("Surprise me", size="md", elem_id="surprise", min_width=110)
        with gr.Row(elem_id="describe"):
            self.text = gr.Textbox(
                value="",
                label="Add a text, or search by text alone",
                show_label=False,
                container=False,
                placeholder="Or describe it: red fruit",
                max_length=MAX_TEXT,
                elem_id="text",
                submit_btn=False,
                scale=3,
                min_width=120,
            )
            self.button = gr.Button("Search", variant="primary", elem_id="search", size="md", scale=1, min_width=80)
        self.example_strip = _strip(thumbnails, self._examples_shown(gallery.value), "Try one of these", "examples")
        # Hidden by the style sheet unless there are both an image and a text; below what must not move when it appears.
        balance = "Balance (0: image only, 1: text only)"
        self.balance = gr.Slider(0, 1, value=0.5, step=0.05, label=balance, elem_id="balance")
        with gr.Accordion("Advanced", open=False, elem_id="more") as self.advanced:
            self._lay_out_advanced()
        self.trail_strip = _strip(thumbnails, [], "Recent queries", "trail")
        self.turn = gr.Number(0, visible="hidden")  # of the searches, which also run while their tab is not shown
        self._wire()

    def _lay_out_advanced(self) -> None:
        self.without = gr.Textbox(value="", label="Exclude", max_length=MAX_TEXT, elem_id="without")
        self.labels = gr.Dropdown(
            self._classes(self.gallery.value), value=[], multiselect=True, label="Only these classes", elem_id="labels"
        )
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
        return [*(each.input for each in conditions), self.added.change, self.renewed.change]

    @property
    def offered(self) -> list[Any]:
        """The components that `offer` sets."""
        return [self.gallery, self.labels, self.example_strip, self.renewed]

    def offer(self, name: str, number: int) -> Updates:
        """Choose a gallery and search it; `number` must be new each time, since its change starts the search."""
        return {
            self.gallery: self.galleries(name),
            **self._of_gallery(name),
            self.renewed: number,
        }

    def galleries(self, chosen: str | None = None) -> gr.Dropdown:
        """Return the current list of galleries, without changing the visitor's choice if `chosen` is None."""
        value: dict[str, Any] = {} if chosen is None else {"value": chosen}
        return gr.Dropdown(choices=gallery_choices(self._searcher.indexes), **value)

    def _wire(self) -> None:
        self.gallery.input(self._new_gallery, self.gallery, [self.labels, self.example_strip], **QUIET)
        self.upload.upload(lambda path: path, self.upload, self.picture, **QUIET)
        self.picture.change(self._start_anew, [self.added, self.picture], self.added, **QUIET)
        self.add_image.upload(self._add_upload, [self.added, self.picture, self.add_image], self.added, **QUIET)
        self.surprise.click(self._take_any, self.gallery, self.picture, **QUIET)
        self.example_strip.select(self._take_example, self.gallery, self.picture, trigger_mode="always_last", **QUIET)
        self.trail_strip.select(self._take_back, self.trail, self.picture, trigger_mode="always_last", **QUIET)

    def add_item(
        self, added: AddedImages, picture: str | None, index: GalleryIndex, position: int, more: bool
    ) -> AddedImages:
        """Return the images added to a query image with an item that results should resemble, or not (`more`)."""
        return _with(added.to(picture), _shown(index, position, more))

    def _add_upload(self, added: AddedImages, picture: str | None, path: str | None) -> Any:
        if path is None:
            return gr.skip()
        return _with(added.to(picture), AddedImage(path, True, Path(path).stem[:NAME_LENGTH]))

    def _start_anew(self, added: AddedImages, picture: str | None) -> Any:
        """Remove the images that were added to another query image."""
        return gr.skip() if added.of == picture or not added.images else AddedImages(picture)

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

    def text_allowed(self, features: Sequence[str], index: GalleryIndex, query: Query | None = None) -> Updates:
        """Switch the text boxes on, or off with the reason, and fill in the text of a query if one is given."""
        allowed = any(index.supports_text(name) for name in features)
        info = None if allowed else f"Off: {index.text_needs}"

        def value(of: str) -> Mapping[str, Any]:
            return {} if query is None else {"value": getattr(query, of)}

        return {
            self.text: gr.Textbox(interactive=allowed, info=info, **value("text")),
            self.without: gr.Textbox(interactive=allowed, info=info, **value("without")),
            self.balance: gr.Slider(interactive=allowed, **value("balance")),
        }

    @property
    def restorable(self) -> list[Any]:
        """The components that `restored` sets."""
        return [*self.inputs.values(), self.example_strip]

    def restored(self, query: Query, features: Sequence[str], index: GalleryIndex, picture: str | None) -> Updates:
        """Return updates that show a query; `picture` is the file of its image."""
        added = tuple(_shown(index, each.position, each.more) for each in query.added if each.position is not None)
        gallery = index.manifest.gallery
        return {
            **self._of_gallery(gallery),
            self.picture: picture,
            self.added: AddedImages(picture, added),
            **self.text_allowed(features, index, query),
            self.labels: gr.Dropdown(
                choices=list(dict.fromkeys([*self._classes(gallery), *query.labels])), value=list(query.labels)
            ),
            self.alike: max(query.alike, ALIKE_FROM),
            self.region: picture and query.region and {"of": picture, "box": query.region},
            self.gallery: self.galleries(gallery),
        }

    def _index(self, gallery: object) -> GalleryIndex | None:
        """Return the index of the chosen gallery, or None if there is no gallery at all."""
        indexes = self._searcher.indexes
        return indexes.get(str(gallery or "")) if indexes.names() else None

    def _classes(self, gallery: object) -> list[str]:
        index = self._index(gallery)
        return index.classes[:LABELS_LISTED] if index else []

    def _examples(self, gallery: object) -> list[Example]:
        index = self._index(gallery)
        if index is None:
            return []
        if index not in self._offered:
            self._offered[index] = self._served_examples(index)
        return self._offered[index]

    def _served_examples(self, index: GalleryIndex) -> list[Example]:
        self._thumbnails.serve(index)
        if folder := queries_folder(index):
            self._thumbnails.serve_folder(folder, f"examples/{index.manifest.gallery}")
        return examples_of(index)

    def _examples_shown(self, gallery: object) -> list[tuple[str, str]]:
        return [(str(each.path), each.name) for each in self._examples(gallery)]

    def opening(self, gallery: str, key: str | None = None, only: bool = False) -> str | None:
        """Return the example of a gallery to begin with: the one with this key, else the first, or none if `only`."""
        examples = self._examples(gallery)
        chosen = [each for each in examples if each.key == key] or ([] if only else examples)
        return str(chosen[0].path) if chosen else None

    def example(self, query: Query, index: GalleryIndex) -> Example:
        """Return the query's image as an example; its name, label and note are empty if they are unknown."""
        if query.position is not None:
            entry = index.entry(query.position)
            return Example(index.thumbnail(query.position), entry.caption, entry.label)
        known = {each.path: each for each in self._examples(index.manifest.gallery)}
        path = query.picture if isinstance(query.picture, Path) else Path()
        return known.get(path, Example(path, "", ""))

    def _of_gallery(self, gallery: object) -> Updates:
        return {
            self.labels: gr.Dropdown(choices=self._classes(gallery), value=[]),
            self.example_strip: gr.Gallery(value=self._examples_shown(gallery), selected_index=None),
        }

    def _new_gallery(self, gallery: str | None) -> Updates:
        with as_shown():
            return self._of_gallery(gallery)

    def _take_example(self, gallery: str | None, chosen: gr.SelectData) -> Any:
        with as_shown():
            examples = self._examples(gallery)
        return str(examples[chosen.index].path) if chosen.index < len(examples) else gr.skip()

    def _take_any(self, gallery: str | None) -> str:
        """Return a random image of the gallery."""
        with as_shown():
            index = self._searcher.indexes.get(gallery or "")
            self._thumbnails.serve(index)
            return str(index.thumbnail(random.randrange(len(index))))  # nothing depends on it

    def _take_back(self, trail: list[str], chosen: gr.SelectData) -> Any:
        return trail[chosen.index] if chosen.index < len(trail) else gr.skip()


def _shown(index: GalleryIndex, position: int, more: bool) -> AddedImage:
    return AddedImage(str(index.thumbnail(position)), more, name_of(index.entry(position))[:NAME_LENGTH])


def _with(added: AddedImages, image: AddedImage) -> AddedImages:
    """Return the images with one more, or unchanged with a warning if there are too many."""
    try:
        with as_shown():
            return added.and_one(image)
    except gr.Error as error:
        warn(error)
        return added


def _strip(thumbnails: Thumbnails, pictures: list[tuple[str, str]], label: str, elem_id: str) -> gr.Gallery:
    return PictureStrip(
        thumbnails, pictures, label=label, columns=10, elem_id=elem_id, elem_classes="strip", visible=bool(pictures)
    )
