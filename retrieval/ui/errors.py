"""The edge of the page: an error is shown once, in words, and a surprise is logged and shown as one.

No line of the log holds what a visitor sent, see `retrieval.logs`.
"""

import html
import logging
from collections.abc import Iterator
from contextlib import contextmanager

import gradio as gr

from retrieval.errors import SURPRISE, IndexingError, ModelError, RetrievalError

OWNER = "The index or the model has a problem that only the owner of this page can fix; the log gives the details."

log = logging.getLogger(__name__)


@contextmanager
def as_shown(html_safe: bool = True, owner: bool = False) -> Iterator[None]:
    """Turn what is raised inside into a message for the visitor.

    Args:
        html_safe: escape the text; the page renders messages as HTML, a client of the API reads them as they are.
        owner: the visitor is the owner, who is told what is wrong with an index or a model, with paths.
    """
    try:
        yield
    except gr.Error:
        raise
    except (IndexingError, ModelError) as error:
        if owner:
            raise gr.Error(html.escape(str(error), quote=False), print_exception=False) from error
        log.error("%s", error)  # with paths of this machine, which are not for visitors
        raise gr.Error(OWNER, print_exception=False) from error
    except RetrievalError as error:
        text = html.escape(str(error), quote=False) if html_safe else str(error)
        raise gr.Error(text, print_exception=False) from error
    except Exception as error:
        log.exception("unexpected error in a search")
        raise gr.Error(SURPRISE, print_exception=False) from error


def warn(error: gr.Error) -> str:
    """Show an error as a toast, and return its message to be shown in place of an answer.

    Raised, gradio would cover every output with the word "Error".
    """
    message = str(error.message)
    gr.Warning(message)
    return message
