"""The arguments of the HTTP API and the MCP tools: how they are described to callers, and how an image is sent."""

import base64
import binascii
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from gradio.components.api_component import Api
from typing_extensions import override

from retrieval.engines import AUTO, ENGINES
from retrieval.errors import PictureError, QueryError
from retrieval.features import DEFAULT_FEATURES, FEATURES
from retrieval.metrics import DEFINITIONS, Metric
from retrieval.pictures.distortion import LIMITS, UNDISTORTED
from retrieval.search.query import KEEP_ALL, MAX_ADDED
from retrieval.search.validation import checked_added
from retrieval.ui.serving.bodies import TOO_LARGE
from retrieval.ui.serving.limits import MAX_CALL
from retrieval.ui.widgets.picture_input import NOT_UPLOADED, uploaded

# The path of an uploaded file follows this prefix when it was uploaded by `gradio upload-mcp`.
UPLOADED = "/gradio_api/file="
NOT_BASE64 = (
    "The image is not valid base64. Send it as data:image/png;base64,... URLs and paths of files are not accepted."
)

SAMPLE = 500  # queries of an evaluation by default

TEXT = {"type": "string"}
SHARE = {"type": "number", "minimum": 0, "maximum": 1}
IMAGE = {
    # A file in the schema would be described to models as a URL, and gradio would fetch it before we can refuse it.
    "oneOf": [{"type": "string"}, {"type": "null"}],
    "additional_description": "A file (in Python: handle_file), or its bytes in base64 as data:image/png;base64,...",
}


IMAGES = {"type": "array", "items": TEXT}
ADDED = f"ids of gallery items, uploaded files, or images as data:image/png;base64,...; at most {MAX_ADDED} in both."


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


def evaluation_arguments(most: int) -> dict[str, Argument]:
    """Return the arguments of an evaluation with at most `most` queries."""
    count = {"type": "integer", "minimum": 1, "maximum": most}
    return {
        "sample": Argument("number of random images of the gallery that search the rest.", count, min(SAMPLE, most)),
        "k": Argument("the cutoffs of P@k, R@k, nDCG@k and success@k, separated by commas.", TEXT, "1,5,10"),
        "per_class": Argument("also return the figures of each class.", {"type": "boolean"}, False),
    }


def arguments(names: Sequence[str]) -> dict[str, Argument]:
    """Return the arguments that endpoints share, by name; the first of the feature types is the default."""
    features = _listed({name: FEATURES[name].title for name in names})
    closer = {True: "smaller is closer", False: "larger is closer"}
    metrics = _listed({name: closer[each.smaller_is_closer] for name, each in DEFINITIONS.items()})
    titles = {name: each.title if each.exact else f"{each.title}; may miss matches" for name, each in ENGINES.items()}
    engines = _listed({AUTO: "the fastest one that finds enough; engine_note says which and why"} | titles)
    return {
        "text": Argument(
            'what to look for, in English, such as "red fruit"; terms after + or - are added or avoided, as in '
            f'"beach + sunset - people"; needs features that support text, such as "{DEFAULT_FEATURES}".',
            TEXT,
            "",
        ),
        "image": Argument(
            "the query image, as an uploaded file or in base64 (data:image/png;base64,...); optional.", IMAGE, ""
        ),
        "more": Argument(f"images that the results should resemble too: {ADDED}", IMAGES, []),
        "less": Argument(f"images that the results should not resemble: {ADDED}", IMAGES, []),
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
            f"hide near-duplicates: of images whose {FEATURES[names[0]].phrase} have this cosine or more, "
            "return one; 1 returns all.",
            SHARE,
            KEEP_ALL,
        ),
        "features": Argument(
            f"what is compared: {features}; several are separated by commas. CLIP compares what "
            "images show; raw pixels compare colours by position.",
            TEXT,
            names[0],
        ),
        "metric": Argument(f"how it is compared: {metrics}.", _one_of(DEFINITIONS), str(Metric.COSINE)),
        "engine": Argument(f"how the images are searched: {engines}.", _one_of((AUTO, *ENGINES)), AUTO),
        "id": Argument("id of the image of the gallery to explain, as in the hits of a search.", TEXT),
        "gallery": Argument("name of the gallery; empty searches the first one.", TEXT, ""),
        "min_score": Argument(
            "leave out results with a worse score: smaller for cosine and correlation, larger for L1 and L2; optional.",
            {"oneOf": [{"type": "number"}, {"type": "null"}]},
            "",
        ),
        "rotation": _distortion("rotation", "rotation in degrees, counter-clockwise."),
        "crop": _distortion("crop", "share of width and height that is cut away around the centre."),
        "blur": _distortion("blur", "standard deviation of a Gaussian blur, as a share of the shorter side."),
        "grey": _distortion("grey", "share of grey mixed in; 1 leaves no colour."),
        "quality": _distortion("quality", "JPEG quality with which the image is saved; 100 does not change it."),
    }


def _one_of(choices: Iterable[Any]) -> dict[str, Any]:
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


def added_of(name: str, sent: object) -> list[Path | bytes | str]:
    """Return the images to add to a query: ids of gallery items as texts, other images as `image_of` does."""
    if not isinstance(sent, (list, tuple)):
        if sent:
            raise QueryError(f"{name} must be a list of images or of ids of gallery items, not {repr(sent)[:40]}.")
        return []
    found: list[Path | bytes | str] = []
    for each in checked_added(sent):
        is_id = isinstance(each, str) and not each.startswith("data:") and UPLOADED not in each
        image = str(each) if is_id else image_of(each)
        if not image:
            raise QueryError(f"{name} has an empty entry. Leave it out.")
        found.append(image)
    return found


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
