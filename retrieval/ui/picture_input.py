"""The query picture's component: hands the file on as it came, so that `retrieval.images` alone judges it."""

from pathlib import Path
from typing import Any

import gradio as gr
from gradio.utils import get_upload_folder, is_static_file

from retrieval import words
from retrieval.errors import PictureError
from retrieval.ui.errors import as_shown


class PictureInput(gr.Image):
    """gr.Image whose function gets the path of the uploaded file, untouched.

    The stock component decodes the file itself: it fails with a bare "Error" on a damaged one, drops alpha,
    clips 16-bit pictures to white and skips EXIF orientation.
    """

    is_template = True  # the stock frontend is used

    def preprocess(self, payload: Any) -> str | None:
        """Return the path of the file, which gradio has put into its own cache, or None."""
        if payload is None:
            return None
        with as_shown():
            return str(uploaded(payload.path))


def uploaded(name: object) -> Path:
    """Return the path of a file that a visitor names, if it was uploaded here or is served to everyone.

    gradio checks a path only where the caller says that it is one; any other caller could name any file here.

    Raises:
        PictureError: it is any other file, or no name of one.
    """
    if isinstance(name, str) and name and "\0" not in name:
        path = Path(name).resolve()
        if path.is_relative_to(Path(get_upload_folder()).resolve()) or is_static_file(path):
            return path
    raise PictureError(words.NO_FILE)
