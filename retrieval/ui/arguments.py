"""Arguments of the HTTP API and of the MCP tools: what callers are told of each, and how a picture is taken."""

import base64
import binascii
from typing import Any
from urllib.parse import unquote

import gradio as gr
from gradio.blocks import Block

from retrieval.errors import PictureError
from retrieval.ui.errors import as_shown
from retrieval.ui.serving.bodies import TOO_LARGE
from retrieval.ui.serving.limits import MAX_CALL
from retrieval.ui.widgets.picture_input import NO_FILE, uploaded

NO_BASE64 = "The image is not valid base64. Send data:image/png;base64,... instead of a URL or the path of a file."
PICTURE_ARGUMENT = "A file (in Python: handle_file), or its bytes in base64 as data:image/png;base64,..."

# What gradio's own helper for MCP clients, `gradio upload-mcp`, puts before the path of a file that it uploaded.
UPLOADED = "/gradio_api/file="


class Argument(gr.Textbox):
    """A value of any type for an endpoint, with no place on the page, described by a JSON schema of its own."""

    def __init__(self, name: str, value: Any, **schema: Any) -> None:
        """Take the name, the default (None: none) and the JSON schema."""
        self._schema = schema
        super().__init__(value, label=name, visible=False)

    def get_block_name(self) -> str:
        """Return the stock frontend's name, for subclasses too: the page waits for each component's frontend."""
        return "textbox"

    def get_config(self, cls: type[Block] | None = None) -> dict[str, Any]:
        """Return the stock component's configuration: gradio takes what there is from the arguments of __init__."""
        return super().get_config(gr.Textbox)

    def api_info(self) -> dict[str, Any]:
        """Return the schema."""
        return self._schema

    def preprocess(self, payload: Any) -> Any:
        """Return the value as it came."""
        return payload

    def postprocess(self, value: Any) -> Any:
        """Return the value as it is."""
        return value

    def example_payload(self) -> Any:
        """Return what the page on the API shows as an example: the default."""
        return self.value

    def example_value(self) -> Any:
        """Return the same for an answer."""
        return self.value


class PictureArgument(Argument):
    """A picture: an uploaded file, as gr.Image takes it, or the bytes of one in base64.

    To MCP it is a plain text. As a file in gradio's schema it would be described to models as an address to fetch,
    and what they send would be turned into files before anything here could look at it.
    """

    def __init__(self, name: str, value: str | None = None) -> None:
        """Take the name and the default: None where a call without a picture makes no sense, else an empty text."""
        super().__init__(
            name, value, oneOf=[{"type": "string"}, {"type": "null"}], additional_description=PICTURE_ARGUMENT
        )

    def preprocess(self, payload: Any) -> Any:
        """Return the path of the uploaded file, or the bytes; None if there is no picture."""
        if not payload:
            return None
        with as_shown(html_safe=False):
            if isinstance(payload, dict):
                return uploaded(payload.get("path"))
            if isinstance(payload, str):
                _, found, path = payload.partition(UPLOADED)
                return uploaded(unquote(path)) if found else from_base64(payload)
            raise PictureError(NO_FILE)

    def example_payload(self) -> Any:
        """Return what the page on the API shows as an example."""
        return {"path": "cat.jpg", "url": "cat.jpg", "meta": {"_type": "gradio.FileData"}}


def from_base64(text: str) -> bytes:
    """Return the bytes of a picture sent as `data:image/png;base64,...`, or without what stands before the comma.

    Raises:
        PictureError: it is no base64, for example an address or a path; nothing is asked or read.
    """
    if len(text) > MAX_CALL:
        raise PictureError(TOO_LARGE)
    head, comma, body = text.partition(",")
    if not comma or not head.startswith("data:"):
        body = text
    try:
        return base64.b64decode("".join(body.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise PictureError(NO_BASE64) from error
