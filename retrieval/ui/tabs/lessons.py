"""The Lessons tab: a question, the visitor's prediction, and the answer, searched for on the spot."""

from typing import Any

import gradio as gr
from typing_extensions import override

from retrieval.gallery.source import DEFAULT_GALLERY
from retrieval.ui.controls import PRIVATE, QUIET
from retrieval.ui.errors import as_shown, warn
from retrieval.ui.lessons import LESSONS, Classroom, Lesson
from retrieval.ui.query_panel import SKIP, Updates
from retrieval.ui.serving.limits import SEARCHES
from retrieval.ui.tabs.tab import Tab, TabContext
from retrieval.ui.widgets.lanes import as_value, lanes_output

PREDICT = "Choose a prediction first. A wrong one teaches more than none."


class LessonsTab(Tab):
    """Short lessons on the bundled photos: predict, then see."""

    title = "Lessons"

    @classmethod
    @override
    def offered(cls, context: TabContext) -> bool:
        return DEFAULT_GALLERY in context.searcher.indexes.names()

    @override
    def __init__(self, context: TabContext, tab: gr.Tab) -> None:
        super().__init__(context, tab)
        with gr.Row(equal_height=False):
            with gr.Column(scale=2, min_width=250):
                self.lesson = gr.Radio(
                    [(lesson.title, lesson.name) for lesson in LESSONS],
                    value=LESSONS[0].name,
                    label="Lesson",
                    elem_id="lesson",
                )
            with gr.Column(scale=2, min_width=180):
                self.picture = gr.Image(
                    show_label=False, interactive=False, buttons=[], height=220, visible=False, elem_id="lesson_image"
                )
            with gr.Column(scale=4, min_width=300):
                self.question = gr.Markdown(elem_id="lesson_question")
                self.prediction = gr.Radio(label="Your prediction", elem_id="lesson_prediction")
                with gr.Row():
                    self.reveal = gr.Button(
                        "Show the answer", variant="primary", interactive=False, elem_id="lesson_reveal", min_width=140
                    )
                    self.next = gr.Button("Next lesson", visible=False, elem_id="lesson_next", min_width=140)
        self.answer = gr.Markdown(elem_id="lesson_answer")
        self.results = lanes_output("lesson_results")
        self.asked = gr.State("")  # the lesson that is shown, so that opening the tab again keeps its answer
        self._wire(tab)

    def _wire(self, tab: gr.Tab) -> None:
        gr.on(
            [tab.select, self.lesson.change],
            self.ask,
            [self.lesson, self.asked],
            [self.asked, self.picture, self.question, self.prediction, self.answer, self.results, self.next],
            trigger_mode="always_last",
            show_progress_on=self.question,
            **PRIVATE,
        )
        self.reveal.click(
            self.show,
            [self.lesson, self.prediction],
            [self.answer, self.results, self.next],
            trigger_mode="once",
            show_progress_on=self.answer,
            **SEARCHES,
            **PRIVATE,
        )
        self.prediction.change(
            lambda chosen: gr.Button(interactive=chosen is not None), self.prediction, self.reveal, **QUIET
        )
        self.next.click(_following, self.lesson, self.lesson, **QUIET)
        self.results.select(self.take_result, None, self._panel.picture, **PRIVATE)

    def ask(self, name: str, asked: str) -> Updates:
        """Show the question of a lesson, unless it is shown already."""
        if name == asked:
            return SKIP
        lesson = _lesson(name)
        try:
            with as_shown():
                picture = lesson.picture(self._classroom())
        except gr.Error as error:
            return {self.answer: warn(error)}
        return {
            self.asked: name,
            self.picture: gr.Image(value=picture, alt_text=lesson.about, visible=picture is not None),
            self.question: lesson.question,
            self.prediction: gr.Radio(list(lesson.choices), value=None),
            self.answer: "",
            self.results: as_value([]),
            self.next: gr.Button(visible=False),
        }

    def show(self, name: str, prediction: str | None) -> Updates:
        """Show the answer, and whether the prediction was right."""
        lesson = _lesson(name)
        if prediction not in lesson.choices:
            return {self.answer: PREDICT}
        try:
            with as_shown():
                answer = lesson.answer(self._classroom())
        except gr.Error as error:
            return {self.answer: warn(error), self.results: as_value([])}
        right = lesson.choices[answer.right]
        said = f"✓ You were right: {right}"
        if prediction != right:
            said = f"✗ Not quite. You said: {prediction}. The answer is: {right}"
        link = f"\n\n[Open this search](?{answer.address}) to go on from here." if answer.address else ""
        return {
            self.answer: f"### {said}\n\n{answer.text}{link}",
            self.results: as_value(answer.lanes),
            self.next: gr.Button(visible=_following(name) != name),
        }

    def take_result(self, chosen: gr.EventData) -> Any:
        """Make a result the query. It comes from the visitor's browser, so it may be anything."""
        found = self._viewer.located(chosen, None)  # the viewer itself would compare it with the panel's query
        return gr.skip() if found is None else str(found[0].thumbnail(found[1]))

    def _classroom(self) -> Classroom:
        return Classroom(self._searcher, self._thumbnails)


def _following(name: str) -> str:
    """Return the name of the next lesson, or of the last one."""
    names = [lesson.name for lesson in LESSONS]
    return names[min(names.index(_lesson(name).name) + 1, len(names) - 1)]


def _lesson(name: str) -> Lesson:
    """Return a lesson by its name; the first one for anything else that a browser may send."""
    return next((lesson for lesson in LESSONS if lesson.name == name), LESSONS[0])
