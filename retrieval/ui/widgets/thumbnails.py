"""Pictures that this program shows, under names that tell nothing of this machine; nothing else is served with them."""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.utils import get_upload_folder
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.routing import Route

from retrieval.analysis.agreement import move
from retrieval.analysis.explanation import caption
from retrieval.search.query import Ranking
from retrieval.storage.reader import GalleryIndex

NO_PICTURE = "There is no such image."
FILES = "/gradio_api/file="  # where gradio's frontend looks for a file
NAMED = re.compile(r"\d{6}/\d{12}\.jpg|[a-z0-9-]{1,80}\.png", re.ASCII)  # thumbnails, and bundled query pictures
HEADERS = {
    "Cache-Control": "private, max-age=86400",  # a picture of a build never changes
    "X-Content-Type-Options": "nosniff",
}


class Thumbnails:
    """Knows which folders are shown, and by what name; names look to gradio like those of uploads.

    Only such names pass through gradio both ways, below a proxy's path too, without a copy of the file being made.
    There is no file of that name: `route` answers for it.
    """

    def __init__(self) -> None:
        """Show nothing yet."""
        self._root = f"{os.path.abspath(get_upload_folder())}/shown"  # noqa: PTH100  # as gradio writes it, unresolved
        self._folders: dict[str, Path] = {}
        self._names: dict[Path, str] = {}

    def serve(self, index: GalleryIndex) -> None:
        """Show the thumbnails of an index."""
        self.serve_folder(index.thumbnails, f"{index.manifest.gallery}/{index.build.name}")

    def serve_folder(self, folder: Path, name: str) -> None:
        """Show the pictures of a folder under a name."""
        self._folders[name] = folder
        self._names[folder] = name

    def name(self, path: str) -> str:
        """Return what visitors call a file; its own path if it is not of a folder that is shown."""
        file = Path(path)
        for folder in file.parents:
            if folder in self._names:
                return f"{self._root}/{self._names[folder]}/{file.relative_to(folder).as_posix()}"
        return path

    def file(self, name: object) -> Path | None:
        """Return the file that a visitor calls so; None if it is none that is shown."""
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
        """What answers for the names; it belongs before gradio's own route for files."""

        def answer(request: Request) -> Response:
            path = self.file(f"{self._root}/{request.path_params['name']}")
            return FileResponse(path, headers=HEADERS) if path else PlainTextResponse(NO_PICTURE, 404)

        return Route(f"{FILES}{self._root}/{{name:path}}", answer)


class Shown:
    """What a component is besides, for its files to go by their names; before gradio's component in the bases."""

    _thumbnails: Thumbnails  # which gradio would send to the page without the underscore

    def move_resource_to_block_cache(self, url_or_file_path: str | Path | None) -> str | None:
        """Leave a picture that is shown where it is; gradio would copy it."""
        if self._thumbnails.file(url_or_file_path):
            return str(url_or_file_path)
        moved: str | None = super().move_resource_to_block_cache(url_or_file_path)  # type: ignore[misc]  # gradio's
        return moved

    async def async_move_resource_to_block_cache(self, url_or_file_path: str | Path | None) -> str | None:
        """Do the same where gradio waits for it."""
        if self._thumbnails.file(url_or_file_path):
            return str(url_or_file_path)
        moved: str | None = await super().async_move_resource_to_block_cache(url_or_file_path)  # type: ignore[misc]
        return moved


class PictureStrip(Shown, gr.Gallery):
    """gr.Gallery of files with captions."""

    def __init__(self, thumbnails: Thumbnails, value: Sequence[tuple[str, str]] = (), **named: Any) -> None:
        """Take what knows the files' names, and what gr.Gallery takes; nothing but a click is of use in it."""
        self._thumbnails = thumbnails
        super().__init__(list(value), allow_preview=False, buttons=[], interactive=False, **named)

    def get_block_name(self) -> str:
        """Return the stock frontend's name."""
        return "gallery"

    def get_config(self, cls: Any = None) -> dict[str, Any]:
        """Return the stock component's configuration."""
        return super().get_config(gr.Gallery)

    def postprocess(self, value: Any) -> Any:
        """Return what the frontend shows: files by their names."""
        return super().postprocess([(self._thumbnails.name(path), caption) for path, caption in value or []])


def strip_of(index: GalleryIndex, ranking: Ranking, moves: Sequence[int | None] | None = None) -> gr.Gallery:
    """Return the hits of a ranking with their captions, and how far each has moved if that is given."""
    hits = [
        (str(index.thumbnail(hit.position)), f"{caption(hit)} {move(moved)}".rstrip())
        for hit, moved in zip(ranking.hits, [0] * len(ranking.hits) if moves is None else moves, strict=True)
    ]
    return gr.Gallery(value=hits, selected_index=None)
