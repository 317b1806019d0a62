"""The Galleries tab, for owners of the machine: build a gallery with progress, and list the galleries."""

import html
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import gradio as gr
from typing_extensions import override

from retrieval.errors import RetrievalError
from retrieval.features.base import AUTO
from retrieval.features.models import BUNDLED
from retrieval.gallery.source import GallerySource, Labels
from retrieval.indexing.jobs import Build, BuildStopped
from retrieval.indexing.progress import Phase, Stage
from retrieval.settings import Settings, with_flags
from retrieval.storage.manifest import SKIPPED_LISTED, Manifest, size_of
from retrieval.ui.controls import QUIET, cancel_button, figures_table
from retrieval.ui.errors import as_shown, warn
from retrieval.ui.query_panel import SKIP, Updates
from retrieval.ui.serving.own_page import only_own_page
from retrieval.ui.tabs.tab import Tab, TabContext

NOTE = (
    "Build a gallery from your own images and search it right away. The other tabs keep working in the meantime. "
    "A build continues when you close this page; open it again to see the progress. You can resume a cancelled build."
)
FIELDS = {  # by the names of the builder's flags
    "dataset": "Dataset",
    "gallery": "Gallery name",
    "limit": "Limit",
    "model": "Model",
    "split": "Split",
    "config": "Configuration",
    "revision": "Revision",
    "image_column": "Image column",
    "label_column": "Label column",
    "caption_column": "Caption column",
    "labels": "Folder that is the label",
    "rebuild": "Replace an existing gallery of this name",
}
MORE = ("split", "config", "revision", "image_column", "label_column", "caption_column")
MODEL_SHOWN = "Same as the selected gallery"
MODELS: list[Any] = [MODEL_SHOWN, ("auto: OpenCLIP if it is available", AUTO), ("mini: the bundled model", BUNDLED)]
FOUND = "Found. The images stay where they are; the index keeps small copies."
ON_HUB = "Not found on this machine, so it is looked up on the Hugging Face Hub. Code from datasets is never run."
NO_DATASET = "Enter a dataset: a folder of images, a Parquet file, or a dataset on the Hub (org/name)."
PHASES = {
    Phase.OPENING: "opening the dataset; one on the Hub is downloaded first",
    Phase.FINDING: "looking for the model; one on the Hub is downloaded first",
    Phase.LOADING: "loading the model",
    Phase.PICTURES: "embedding the first images",
    Phase.FINISHING: "all images are read; writing the index",
}

LOOK = 0.5  # seconds between two looks at a running build
COLUMNS = ["Name", "Dataset", "Images", "Skipped", "Model", "Built", "On disk"]
WIDTHS: list[str | int] = ["110px", "170px", "80px", "80px", "100px", "95px", "80px"]
SKIPPED_WIDTHS: list[str | int] = ["40%", "60%"]


class GalleriesTab(Tab):
    """Fields of a build, its progress, and the list of galleries.

    A build belongs to the process, not to a visitor, so every page can follow and cancel it, even if opened later.
    """

    title = "Galleries"

    @override
    def __init__(self, context: TabContext, tab: gr.Tab) -> None:
        if context.builds is None or context.timer is None:
            raise ValueError("the tab is not offered without builds and a timer")
        super().__init__(context, tab)
        self._indexes = context.searcher.indexes
        self._builds = context.builds
        self._started: set[int] = set()  # the numbers of the builds that visitors started
        self.timer = context.timer
        gr.Markdown(NOTE)
        self._lay_out_fields()
        with gr.Row():
            self.start_button = gr.Button("Build", variant="primary", elem_id="build_start")
            self.cancel_button = cancel_button("build_cancel")
        self.state = gr.HTML(padding=False, elem_id="build_state")
        self.table = figures_table(COLUMNS, "Galleries in the index", "galleries", column_widths=WIDTHS)
        self.skipped_note = gr.Markdown(elem_id="skipped_note")
        self.skipped = figures_table(
            ["Image", "Reason"], "Skipped images", "skipped", column_widths=SKIPPED_WIDTHS, visible=False
        )
        self.followed = gr.State(0)  # number of the build whose end this page waits for
        self._wire(context.page, tab)

    @classmethod
    @override
    def offered(cls, context: TabContext) -> bool:
        return context.builds is not None

    def _lay_out_fields(self) -> None:
        with gr.Row():
            dataset = gr.Textbox(
                label=FIELDS["dataset"],
                placeholder="~/pictures",
                info="A folder of images, a Parquet file, or a dataset on the Hub (org/name)",
                elem_id="build_dataset",
                min_width=290,
                scale=2,
            )
            self.gallery = _field("gallery", info="Empty: named after the dataset")
        self.found = gr.HTML(padding=False, elem_id="build_found")
        with gr.Row():
            limit = _field("limit", info="Number of images; empty: all")
            model = gr.Dropdown(
                MODELS,
                value=MODEL_SHOWN,
                allow_custom_value=True,
                label=FIELDS["model"],
                info="Or enter a Hub id or a folder",
                elem_id="build_model",
                min_width=200,
            )
        with gr.Accordion("More: split, revision, columns", open=False, elem_id="build_more"), gr.Row():
            more: dict[str, Any] = {name: _field(name) for name in MORE}
            more["labels"] = gr.Dropdown(list(Labels), label=FIELDS["labels"], elem_id="build_labels", min_width=200)
            streaming = "Stream the rows instead of downloading them first"
            self.streaming = gr.Checkbox(False, label=streaming, elem_id="build_streaming")
        self.replace = gr.Checkbox(False, label=FIELDS["rebuild"], elem_id="build_replace")
        self.fields: dict[str, Any] = {"dataset": dataset, "gallery": self.gallery, "limit": limit, "model": model}
        self.fields |= more

    def _wire(self, page: gr.Blocks, tab: gr.Tab) -> None:
        dataset = self.fields["dataset"]
        progress = [self.state, self.start_button, self.cancel_button, self.timer, self.followed]
        listed = [self.table, self.skipped_note, self.skipped]
        gr.on([dataset.blur, dataset.submit], self.check, dataset, [self.found, self.gallery], **QUIET)
        inputs = {"shown": self._panel.gallery, "again": self.replace, "streaming": self.streaming, **self.fields}
        self.start_button.click(self.start, inputs_kwargs=inputs, outputs=progress, concurrency_limit=1, **QUIET)
        self.cancel_button.click(self.cancel, None, progress, **QUIET)
        shown = [*progress, *listed, *self._panel.offered]
        self.timer.tick(self.tick, self.followed, shown, trigger_mode="once", **QUIET)
        tab.select(self.show_galleries, self._panel.gallery, listed, **QUIET)
        self.table.select(self.show_skipped, None, [self.skipped_note, self.skipped], **QUIET)
        page.load(self.arrive, None, progress, **QUIET)

    def check(self, request: gr.Request, dataset: str | None) -> Updates:
        """Show whether a dataset can be used, and the default name of its gallery."""
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
        found = FOUND if source.path else ON_HUB
        return {self.found: _status(found), self.gallery: gr.Textbox(placeholder=source.slug)}

    def start(
        self, request: gr.Request, shown: str | None, again: bool, streaming: bool, **fields: str | None
    ) -> Updates:
        """Start to build what the fields describe, or show why that is not possible.

        `shown` is the selected gallery, and `again` replaces an existing gallery of this name.
        """
        given = {name: str(text or "").strip() for name, text in fields.items()}
        try:
            with as_shown(owner=True):
                only_own_page(request)
                with _fields_named():
                    chosen = self._settings(given, bool(streaming), shown)
                    _check(chosen.source)
                    build = self._builds.start(chosen, bool(again))
                    self._started.add(build.number)
        except gr.Error as error:
            why = warn(error)
            running = self._builds.running  # perhaps another visitor's, which this page then follows
            return self._follow(running) if running else {self.state: _alert(why)}
        return self._follow(build)

    def cancel(self, request: gr.Request) -> Updates:
        """Ask the running build to stop."""
        with as_shown(owner=True):
            only_own_page(request)
        if running := self._builds.running:
            running.stop()
        return self._follow(running)

    def tick(self, request: gr.Request, followed: int) -> Updates:
        """Show the progress of the build; at its end, offer the gallery, and select it if a visitor asked for it."""
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
                    self._indexes.get(build.name)  # from now on searches use the new build
                except BuildStopped:
                    return over | {self.state: _status(stopped(build.stage))}
        except gr.Error as error:
            return over | {self.state: _alert(str(error.message))}
        if build.number not in self._started:  # the app built it in the background
            offered = {self._panel.gallery: self._panel.galleries(), self.state: _status(ready(manifest))}
            return over | offered | self._list(build.name)
        said = f"{ready(manifest)} It is now the selected gallery."
        gr.Info(html.escape(said))
        offered = self._panel.offer(build.name, build.number) | self._list(build.name)
        return over | offered | {self.state: _status(said)}

    def arrive(self, request: gr.Request) -> Updates:
        """Follow a running build."""
        try:
            only_own_page(request)
        except RetrievalError:
            return SKIP  # a visitor who starts a build sees the reason
        running = self._builds.running
        return self._follow(running) if running else SKIP

    def show_galleries(self, request: gr.Request, shown: str | None) -> Updates:
        """List the galleries, and what was skipped in the selected one."""
        with as_shown(owner=True):
            only_own_page(request)
        return self._list(shown or "")

    def show_skipped(self, request: gr.Request, chosen: gr.SelectData) -> Updates:
        """Show what was skipped in the gallery of the chosen row, and why."""
        with as_shown(owner=True):
            only_own_page(request)
        return self._skipped(str(chosen.row_value[0]))

    def _settings(self, given: Mapping[str, str], streaming: bool, shown: str | None) -> Settings:
        """Return the settings that the fields describe, with the same checks as the builder's flags."""
        if not given["dataset"]:
            raise RetrievalError(NO_DATASET)
        given = {name: text for name, text in given.items() if text}
        nothing: dict[str, Any] = {**asdict(GallerySource("")), "dataset": None, "gallery": None}
        base = replace(self._builds.base, **nothing | {"streaming": streaming})
        if given.get("model", MODEL_SHOWN) == MODEL_SHOWN:
            given.pop("model", None)
            base = base.with_model(self._indexes.get(shown or "").manifest.model)
        else:
            base = replace(base, model_revision=None)
        return with_flags(base, given)

    def _follow(self, build: Build | None) -> Updates:
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
                manifest = self._indexes.manifest(name)
            except RetrievalError as error:
                rows.append([name, str(error), *[""] * (len(COLUMNS) - 2)])
            else:
                rows += [gallery_row(self._indexes.root / name, manifest)] if manifest else []
        return {self.table: rows, **self._skipped(chosen)}

    def _skipped(self, name: str) -> Updates:
        manifest: Manifest | None = None
        if name in self._indexes.names():
            with suppress(RetrievalError):  # its row says why
                manifest = self._indexes.manifest(name)
        rows = [[each.id, each.reason] for each in manifest.skipped_pictures] if manifest else []
        note = skipped(manifest) if manifest else ""
        return {self.skipped_note: note, self.skipped: gr.Dataframe(value=rows, visible=bool(rows))}


def _field(name: str, **options: Any) -> gr.Textbox:
    return gr.Textbox(label=FIELDS[name], elem_id=f"build_{name}", min_width=200, **options)


def _check(source: GallerySource) -> None:
    from retrieval.gallery.opening import check_dataset  # with datasets, which the page starts without

    check_dataset(source)


@contextmanager
def _fields_named() -> Iterator[None]:
    """Let errors of the builder name the fields of the page instead of flags."""
    try:
        yield
    except RetrievalError as error:
        raise type(error)(on_page(str(error))) from error


def _status(text: str) -> str:
    return f'<p role="status">{html.escape(text)}</p>'


def _alert(escaped: str) -> str:
    return f'<p role="alert">{escaped}</p>'


def _progress(build: Build) -> str:
    stage = build.stage
    known = stage.phase is Phase.PICTURES and stage.total
    value = f'max="{stage.total}" value="{stage.done}"' if known else ""
    text = building(build.name, stage, time.monotonic(), build.stopping)
    return f'<progress {value} aria-label="Progress of the build"></progress><p>{html.escape(text)}</p>'


def on_page(text: str) -> str:
    """Return an error of the builder with the names of fields instead of flags, unless it contains a command."""
    if "python " in text:
        return text
    return re.sub(
        r"`?--([a-z]+(?:-[a-z]+)?)`?",
        lambda m: f"“{FIELDS[key]}”" if (key := m[1].replace("-", "_")) in FIELDS else m[0],
        text,
    )


def building(name: str, stage: Stage, now: float, stopping: bool) -> str:
    """Return the progress of a build as one line; `now` is `time.monotonic()`."""
    if stopping:
        return f"{name}: stopping after the current step ..."
    if stage.phase is not Phase.PICTURES or (stage.total is None and not stage.done):
        return f"{name}: {PHASES[stage.phase]} ... {duration(now - stage.since)}"
    parts = [f"{name}: {stage.done:,}" + (f" of {stage.total:,} images" if stage.total is not None else " images")]
    if stage.before:
        parts.append(f"{stage.before:,} from an earlier run")
    if stage.rate is None:
        parts.append(f"{PHASES[stage.phase]} ...")
    else:
        parts.append(f"{stage.rate:.1f} images/s")
    if stage.left is not None:
        parts.append(f"{duration(max(0.0, stage.left - (now - stage.at)))} left")
    return " · ".join(parts)


def duration(seconds: float) -> str:
    """Return seconds as a text with the two largest units."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def ready(manifest: Manifest) -> str:
    """Return a sentence on a gallery that was just built."""
    left_out = f", {manifest.skipped:,} skipped" if manifest.skipped else ""
    return f"{manifest.gallery} is ready: {manifest.pictures:,} images{left_out}."


def stopped(stage: Stage) -> str:
    """Return a sentence on a build that was stopped, and how to resume it."""
    kept = f" after {stage.done:,} images" if stage.done else ""
    return f"Stopped{kept}. Start the same build again to resume it."


def gallery_row(folder: Path, manifest: Manifest) -> list[str]:
    """Return a gallery's row in the table of galleries."""
    built = datetime.fromisoformat(manifest.created).astimezone()
    source = manifest.source
    dataset = f"the bundled {source.bundled}" if source.bundled else source.dataset
    return [
        manifest.gallery,
        dataset + (f" ({source.split})" if source.split else ""),
        f"{manifest.pictures:,}",
        f"{manifest.skipped:,}",
        manifest.model.title,
        f"{built:%Y-%m-%d %H:%M}",
        f"{size_of(folder / manifest.snapshot) / 1e6:,.1f} MB",
    ]


def skipped(manifest: Manifest) -> str:
    """Return sentences on the last build of a gallery: what changed, and how many images were skipped."""
    hint = "Click a gallery to see its skipped images."
    changes, ignored = manifest.changes, sum(manifest.ignored.values())
    changed = f"The last build embedded {changes.embedded:,} images, reused {changes.reused:,}"
    changed += f" and removed {changes.removed:,}."
    if ignored:
        changed += f" {ignored:,} {'file is' if ignored == 1 else 'files are'} not images."
    if not manifest.skipped:
        return f"`{manifest.gallery}`: no images were skipped. {changed} {hint}"
    listed = f" (the first {SKIPPED_LISTED:,} are listed)" if manifest.skipped > SKIPPED_LISTED else ""
    return f"`{manifest.gallery}`: {manifest.skipped:,} skipped{listed}. {changed} {hint}"
