"""The images added to the query, as chips with a plus or a minus that visitors can turn around or remove."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
from typing_extensions import override

from retrieval.errors import PictureError
from retrieval.search.query import Added
from retrieval.search.validation import checked_added
from retrieval.storage.reader import GalleryIndex
from retrieval.ui.errors import as_shown
from retrieval.ui.scripts import beside
from retrieval.ui.widgets.picture_input import NOT_UPLOADED, uploaded
from retrieval.ui.widgets.thumbnails import FILES, Thumbnails

NAME_LENGTH = 80  # characters


@dataclass(frozen=True)
class AddedImage:
    """The file of an image, whether results should resemble it, and its name for the visitor."""

    file: str
    more: bool
    name: str


@dataclass(frozen=True)
class AddedImages:
    """Images added to the query image whose file is `of`; None if the query had no image."""

    of: str | None = None
    images: tuple[AddedImage, ...] = ()

    def to(self, picture: str | None) -> "AddedImages":
        """Return the images added to a query image: none of them if it is another one."""
        return self if self.of == picture else AddedImages(picture)

    def and_one(self, image: AddedImage) -> "AddedImages":
        """Return the images with one more, or with another sign if it is among them. Raise QueryError for too many."""
        others = tuple(each for each in self.images if each.file != image.file)
        return AddedImages(self.of, checked_added((*others, image)))

    def searched(self, index: GalleryIndex) -> tuple[Added, ...]:
        """Return them as parts of a query; images of the gallery are looked up, not embedded from their thumbnails."""
        found = []
        for each in self.images:
            path = Path(each.file)
            position = index.at_thumbnail(path)
            found.append(Added(path if position is None else None, position, each.more))
        return tuple(found)


class AddedInput(gr.HTML):
    """The chips of `AddedImages`; it triggers `change` when one is added, turned around or removed."""

    def __init__(self, thumbnails: Thumbnails, value: Any = None, **named: Any) -> None:
        self._thumbnails = thumbnails
        own: dict[str, Any] = {
            "html_template": beside(__file__, "added_input.html"),
            "css_template": beside(__file__, "added_input.css"),
            "js_on_load": beside(__file__, "added_input.js").replace("FILES", FILES),
            "elem_id": "added",
            "apply_default_css": False,
        }
        super().__init__(value=value, **(own | named))  # gradio passes all of them when it copies the component

    @override
    def preprocess(self, payload: Any) -> Any:
        with as_shown():
            if payload is None:
                return AddedImages()
            if not isinstance(payload, dict) or not isinstance(payload.get("images"), list):
                raise PictureError(NOT_UPLOADED)
            of = payload.get("of")
            images = checked_added(payload["images"])
            return AddedImages(str(self._thumbnails.file(of) or of) if of else None, tuple(map(self._image, images)))

    def _image(self, sent: Any) -> AddedImage:
        """Return an image that the browser sends, which may be anything."""
        if not isinstance(sent, dict):
            raise PictureError(NOT_UPLOADED)
        file = sent.get("file")
        path = self._thumbnails.file(file) or uploaded(file)
        return AddedImage(str(path), sent.get("more") is True, str(sent.get("name"))[:NAME_LENGTH])

    @override
    def postprocess(self, value: Any) -> Any:
        if not isinstance(value, AddedImages):
            return value
        images = [
            {"file": self._thumbnails.name(each.file), "more": each.more, "name": each.name} for each in value.images
        ]
        return {"of": value.of and self._thumbnails.name(value.of), "images": images}
