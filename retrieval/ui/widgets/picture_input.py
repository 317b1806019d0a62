"""The query picture's component: hands the file on as it came, so that `retrieval.pictures.loading` alone judges it."""

from pathlib import Path
from typing import Any

import gradio as gr
from gradio.utils import get_upload_folder

from retrieval.errors import PictureError
from retrieval.ui.errors import as_shown
from retrieval.ui.widgets.thumbnails import Shown, Thumbnails

NO_FILE = "That file was not uploaded here. Please upload it again."


class PictureInput(Shown, gr.Image):
    """gr.Image whose function gets the path of the uploaded file, untouched, or of a picture that the page shows.

    The stock component decodes the file itself: it fails with a bare "Error" on a damaged one, drops alpha,
    clips 16-bit pictures to white and skips EXIF orientation.
    """

    def __init__(self, thumbnails: Thumbnails, value: str | None = None, **named: Any) -> None:
        """Take what knows the names of pictures that are shown, and what gr.Image takes."""
        self._thumbnails = thumbnails
        super().__init__(value, **named)

    def get_block_name(self) -> str:
        """Return the stock frontend's name."""
        return "image"

    def get_config(self, cls: Any = None) -> dict[str, Any]:
        """Return the stock component's configuration: gradio takes what there is from the arguments of __init__."""
        return super().get_config(gr.Image)

    def preprocess(self, payload: Any) -> str | None:
        """Return the path of the file, or None."""
        if payload is None:
            return None
        with as_shown():
            return str(self._thumbnails.file(payload.path) or uploaded(payload.path))

    def postprocess(self, value: Any) -> Any:
        """Return what the frontend shows: a file by its name."""
        return super().postprocess(self._thumbnails.name(value) if isinstance(value, str) else value)


def uploaded(name: object) -> Path:
    """Return the path of a file that a visitor names, if it was uploaded here.

    gradio checks a path only where the caller says that it is one; any other caller could name any file here.

    Raises:
        PictureError: it is any other file, or no name of one.
    """
    if isinstance(name, str) and name and "\0" not in name:
        path = Path(name).resolve()
        if path.is_relative_to(Path(get_upload_folder()).resolve()):
            return path
    raise PictureError(NO_FILE)
