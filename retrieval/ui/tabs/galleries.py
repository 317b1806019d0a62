"""The Galleries tab, for owners of the machine: list, open, rename, delete and build galleries."""

import shlex
import time
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import gradio as gr
from typing_extensions import override

from retrieval.errors import RetrievalError
from retrieval.indexing.upkeep import delete, rename
from retrieval.installation import BUILDER
from retrieval.storage.manifest import SKIPPED_LISTED, Manifest, read_manifest, size_of
from retrieval.ui.controls import QUIET, alert_line, as_text, figures_table, status_line
from retrieval.ui.errors import as_shown, warn
from retrieval.ui.query_panel import Updates
from retrieval.ui.serving.own_page import only_own_page
from retrieval.ui.tabs.build_form import BuildForm
from retrieval.ui.tabs.tab import Tab, TabContext

SHOW_RESULTS = "() => document.querySelector('[role=tab]').click()"
COLUMNS = ["Name", "Dataset", "Images", "Skipped", "Model", "Built", "On disk"]
WIDTHS: list[str | int] = ["15%", "25%", "10%", "10%", "14%", "15%", "11%"]
SKIPPED_WIDTHS: list[str | int] = ["40%", "60%"]


class GalleriesTab(Tab):
    """The list of galleries and what can be done with one, and below them the form for a new one."""

    title = "Galleries"

    @override
    def __init__(self, context: TabContext, tab: gr.Tab) -> None:
        if context.builds is None or context.timer is None:
            raise ValueError("the tab is not offered without builds and a timer")
        super().__init__(context, tab)
        self._indexes = context.searcher.indexes
        self.refused = gr.Markdown(visible=False, elem_id="galleries_refused")
        with gr.Column() as self.body:
            self._lay_out_galleries()
            listed = [self.table, self.chosen, self.skipped_note, self.skipped]
            BuildForm(context, context.builds, context.timer, listed, self._list)
        self._wire(tab, listed)

    @classmethod
    @override
    def offered(cls, context: TabContext) -> bool:
        return context.builds is not None

    def _lay_out_galleries(self) -> None:
        self.table = figures_table(COLUMNS, "Galleries in the index", "galleries", column_widths=WIDTHS)
        with gr.Row(elem_id="manage"):
            self.chosen = gr.Dropdown(label="Selected gallery", elem_id="chosen", min_width=200, scale=2)
            self.open_button = gr.Button("Open", elem_id="gallery_open", min_width=80, scale=1)
            self.new_name = gr.Textbox(label="New name", elem_id="gallery_name", min_width=200, scale=2)
            self.rename_button = gr.Button("Rename", elem_id="gallery_rename", min_width=80, scale=1)
            self.delete_button = gr.Button("Delete", variant="stop", elem_id="gallery_delete", min_width=80, scale=1)
        with gr.Column(visible=False, elem_id="confirm") as self.confirm:
            self.question = gr.Markdown()
            with gr.Row():
                self.sure_button = gr.Button("Delete it", variant="stop", elem_id="gallery_sure")
                self.keep_button = gr.Button("Keep it", elem_id="gallery_keep")
        self.doomed = gr.State("")  # the gallery that the question is about
        self.managed = gr.HTML(padding=False, elem_id="manage_state")
        self.skipped_note = gr.Markdown(elem_id="skipped_note")
        self.skipped = figures_table(
            ["Image", "Reason"], "Skipped images", "skipped", column_widths=SKIPPED_WIDTHS, visible=False
        )

    def _wire(self, tab: gr.Tab, listed: list[Any]) -> None:
        tab.select(self.show_galleries, self._panel.gallery, [*listed, self.refused, self.body], **QUIET)
        about = [self.chosen, self.skipped_note, self.skipped]
        self.table.select(self.choose, None, about, **QUIET)
        self.chosen.input(self.show_skipped, self.chosen, about, **QUIET)
        changed = [*listed, self.managed, self.confirm, self.doomed, self.new_name, *self._panel.offered]
        self.open_button.click(self.open, self.chosen, self._panel.offered, **QUIET).success(js=SHOW_RESULTS)
        named = [self.chosen, self.new_name, self._panel.gallery]
        gr.on([self.rename_button.click, self.new_name.submit], self.rename, named, changed, **QUIET)
        question = [self.confirm, self.question, self.doomed, self.managed]
        self.delete_button.click(self.ask, self.chosen, question, **QUIET)
        self.sure_button.click(self.delete, [self.doomed, self._panel.gallery], changed, **QUIET)
        self.keep_button.click(lambda: gr.Column(visible=False), None, self.confirm, **QUIET)

    def open(self, request: gr.Request, name: str | None) -> Updates:
        """Show another gallery on the page."""
        with as_shown(owner=True):
            only_own_page(request)
            self._indexes.get(name or "")  # raises the reason if it cannot be opened
        return self._panel.offer(name or "", time.monotonic_ns())

    def rename(self, request: gr.Request, name: str | None, new: str | None, shown: str | None) -> Updates:
        """Rename a gallery, or show why that is not possible."""
        name, new = name or "", (new or "").strip()
        try:
            with as_shown(owner=True):
                only_own_page(request)
                rename(self._indexes, name, new)
        except gr.Error as error:
            return {self.managed: alert_line(warn(error))}
        return self._changed(f"{name} is now called {new}.", new, new if shown == name else None)

    def ask(self, request: gr.Request, name: str | None) -> Updates:
        """Ask whether to delete a gallery."""
        try:
            with as_shown(owner=True):
                only_own_page(request)
                self._check_others(name or "")
                question = deletion(self._indexes.root, name or "")
        except gr.Error as error:
            return {self.managed: alert_line(warn(error)), self.confirm: gr.Column(visible=False)}
        return {self.confirm: gr.Column(visible=True), self.question: question, self.doomed: name, self.managed: ""}

    def delete(self, request: gr.Request, name: str, shown: str | None) -> Updates:
        """Delete a gallery, or show why that is not possible."""
        try:
            with as_shown(owner=True):
                only_own_page(request)
                self._check_others(name)
                delete(self._indexes, name)
        except gr.Error as error:
            return {self.managed: alert_line(warn(error)), self.confirm: gr.Column(visible=False)}
        left = self._indexes.names()[0]
        return self._changed(f"{name} was deleted.", left, left if shown == name else None)

    def _check_others(self, name: str) -> None:
        """Raise an error if there is no such gallery, or no other one."""
        self._indexes.check_name(name)
        if len(self._indexes.names()) == 1:
            raise RetrievalError(f"{name!r} is the only gallery. Build another one before you delete it.")

    def _changed(self, said: str, chosen: str, shown: str | None) -> Updates:
        """Return the new list with a gallery chosen, and show the gallery `shown` on the page, if it is another one."""
        offered = {self._panel.gallery: self._panel.galleries()}
        if shown:
            offered = self._panel.offer(shown, time.monotonic_ns())
        hidden = {self.confirm: gr.Column(visible=False), self.doomed: "", self.new_name: ""}
        return {**offered, **hidden, **self._list(chosen), self.managed: status_line(said)}

    def show_galleries(self, request: gr.Request, shown: str | None) -> Updates:
        """List the galleries, and what was skipped in the selected one; say who may not see and change them."""
        try:
            only_own_page(request)
        except RetrievalError as error:
            return {self.refused: gr.Markdown(as_text(str(error)), visible=True), self.body: gr.Column(visible=False)}
        return self._list(shown or "")

    def choose(self, request: gr.Request, chosen: gr.SelectData) -> Updates:
        """Choose the gallery of a row, and show what was skipped in it, and why."""
        return self.show_skipped(request, str(chosen.row_value[0]))

    def show_skipped(self, request: gr.Request, name: str | None) -> Updates:
        """Show what was skipped in a gallery, and why."""
        with as_shown(owner=True):
            only_own_page(request)
        return self._skipped(name or "")

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
        names = self._indexes.names()
        if name in names:
            with suppress(RetrievalError):  # its row says why
                manifest = self._indexes.manifest(name)
        rows = [[each.id, each.reason] for each in manifest.skipped_pictures] if manifest else []
        note = skipped(manifest) if manifest else ""
        chosen = gr.Dropdown(choices=names, value=name if name in names else None)
        return {
            self.chosen: chosen,
            self.skipped_note: note,
            self.skipped: gr.Dataframe(value=rows, visible=bool(rows)),
        }


def deletion(index: Path, name: str) -> str:
    """Return the question whether to delete a gallery, as Markdown: what is deleted, and what is kept."""
    parts = [f"**Delete the gallery {as_text(name)}?** It disappears from all pages."]
    with suppress(RetrievalError):
        if manifest := read_manifest(index / name):
            source = manifest.source
            parts = [
                f"**Delete the gallery {as_text(name)} of {manifest.pictures:,} images?** It disappears from all pages."
            ]
            parts.append(f"The images themselves, in {as_text(source.dataset)}, are not touched.")
            if source.bundled:
                parts.append("It is bundled, so the app may build it again at its next start.")
    command = f"{BUILDER} --index {shlex.quote(str(index))} --prune"
    parts.append(
        f"Embeddings are kept, so that building it again is quick; `{command}` deletes those that no gallery uses."
    )
    return " ".join(parts)


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
    changes, ignored = manifest.changes, sum(manifest.ignored.values())
    changed = f"The last build embedded {changes.embedded:,} images, reused {changes.reused:,}"
    changed += f" and removed {changes.removed:,}."
    if ignored:
        changed += f" {ignored:,} {'file is' if ignored == 1 else 'files are'} not images."
    if not manifest.skipped:
        return f"`{manifest.gallery}`: no images were skipped. {changed}"
    listed = f" (the first {SKIPPED_LISTED:,} are listed)" if manifest.skipped > SKIPPED_LISTED else ""
    return f"`{manifest.gallery}`: {manifest.skipped:,} skipped{listed}. {changed}"
