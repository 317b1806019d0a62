"""The form for a new gallery, with the progress of the running build."""

import html
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Any

import gradio as gr

from retrieval.errors import RetrievalError
from retrieval.features.base import AUTO
from retrieval.features.models import BUNDLED
from retrieval.gallery.source import GallerySource, Labels
from retrieval.indexing.jobs import Build, Builds, BuildStopped
from retrieval.indexing.outcome import Outcome
from retrieval.indexing.progress import Phase, Stage
from retrieval.settings import Settings, with_flags
from retrieval.ui.controls import QUIET, alert_line, cancel_button, status_line
from retrieval.ui.errors import as_shown, warn
from retrieval.ui.query_panel import SKIP, Updates
from retrieval.ui.serving.own_page import only_own_page
from retrieval.ui.tabs.tab import TabContext

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
    "labels": "Folder that gives the label",
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


class BuildForm:
    """The fields of a build, its buttons, and its progress.

    A build belongs to the process, not to a visitor, so every page can follow and cancel it, even if opened later.
    """

    def __init__(
        self,
        context: TabContext,
        builds: Builds,
        timer: gr.Timer,
        listed: Sequence[Any],
        listing: Callable[[str], Updates],
    ) -> None:
        """Lay out the form.

        Args:
            context: what the tabs share.
            builds: runs the builds.
            timer: ticks while a build is running, also when another tab is open.
            listed: the components that list the galleries.
            listing: returns updates of these components, with a gallery chosen.
        """
        self._indexes = context.searcher.indexes
        self._builds = builds
        self._panel = context.panel
        self._listing = listing
        self._timer = timer
        self._started: set[int] = set()  # the numbers of the builds that visitors started
        gr.Markdown(NOTE)
        self._lay_out()
        self.followed = gr.State(0)  # number of the build whose end this page waits for
        self._wire(context, listed)

    def _lay_out(self) -> None:
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
        with gr.Row():
            self.start_button = gr.Button("Build", variant="primary", elem_id="build_start")
            self.cancel_button = cancel_button("build_cancel")
        self.state = gr.HTML(padding=False, elem_id="build_state")

    def _wire(self, context: TabContext, listed: Sequence[Any]) -> None:
        dataset = self.fields["dataset"]
        progress = [self.state, self.start_button, self.cancel_button, self._timer, self.followed]
        gr.on([dataset.blur, dataset.submit], self.check, dataset, [self.found, self.gallery], **QUIET)
        inputs = {"shown": self._panel.gallery, "again": self.replace, "streaming": self.streaming, **self.fields}
        self.start_button.click(self.start, inputs_kwargs=inputs, outputs=progress, concurrency_limit=1, **QUIET)
        self.cancel_button.click(self.cancel, None, progress, **QUIET)
        shown = [*progress, *listed, *self._panel.offered]
        self._timer.tick(self.tick, self.followed, shown, trigger_mode="once", **QUIET)
        context.page.load(self.arrive, None, progress, **QUIET)

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
            return {self.found: alert_line(str(error.message)), self.gallery: gr.Textbox(placeholder="")}
        found = FOUND if source.path else ON_HUB
        return {self.found: status_line(found), self.gallery: gr.Textbox(placeholder=source.slug)}

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
            return self._follow(running) if running else {self.state: alert_line(why)}
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
                    outcome = build.outcome()
                    self._indexes.get(build.name)  # from now on searches use the new build
                except BuildStopped:
                    return over | {self.state: status_line(stopped(build.stage))}
        except gr.Error as error:
            return over | {self.state: alert_line(str(error.message))}
        if build.number not in self._started:  # the app built it in the background
            offered = {self._panel.gallery: self._panel.galleries(), self.state: status_line(ready(outcome))}
            return over | offered | self._listing(build.name)
        said = f"{ready(outcome)} It is now the selected gallery."
        gr.Info(html.escape(said))
        offered = self._panel.offer(build.name, build.number) | self._listing(build.name)
        return over | offered | {self.state: status_line(said)}

    def arrive(self, request: gr.Request) -> Updates:
        """Follow a running build."""
        try:
            only_own_page(request)
        except RetrievalError:
            return SKIP  # a visitor who starts a build sees the reason
        running = self._builds.running
        return self._follow(running) if running else SKIP

    def _settings(self, given: Mapping[str, str], streaming: bool, shown: str | None) -> Settings:
        """Return the settings that the fields describe, with the same checks as the builder's flags."""
        if not given["dataset"]:
            raise RetrievalError(NO_DATASET)
        given = {name: text for name, text in given.items() if text}
        nothing: dict[str, Any] = {**asdict(GallerySource("")), "dataset": None, "gallery": None}
        base = replace(self._builds.base, **nothing | {"streaming": streaming})
        if given.get("model", MODEL_SHOWN) == MODEL_SHOWN:
            given.pop("model", None)
            base = base.like(self._indexes.get(shown or "").manifest.known)
        else:
            base = replace(base, model_revision=None)
        return with_flags(base, given)

    def _follow(self, build: Build | None) -> Updates:
        if build is None:
            return {
                self.start_button: gr.Button(interactive=True),
                self.cancel_button: gr.Button(interactive=False),
                self._timer: gr.Timer(active=False),
                self.followed: 0,
            }
        return {
            self.state: _progress(build),
            self.start_button: gr.Button(interactive=False),
            self.cancel_button: gr.Button(interactive=not build.stopping),
            self._timer: gr.Timer(active=True),
            self.followed: build.number,
        }


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


def ready(outcome: Outcome) -> str:
    """Return sentences on a gallery whose build has just ended, and what the build changed."""
    manifest, changes = outcome.manifest, outcome.manifest.changes
    if outcome.already_done:
        return (
            f"{manifest.gallery} is up to date: its {manifest.pictures:,} images have not changed since the last build."
        )
    left_out = f", {manifest.skipped:,} skipped" if manifest.skipped else ""
    said = f"{manifest.gallery} is ready: {manifest.pictures:,} images{left_out}."
    if outcome.replaced is None:
        return said
    return f"{said} Embedded: {changes.embedded:,}, reused: {changes.reused:,}, removed: {changes.removed:,}."


def stopped(stage: Stage) -> str:
    """Return a sentence on a build that was stopped, and how to resume it."""
    kept = f" after {stage.done:,} images" if stage.done else ""
    return f"Stopped{kept}. Start the same build again to resume it."
