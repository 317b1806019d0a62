"""The images that the page shows, served under names that reveal nothing about this machine."""

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.blocks import Block
from gradio.utils import get_upload_folder
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.routing import Route
from typing_extensions import override

from retrieval.analysis.explanation import caption
from retrieval.search.query import Ranking
from retrieval.storage.reader import GalleryIndex

FILES = "/gradio_api/file="  # the path from which gradio's front end loads files
# Thumbnails of snapshots and of the store, and bundled query images.
NAMED = re.compile(r"\d{6}/\d{12}\.jpg|[0-9a-f]{2}/[0-9a-f]{32}\.jpg|[a-z0-9-]{1,80}\.(png|jpg)", re.ASCII)
NO_IMAGE = "There is no such image."
HEADERS = {
    "Cache-Control": "private, max-age=86400",  # the files of a build never change
    "X-Content-Type-Options": "nosniff",
}


class Thumbnails:
    """The folders of public images, and their public names.

    The names look like paths of uploads, because only such paths pass through gradio in both directions, even behind
    a proxy, without a copy of the file. No such file exists: `route` serves the image.
    """

    def __init__(self) -> None:
        self._root = f"{os.path.abspath(get_upload_folder())}/shown"  # noqa: PTH100  # gradio does not resolve links either
        self._folders: dict[str, Path] = {}
        self._names: dict[Path, str] = {}

    def serve(self, index: GalleryIndex) -> None:
        """Make the thumbnails of an index public."""
        self.serve_folder(index.thumbnails, f"{index.manifest.gallery}/{index.snapshot.name}")

    def serve_folder(self, folder: Path, name: str) -> None:
        """Make the images of a folder public under a name."""
        self._folders[name] = folder
        self._names[folder] = name

    def name(self, path: str) -> str:
        """Return the public name of a file, or its own path if its folder is not public."""
        file = Path(path)
        for folder in file.parents:
            if folder in self._names:
                return f"{self._root}/{self._names[folder]}/{file.relative_to(folder).as_posix()}"
        return path

    def file(self, name: object) -> Path | None:
        """Return the file with a public name, or None if there is no such file."""
        if not isinstance(name, str) or not name.startswith(f"{self._root}/"):
            return None
        shown = name.removeprefix(f"{self._root}/")
        for known, folder in list(self._folders.items()):
            if shown.startswith(f"{known}/") and NAMED.fullmatch(shown.removeprefix(f"{known}/")):
                path = folder / shown.removeprefix(f"{known}/")
                return path if path.is_file() else None
        return None

    @property
    def route(self) -> Route:
        """The route that serves the images; it must come before gradio's own route for files."""

        def answer(request: Request) -> Response:
            path = self.file(f"{self._root}/{request.path_params['name']}")
            return FileResponse(path, headers=HEADERS) if path else PlainTextResponse(NO_IMAGE, 404)

        return Route(f"{FILES}{self._root}/{{name:path}}", answer)


class Shown:
    """A mixin for gradio components, first in the bases, that sends files of `Thumbnails` under their public names."""

    _thumbnails: Thumbnails  # gradio would send it to the page if it had no underscore

    def move_resource_to_block_cache(self, url_or_file_path: str | Path | None) -> str | None:
        """Return the name of a shown image unchanged; gradio would look for a file and copy it."""
        if self._thumbnails.file(url_or_file_path):
            return str(url_or_file_path)
        moved: str | None = super().move_resource_to_block_cache(url_or_file_path)  # type: ignore[misc]  # gradio's
        return moved

    async def async_move_resource_to_block_cache(self, url_or_file_path: str | Path | None) -> str | None:
        """Do the same asynchronously."""
        if self._thumbnails.file(url_or_file_path):
            return str(url_or_file_path)
        moved: str | None = await super().async_move_resource_to_block_cache(url_or_file_path)  # type: ignore[misc]
        return moved


class PictureStrip(Shown, gr.Gallery):
    """A `gr.Gallery` of files with captions, which visitors can only click."""

    def __init__(self, thumbnails: Thumbnails, value: Sequence[tuple[str, str]] = (), **named: Any) -> None:
        self._thumbnails = thumbnails
        super().__init__(list(value), allow_preview=False, buttons=[], interactive=False, **named)

    @override
    def get_block_name(self) -> str:
        return "gallery"  # gradio's front end for it

    @override
    def get_config(self, cls: type[Block] | None = None) -> dict[str, Any]:
        return super().get_config(gr.Gallery)  # gradio reads the configuration off the arguments of __init__

    @override
    def postprocess(self, value: Any) -> Any:
        return super().postprocess([(self._thumbnails.name(path), caption) for path, caption in value or []])


def strip_of(index: GalleryIndex, ranking: Ranking, captions: Iterable[str] | None = None) -> gr.Gallery:
    """Return an update that shows the hits of a ranking with `captions`, by default the usual ones."""
    shown = map(caption, ranking.hits) if captions is None else captions
    hits = [(str(index.thumbnail(hit.position)), text) for hit, text in zip(ranking.hits, shown, strict=True)]
    return gr.Gallery(value=hits, selected_index=None)
