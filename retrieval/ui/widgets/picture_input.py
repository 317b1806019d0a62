"""The query image's component, which leaves reading the file to `retrieval.pictures.loading`."""

from pathlib import Path
from typing import Any

import gradio as gr
from gradio.blocks import Block
from gradio.utils import get_upload_folder
from typing_extensions import override

from retrieval.errors import PictureError
from retrieval.ui.errors import as_shown
from retrieval.ui.widgets.thumbnails import Shown, Thumbnails

NOT_UPLOADED = "That file was not uploaded here. Please upload it again."


class PictureInput(Shown, gr.Image):
    """A `gr.Image` that returns the path of the uploaded file, or of an image that the page shows.

    `gr.Image` itself decodes the file: it fails with a bare "Error" if the file is damaged, drops alpha, clips 16-bit
    images to white and ignores the EXIF orientation.
    """

    def __init__(self, thumbnails: Thumbnails, value: str | None = None, **named: Any) -> None:
        self._thumbnails = thumbnails
        super().__init__(value, **named)

    @override
    def get_block_name(self) -> str:
        return "image"  # gradio's front end for it

    @override
    def get_config(self, cls: type[Block] | None = None) -> dict[str, Any]:
        return super().get_config(gr.Image)  # gradio reads the configuration off the arguments of __init__

    @override
    def preprocess(self, payload: Any) -> str | None:
        if payload is None:
            return None
        with as_shown():
            return str(self._thumbnails.file(payload.path) or uploaded(payload.path))

    @override
    def postprocess(self, value: Any) -> Any:
        return super().postprocess(self._thumbnails.name(value) if isinstance(value, str) else value)


class UploadImage(gr.UploadButton):
    """A `gr.UploadButton` that returns the path of the uploaded file; gradio's would leave an empty file for each."""

    @override
    def get_block_name(self) -> str:
        return "uploadbutton"  # gradio's front end for it

    @override
    def preprocess(self, payload: Any) -> str | None:
        with as_shown():
            return None if payload is None else str(uploaded(payload.path))


def uploaded(name: object) -> Path:
    """Return the path of an uploaded file, or raise a `PictureError` if the name is not that of an uploaded file."""
    # gradio checks a path only if the caller marks it as one, so a caller could name any file of this server.
    if isinstance(name, str) and name and "\0" not in name:
        try:
            path = Path(name).resolve()
        except (OSError, ValueError) as error:  # too long, or not valid Unicode
            raise PictureError(NOT_UPLOADED) from error
        if path.is_relative_to(Path(get_upload_folder()).resolve()):
            return path
    raise PictureError(NOT_UPLOADED)
