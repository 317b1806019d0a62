"""The arguments of the HTTP API and the MCP tools: how they are described to callers, and how an image is sent."""

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from gradio.components.api_component import Api
from typing_extensions import override

from retrieval.engines import DEFAULT_ENGINE, ENGINES
from retrieval.errors import PictureError
from retrieval.features import DEFAULT_FEATURES, FEATURES
from retrieval.metrics import DEFINITIONS, Metric
from retrieval.pictures.distortion import LIMITS, UNDISTORTED
from retrieval.search.query import KEEP_ALL
from retrieval.ui.serving.bodies import TOO_LARGE
from retrieval.ui.serving.limits import MAX_CALL
from retrieval.ui.widgets.picture_input import NOT_UPLOADED, uploaded

# The path of an uploaded file follows this prefix when it was uploaded by `gradio upload-mcp`.
UPLOADED = "/gradio_api/file="
NOT_BASE64 = (
    "The image is not valid base64. Send it as data:image/png;base64,... URLs and paths of files are not accepted."
)

TEXT = {"type": "string"}
SHARE = {"type": "number", "minimum": 0, "maximum": 1}
IMAGE = {
    # A file in the schema would be described to models as a URL, and gradio would fetch it before we can refuse it.
    "oneOf": [{"type": "string"}, {"type": "null"}],
    "additional_description": "A file (in Python: handle_file), or its bytes in base64 as data:image/png;base64,...",
}


@dataclass(frozen=True)
class Argument:
    """An argument as callers see it in the API docs and in the schema of an MCP tool.

    `gr.api` derives schemas from type hints, which have no bounds and no choices that are known only at run time.
    """

    description: str
    schema: Mapping[str, Any]
    default: Any = None  # None: callers must pass a value

    def component(self, name: str) -> Api:
        """Return a new component for the argument, which has no place on the page."""
        kind = _ImageApi if self.schema is IMAGE else Api
        default = {} if self.default is None else {"default": self.default}
        return kind(self.default, {**self.schema, **default, "description": self.description}, name)


class _ImageApi(Api):
    is_template = True  # it has the front end of its base class, so gradio must use that name

    @override
    def example_payload(self) -> Any:
        return {"path": "cat.jpg", "url": "cat.jpg", "meta": {"_type": "gradio.FileData"}}


def required_image() -> Argument:
    """Return the query image of endpoints that need one."""
    return Argument("the query image, as an uploaded file or in base64 (data:image/png;base64,...).", IMAGE)


def top_k_up_to(most: int) -> Argument:
    """Return the number of results, at most `most`."""
    return Argument("number of results, closest first.", {"type": "integer", "minimum": 1, "maximum": most}, 10)


def arguments() -> dict[str, Argument]:
    """Return the arguments that endpoints share, by name."""
    with_text = " or ".join(f'"{name}"' for name, each in FEATURES.items() if each.takes_text)
    features = _listed({name: each.title for name, each in FEATURES.items()})
    closer = {True: "smaller is closer", False: "larger is closer"}
    metrics = _listed({name: closer[each.smaller_is_closer] for name, each in DEFINITIONS.items()})
    engines = _listed(
        {name: each.title if each.exact else f"{each.title}; may miss matches" for name, each in ENGINES.items()}
    )
    return {
        "text": Argument(f'what to look for, in English, such as "red fruit"; needs features {with_text}.', TEXT, ""),
        "image": Argument(
            "the query image, as an uploaded file or in base64 (data:image/png;base64,...); optional.", IMAGE, ""
        ),
        "without": Argument("what to exclude, in English.", TEXT, ""),
        "balance": Argument("balance of image and text: 0 uses the image only, 1 the text only.", SHARE, 0.5),
        "labels": Argument(
            "only return images with one of these labels; empty returns all.", {"type": "array", "items": TEXT}, []
        ),
        "region": Argument(
            "only use this part of the image: left, top, right, bottom from 0 to 1; empty uses all of it.",
            {"type": "array", "items": {"type": "number"}},
            [],
        ),
        "alike": Argument(
            f"hide near-duplicates: of images whose {FEATURES[DEFAULT_FEATURES].phrase} have this cosine or more, "
            "return one; 1 returns all.",
            SHARE,
            KEEP_ALL,
        ),
        "features": Argument(
            f"what is compared: {features}. CLIP compares what images show; raw pixels compare colours by position.",
            _one_of(FEATURES),
            DEFAULT_FEATURES,
        ),
        "metric": Argument(f"how it is compared: {metrics}.", _one_of(DEFINITIONS), str(Metric.COSINE)),
        "engine": Argument(f"how the images are searched: {engines}.", _one_of(ENGINES), DEFAULT_ENGINE),
        "gallery": Argument("name of the gallery; empty searches the first one.", TEXT, ""),
        "rotation": _distortion("rotation", "rotation in degrees, counter-clockwise."),
        "crop": _distortion("crop", "share of width and height that is cut away around the centre."),
        "blur": _distortion("blur", "standard deviation of a Gaussian blur, as a share of the shorter side."),
        "grey": _distortion("grey", "share of grey mixed in; 1 leaves no colour."),
        "quality": _distortion("quality", "JPEG quality with which the image is saved; 100 does not change it."),
    }


def _one_of(choices: Mapping[Any, Any]) -> dict[str, Any]:
    return {"type": "string", "enum": [str(each) for each in choices]}


def _listed(notes: Mapping[Any, str]) -> str:
    return ", ".join(f'"{name}" ({note})' for name, note in notes.items())


def _distortion(name: str, description: str) -> Argument:
    least, most = LIMITS[name]
    return Argument(description, {"type": "number", "minimum": least, "maximum": most}, getattr(UNDISTORTED, name))


def image_of(sent: object) -> Path | bytes | None:
    """Return the path of an uploaded file or the bytes of an image in base64; None if no image was sent.

    Raises:
        PictureError: anything else, for example a URL or the path of another file. Nothing is fetched or read.
    """
    if not sent:
        return None
    if isinstance(sent, dict):
        return uploaded(sent.get("path"))
    if not isinstance(sent, str):
        raise PictureError(NOT_UPLOADED)
    _, found, path = sent.partition(UPLOADED)
    return uploaded(unquote(path)) if found else _decoded(sent)


def _decoded(text: str) -> bytes:
    """Return the bytes of `data:image/png;base64,...`, or of base64 without that prefix."""
    if len(text) > MAX_CALL:
        raise PictureError(TOO_LARGE)
    head, comma, body = text.partition(",")
    if not comma or not head.startswith("data:"):
        body = text
    try:
        return base64.b64decode("".join(body.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise PictureError(NOT_BASE64) from error
