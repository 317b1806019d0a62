"""The edge of the page: an error is shown once, in words, and a surprise is logged and shown as one."""

import html
import logging
from collections.abc import Iterator
from contextlib import contextmanager

import gradio as gr

from retrieval import words
from retrieval.errors import RetrievalError

log = logging.getLogger(__name__)


@contextmanager
def as_shown() -> Iterator[None]:
    """Turn what is raised inside into a message on the page; gradio renders it as HTML, so it is escaped."""
    try:
        yield
    except gr.Error:
        raise
    except RetrievalError as error:
        raise gr.Error(html.escape(str(error)), print_exception=False) from error
    except Exception as error:
        log.exception("unexpected error in a search")
        raise gr.Error(words.SURPRISE, print_exception=False) from error
