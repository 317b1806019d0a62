"""Arguments of the HTTP API and of the MCP tools: what callers are told of each, and how a picture is taken."""

import base64
import binascii
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from gradio.components.api_component import Api

from retrieval import words
from retrieval.errors import PictureError
from retrieval.ui.errors import as_shown
from retrieval.ui.picture_input import uploaded

# What gradio's own helper for MCP clients, `gradio upload-mcp`, puts before the path of a file that it uploaded.
UPLOADED = "/gradio_api/file="


class Argument(Api):
    """A value of an endpoint with no place on the page, described by a JSON schema of its own."""

    is_template = True  # gr.Api's frontend, which is none

    def __init__(self, name: str, value: Any, **schema: Any) -> None:
        """Take the name, the default (None: none) and the JSON schema."""
        super().__init__(value, _api_info=schema, label=name)


class PictureArgument(Argument):
    """A picture: an uploaded file, as gr.Image takes it, or the bytes of one in base64.

    To MCP it is a plain text. As a file in gradio's schema it would be described to models as an address to fetch,
    and what they send would be turned into files before anything here could look at it.
    """

    def __init__(self, name: str, value: str | None = None) -> None:
        """Take the name and the default: None where a call without a picture makes no sense, else an empty text."""
        super().__init__(name, value, type="string", additional_description=words.PICTURE_ARGUMENT)

    def preprocess(self, payload: Any) -> Path | bytes | None:
        """Return the path of the uploaded file, or the bytes; None if there is no picture."""
        if not payload:
            return None
        with as_shown(html_safe=False):
            if isinstance(payload, dict):
                return uploaded(payload.get("path"))
            if isinstance(payload, str):
                _, found, path = payload.partition(UPLOADED)
                return uploaded(unquote(path)) if found else from_base64(payload)
            raise PictureError(words.NO_FILE)

    def example_payload(self) -> Any:
        """Return what the page on the API shows as an example."""
        return {"path": "cat.jpg", "url": "cat.jpg", "meta": {"_type": "gradio.FileData"}}

    example_value = example_payload


def from_base64(text: str) -> bytes:
    """Return the bytes of a picture sent as `data:image/png;base64,...`, or without what stands before the comma.

    Raises:
        PictureError: it is no base64, for example an address or a path; nothing is asked or read.
    """
    head, comma, body = text.partition(",")
    if not comma or not head.startswith("data:"):
        body = text
    try:
        return base64.b64decode("".join(body.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise PictureError(words.NO_BASE64) from error
