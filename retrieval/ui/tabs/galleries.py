"""The Galleries tab, on a machine of one's own: build a gallery with progress and cancel, and see what there is."""

import html
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import gradio as gr

from retrieval.analysis import sentences as words
from retrieval.errors import RetrievalError
from retrieval.features.base import AUTO
from retrieval.features.models import BUNDLED
from retrieval.gallery.source import GallerySource
from retrieval.indexing.jobs import Build, Builds, BuildStopped
from retrieval.indexing.progress import Phase
from retrieval.settings import Settings, with_flags
from retrieval.storage.catalog import Indexes
from retrieval.storage.manifest import Manifest
from retrieval.ui.errors import as_shown
from retrieval.ui.query_panel import QueryPanel
from retrieval.ui.serving.own_page import only_own_page

LOOK = 0.5  # seconds between two looks at a running build
WIDTHS: list[str | int] = ["110px", "170px", "80px", "80px", "100px", "95px", "80px"]
SHOWN = words.BUILD_MODEL_SHOWN  # chosen as a model: that of the gallery shown

Updates = dict[Any, Any]


class GalleriesTab:
    """Fields of a build, its progress, and the galleries there are.

    A build belongs to the process, not to a visitor: it goes on when the page is closed, every open page can follow
    and cancel it, and a page that is opened later finds it.
    """

    def __init__(
        self, indexes: Indexes, panel: QueryPanel, builds: Builds, page: gr.Blocks, tab: gr.Tab, timer: gr.Timer
    ) -> None:
        """Lay the tab out inside `tab`, and wire it.

        Args:
            indexes: the galleries there are.
            panel: is told of a new gallery.
            builds: builds them.
            page: looks for a running build when it is opened.
            tab: shows the galleries anew when it is opened.
            timer: looks at a running build; not in the tab, since a timer in a tab that is not shown does not tick.
        """
        self._indexes = indexes
        self._panel = panel
        self._builds = builds
        gr.Markdown(words.BUILD_NOTE)
        with gr.Row():
            dataset = gr.Textbox(
                label=words.BUILD["dataset"],
                placeholder=words.BUILD_DATASET_EXAMPLE,
                info=words.BUILD_DATASET_INFO,
                elem_id="build_dataset",
                min_width=290,
                scale=2,
            )
            self.gallery = gr.Textbox(
                label=words.BUILD["gallery"], info=words.BUILD_GALLERY_INFO, elem_id="build_gallery", min_width=200
            )
        self.found = gr.HTML(padding=False, elem_id="build_found")
        with gr.Row():
            limit = gr.Textbox(
                label=words.BUILD["limit"], info=words.BUILD_LIMIT_INFO, elem_id="build_limit", min_width=200
            )
            model = gr.Dropdown(
                [SHOWN, (words.BUILD_MODEL_AUTO, AUTO), (words.BUILD_MODEL_MINI, BUNDLED)],
                value=SHOWN,
                allow_custom_value=True,
                label=words.BUILD["model"],
                info=words.BUILD_MODEL_INFO,
                elem_id="build_model",
                min_width=200,
            )
        with gr.Accordion(words.BUILD_MORE, open=False, elem_id="build_more"), gr.Row():
            more = {
                name: gr.Textbox(label=words.BUILD[name], elem_id=f"build_{name}", min_width=200)
                for name in ("split", "config", "revision", "image_column", "label_column", "caption_column")
            }
            self.streaming = gr.Checkbox(False, label=words.BUILD_STREAMING, elem_id="build_streaming")
        self.replace = gr.Checkbox(False, label=words.BUILD["rebuild"], elem_id="build_replace")
        self.fields: dict[str, Any] = {
            "dataset": dataset,
            "gallery": self.gallery,
            "limit": limit,
            "model": model,
            **more,
        }
        with gr.Row():
            self.start_button = gr.Button(words.BUILD_START, variant="primary", elem_id="build_start")
            self.cancel_button = gr.Button(words.CANCEL, interactive=False, elem_id="build_cancel")
        self.state = gr.HTML(padding=False, elem_id="build_state")
        self.table = gr.Dataframe(
            headers=words.GALLERY_COLUMNS,
            column_widths=WIDTHS,
            interactive=False,
            label=words.GALLERIES,
            elem_id="galleries",
            wrap=True,
        )
        self.skipped_note = gr.Markdown(elem_id="skipped_note")
        self.skipped = gr.Dataframe(
            headers=words.SKIPPED_COLUMNS,
            column_widths=["40%", "60%"],
            interactive=False,
            label=words.SKIPPED,
            elem_id="skipped",
            wrap=True,
            visible=False,
        )
        self.timer = timer
        self.followed = gr.State(0)  # number of the build whose end this page waits for
        self._wire(page, tab)

    def _wire(self, page: gr.Blocks, tab: gr.Tab) -> None:
        quiet: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
        dataset = self.fields["dataset"]
        progress = [self.state, self.start_button, self.cancel_button, self.timer, self.followed]
        listed = [self.table, self.skipped_note, self.skipped]
        gr.on([dataset.blur, dataset.submit], self.check, dataset, [self.found, self.gallery], **quiet)
        self.start_button.click(
            self.start,
            [self._panel.gallery, self.replace, self.streaming, *self.fields.values()],
            progress,
            concurrency_limit=1,
            **quiet,
        )
        self.cancel_button.click(self.cancel, None, progress, **quiet)
        self.timer.tick(
            self.tick, self.followed, [*progress, *listed, *self._panel.offered], trigger_mode="once", **quiet
        )
        tab.select(self.show_galleries, self._panel.gallery, listed, **quiet)
        self.table.select(self.show_skipped, None, [self.skipped_note, self.skipped], **quiet)
        page.load(self.arrive, None, [*progress, self._panel.gallery], **quiet)

    def check(self, request: gr.Request, dataset: str | None) -> Updates:
        """Say at once whether a folder can be used, and how its gallery will be called."""
        name = (dataset or "").strip()
        try:
            with as_shown(owner=True):
                only_own_page(request)
                if not name:
                    return {self.found: "", self.gallery: gr.Textbox(placeholder="")}
                source = GallerySource(name)
                with _fields_named():
                    _check(source)
        except gr.Error as error:
            return {self.found: _alert(str(error.message)), self.gallery: gr.Textbox(placeholder="")}
        found = words.BUILD_FOUND if source.path else words.BUILD_ON_HUB
        return {self.found: _status(found), self.gallery: gr.Textbox(placeholder=source.slug)}

    def start(
        self, request: gr.Request, shown: str | None, again: bool, streaming: bool, *texts: str | None
    ) -> Updates:
        """Start to build what the fields say, or say in words why not."""
        given = {name: str(text or "").strip() for name, text in zip(self.fields, texts, strict=True)}
        try:
            with as_shown(owner=True):
                only_own_page(request)
                with _fields_named():
                    chosen = self._settings(given, bool(streaming), shown)
                    _check(chosen.source)
                    build = self._builds.start(chosen, bool(again))
        except gr.Error as error:
            gr.Warning(str(error.message))
            running = self._builds.running  # somebody else's, perhaps; then its progress is what there is to see
            return self._follow(running) if running else {self.state: _alert(str(error.message))}
        return self._follow(build)

    def cancel(self, request: gr.Request) -> Updates:
        """Ask the running build to stop."""
        with as_shown(owner=True):
            only_own_page(request)
        if running := self._builds.running:
            running.stop()
        return self._follow(running)

    def tick(self, request: gr.Request, followed: int) -> Updates:
        """Show how far the build is; at its end, offer the gallery."""
        with as_shown(owner=True):
            only_own_page(request)
        build = self._builds.last
        if build and build.running:
            return self._follow(build)
        over = self._follow(None)
        if build is None or build.number != followed:
            return over
        try:
            with as_shown(owner=True), _fields_named():
                try:
                    manifest = build.outcome().manifest
                    self._indexes.location.look_again()
                    self._indexes.get(build.name)  # from now on searches use the new build, and the old one may go
                except BuildStopped:
                    return over | {self.state: _status(words.stopped(build.stage))}
        except gr.Error as error:
            return over | {self.state: _alert(str(error.message))}
        gr.Info(html.escape(words.ready(manifest)))
        offered = dict(zip(self._panel.offered, self._panel.offer(build.name, build.number), strict=True))
        return over | offered | self._list(build.name) | {self.state: _status(words.ready(manifest))}

    def arrive(self, request: gr.Request) -> Updates:
        """Follow a build that is running, and offer the galleries that were made since the program started."""
        try:
            only_own_page(request)
        except RetrievalError:
            return {}  # said where somebody tries to build
        names = self._indexes.names()
        running = self._builds.running
        found = self._follow(running) if running else {}
        return {**found, self._panel.gallery: gr.Dropdown(choices=names, visible=len(names) > 1)}

    def show_galleries(self, request: gr.Request, shown: str | None) -> Updates:
        """List the galleries there are, and what was skipped of the one shown."""
        with as_shown(owner=True):
            only_own_page(request)
        return self._list(shown or "")

    def show_skipped(self, request: gr.Request, chosen: gr.SelectData) -> Updates:
        """Show what was skipped of the gallery in the chosen row, and why."""
        with as_shown(owner=True):
            only_own_page(request)
        return self._skipped(str(chosen.row_value[0]))

    def _settings(self, given: Mapping[str, str], streaming: bool, shown: str | None) -> Settings:
        """Return what the fields amount to, checked as the flags are."""
        if not given["dataset"]:
            raise RetrievalError(words.BUILD_NO_DATASET)
        given = {name: text for name, text in given.items() if text}
        nothing: dict[str, Any] = dict.fromkeys([*GallerySource.__dataclass_fields__, "gallery"])
        base = replace(self._builds.base, **nothing | {"streaming": streaming})
        if given.get("model", SHOWN) == SHOWN:
            given.pop("model", None)
            model = self._indexes.get(shown or "").manifest.model
            base = replace(base, model=model.name, model_revision=model.commit, dtype=model.dtype)
        else:
            base = replace(base, model_revision=None)
        return with_flags(base, given)

    def _follow(self, build: Build | None) -> Updates:
        """Return the view of a running build, or of none."""
        if build is None:
            return {
                self.start_button: gr.Button(interactive=True),
                self.cancel_button: gr.Button(interactive=False),
                self.timer: gr.Timer(active=False),
                self.followed: 0,
            }
        return {
            self.state: _progress(build),
            self.start_button: gr.Button(interactive=False),
            self.cancel_button: gr.Button(interactive=not build.stopping),
            self.timer: gr.Timer(active=True),
            self.followed: build.number,
        }

    def _list(self, chosen: str) -> Updates:
        rows = []
        for name in self._indexes.names():
            try:
                manifest = self._indexes.location.manifest(name)
            except RetrievalError as error:
                rows.append(words.gallery_unreadable(name, error))
            else:
                rows += [words.gallery_row(manifest)] if manifest else []
        return {self.table: rows, **self._skipped(chosen)}

    def _skipped(self, name: str) -> Updates:
        """Return what was skipped of a gallery; nothing for one that is not there or cannot be read."""
        manifest: Manifest | None = None
        if name in self._indexes.names():
            try:
                manifest = self._indexes.location.manifest(name)
            except RetrievalError:
                manifest = None  # its row says why
        rows = [[each.id, each.reason] for each in manifest.skipped_pictures] if manifest else []
        note = words.skipped(manifest) if manifest else ""
        return {self.skipped_note: note, self.skipped: gr.Dataframe(value=rows, visible=bool(rows))}


def _check(source: GallerySource) -> None:
    from retrieval.gallery.opening import check_dataset  # with datasets, which the page starts without

    check_dataset(source)


@contextmanager
def _fields_named() -> Iterator[None]:
    """Let an error of the builder name the fields of the page where it names flags."""
    try:
        yield
    except RetrievalError as error:
        raise type(error)(words.on_page(str(error))) from error


def _status(text: str) -> str:
    return f'<p role="status">{html.escape(text)}</p>'


def _alert(escaped: str) -> str:
    return f'<p role="alert">{escaped}</p>'


def _progress(build: Build) -> str:
    """Return a bar with what is done, and the figures of it."""
    stage = build.stage
    known = stage.phase is Phase.PICTURES and stage.total
    value = f'max="{stage.total}" value="{stage.done}"' if known else ""
    text = words.building(build.name, stage, time.monotonic(), build.stopping)
    return f'<progress {value} aria-label="{html.escape(words.BUILD_PROGRESS)}"></progress><p>{html.escape(text)}</p>'
