"""The query, beside all tabs: a picture, words, what to leave out, which classes, and the way back."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from retrieval.analysis import sentences as words
from retrieval.features import FEATURES
from retrieval.search.query import KEEP_ALL, Query
from retrieval.search.searcher import Searcher
from retrieval.search.validation import checked_alike, checked_balance, checked_labels
from retrieval.storage.reader import GalleryIndex
from retrieval.ui.errors import as_shown
from retrieval.ui.widgets.picture_input import PictureInput
from retrieval.ui.widgets.region_input import RegionInput, drawn_region
from retrieval.ui.widgets.thumbnails import PictureStrip, Thumbnails

TRAIL_LENGTH = 8  # pictures one can go back to
ALIKE_FROM = 0.5  # below, pictures that have little in common would count as one
LABELS_LISTED = 1000  # a gallery with more classes is filtered through the API


@dataclass(frozen=True)
class Asked:
    """What the panel holds when an event fires; fields in the order of `QueryPanel.inputs`."""

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
        """Whether there is neither a picture nor a text."""
        return self.picture is None and not (self.text or "").strip()

    def query(self, index: GalleryIndex, with_words: bool = True) -> Query:
        """Return the query over a gallery, without its toggles; the words are left away where they do not apply."""
        return Query(
            picture=Path(self.picture) if self.picture else None,
            # A picture of the gallery is looked up, not embedded again from its thumbnail.
            position=index.at_thumbnail(Path(self.picture)) if self.picture else None,
            text=(self.text or "") if with_words else "",
            without=(self.without or "") if with_words else "",
            balance=checked_balance(self.balance),
            labels=checked_labels([label for label in self.labels or [] if label in index.classes]),
            alike=checked_alike(self.alike),
            region=drawn_region(self.region, self.picture),
            gallery=index.manifest.gallery,
        )


class QueryPanel:
    """Components of the query; what a visitor asked before is kept in that visitor's own state."""

    def __init__(self, searcher: Searcher, examples: Iterable[Path], thumbnails: Thumbnails) -> None:
        """Lay the panel out inside the Blocks that are being made."""
        self._searcher = searcher
        self._examples = sorted(examples)
        if self._examples:
            thumbnails.serve_folder(self._examples[0].parent, "examples")
        names = searcher.indexes.names()
        self.trail = gr.State([])
        self.renewed = gr.State(0)  # changes when another gallery, or another build of it, is put before the visitor
        self.picture = PictureInput(
            thumbnails,
            label=words.QUERY,
            sources=["upload", "webcam", "clipboard"],
            placeholder=words.DROP,
            alt_text=words.QUERY_ALT,
            height=280,
            buttons=["fullscreen"],
            elem_id="query",
        )
        self.region = RegionInput(thumbnails)
        self.text = gr.Textbox(
            value="", label=words.TEXT, placeholder=words.TEXT_EXAMPLE, max_length=500, elem_id="text", submit_btn=False
        )
        self.button = gr.Button(words.SEARCH, variant="primary", elem_id="search")
        self.trail_strip = _strip(thumbnails, [], words.TRAIL, "trail", visible=False)
        self.example_strip = _strip(
            thumbnails,
            [(str(path), path.stem.replace("-", " ")) for path in self._examples],
            words.EXAMPLES,
            "examples",
            visible=bool(self._examples),
        )
        with gr.Accordion(words.MORE, open=False, elem_id="more"):
            self.balance = gr.Slider(0, 1, value=0.5, step=0.05, label=words.BALANCE, elem_id="balance")
            self.without = gr.Textbox(value="", label=words.WITHOUT, max_length=500, elem_id="without")
            self.labels = gr.Dropdown(
                self._classes(names[0] if names else ""),
                value=[],
                multiselect=True,
                label=words.LABELS,
                elem_id="labels",
            )
            self.alike = gr.Slider(ALIKE_FROM, KEEP_ALL, value=KEEP_ALL, step=0.01, label=words.ALIKE, elem_id="alike")
        self.gallery = gr.Dropdown(
            names,
            value=names[0] if names else None,
            label=words.GALLERY_LABEL,
            visible=len(names) > 1,
            elem_id="gallery",
        )
        self.inputs = [self.picture, self.text, self.without, self.balance, self.labels]
        self.inputs += [self.alike, self.region, self.gallery]
        self._wire()

    @property
    def asked(self) -> list[Any]:
        """The events by which a visitor asks something new."""
        # Of all events of a picture only `change` comes after its file has arrived, however it was chosen; it may
        # come twice, and the second search finds the vector remembered.
        return [self.picture.change, self.text.submit, self.without.submit, self.button.click]

    @property
    def refined(self) -> list[Any]:
        """The events by which a visitor changes what counts for the same query."""
        return [
            self.labels.input,
            self.balance.input,
            self.alike.input,
            self.region.input,
            self.gallery.input,
            self.renewed.change,
        ]

    @property
    def offered(self) -> list[Any]:
        """What `offer` sets."""
        return [self.gallery, self.labels, self.renewed]

    def offer(self, name: str, number: int) -> tuple[gr.Dropdown, gr.Dropdown, int]:
        """Return the galleries there are with one of them chosen, its classes, and what starts the search anew.

        Args:
            name: the gallery.
            number: another one than the time before.
        """
        return self._galleries(name), gr.Dropdown(choices=self._classes(name), value=[]), number

    def _galleries(self, chosen: str) -> gr.Dropdown:
        names = self._searcher.indexes.names()
        return gr.Dropdown(choices=names, value=chosen, visible=len(names) > 1)

    def _wire(self) -> None:
        quiet: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
        self.gallery.input(self._new_gallery, self.gallery, self.labels, **quiet)
        self.example_strip.select(self._take_example, outputs=self.picture, **quiet)
        self.trail_strip.select(self._take_back, self.trail, self.picture, **quiet)

    def remember(self, trail: list[str], picture: str | None) -> tuple[list[str], gr.Gallery]:
        """Return the visitor's trail with the picture at its end, and its strip; one picture is no trail yet."""
        if picture and (not trail or trail[-1] != picture):
            trail = [*(each for each in trail if each != picture), picture][-TRAIL_LENGTH:]
        pictures = [(path, f"{words.STEP} {step}") for step, path in enumerate(trail, start=1)]
        return trail, gr.Gallery(value=pictures, visible=len(trail) > 1, selected_index=None)

    def words_allowed(self, allowed: bool, **values: Any) -> tuple[gr.Textbox, gr.Textbox, gr.Slider]:
        """Return the words' boxes on, or off with the reason, and with values for them by their names, if any."""
        info = None if allowed else words.WORDS_OFF
        given = {name: {"value": value} for name, value in values.items()}
        return (
            gr.Textbox(interactive=allowed, info=info, **given.get("text", {})),
            gr.Textbox(interactive=allowed, info=info, **given.get("without", {})),
            gr.Slider(interactive=allowed, **given.get("balance", {})),
        )

    def restored(self, query: Query, index: GalleryIndex) -> list[Any]:
        """Return values for `inputs` that show a query; the words' boxes are on where they count."""
        picture = None if query.position is None else str(index.thumbnail(query.position))
        boxes = self.words_allowed(
            FEATURES[query.features].takes_text, text=query.text, without=query.without, balance=query.balance
        )
        return [
            picture,
            *boxes,
            gr.Dropdown(
                choices=list(dict.fromkeys([*self._classes(index.manifest.gallery), *query.labels])),
                value=list(query.labels),
            ),
            max(query.alike, ALIKE_FROM),
            picture and query.region and {"of": picture, "box": query.region},
            self._galleries(index.manifest.gallery),
        ]

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


def _strip(
    thumbnails: Thumbnails, pictures: list[tuple[str, str]], label: str, elem_id: str, visible: bool
) -> gr.Gallery:
    """Return a strip of small pictures to click."""
    return PictureStrip(
        thumbnails,
        pictures,
        label=label,
        columns=10,
        elem_id=elem_id,
        elem_classes="strip",
        visible=visible,
    )
