"""Error handling at the edge of the page: an error is shown once, and an unexpected one is also logged."""

import html
import logging
from collections.abc import Iterator
from contextlib import contextmanager

import gradio as gr

from retrieval.errors import SURPRISE, GalleryChanged, IndexingError, ModelError, RetrievalError

FOR_OWNER = "The index or the model cannot be used. Only the owner of this page can fix that; the log has the details."

log = logging.getLogger(__name__)


@contextmanager
def as_shown(html_safe: bool = True, owner: bool = False) -> Iterator[None]:
    """Turn an exception into a `gr.Error` with a message for the visitor.

    `html_safe` escapes the message for the page, which renders it as HTML; API clients read plain text. `owner` shows
    errors of an index or a model with their paths, because the visitor owns this machine.
    """
    try:
        yield
    except gr.Error:
        raise
    except (IndexingError, ModelError) as error:
        if owner or isinstance(error, GalleryChanged):
            raise gr.Error(html.escape(str(error), quote=False), print_exception=False) from error
        log.error("%s", error)  # its paths are not for visitors
        raise gr.Error(FOR_OWNER, print_exception=False) from error
    except RetrievalError as error:
        text = html.escape(str(error), quote=False) if html_safe else str(error)
        raise gr.Error(text, print_exception=False) from error
    except Exception as error:
        log.exception("unexpected error in a search")
        raise gr.Error(SURPRISE, print_exception=False) from error


def warn(error: gr.Error) -> str:
    """Show an error as a toast, and return its message to be shown in place of results."""
    # If the error was raised instead, gradio would cover every output with the word "Error".
    message = str(error.message)
    gr.Warning(message)
    return message
