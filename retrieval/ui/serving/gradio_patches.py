"""No visitor can make the server fetch an address."""

import logging
from typing import Any, NoReturn

import gradio as gr
import safehttpx
from gradio import queueing, route_utils, routes

NO_ADDRESS = "This server does not fetch URLs. Send the image itself."

log = logging.getLogger(__name__)


def forbid_fetching() -> None:
    """Keep gradio, in this process and for good, from fetching addresses that visitors name.

    It would for `/gradio_api/file=https://...` and for any argument that is a file named by its address, of any
    component and before a component can object. It refuses private addresses itself but would still ask for public
    ones, at its own speed and size, with this machine as the sender. Both ways go through these two functions, and so
    does each redirect; nothing else here uses them.
    """
    for door in ("get", "async_validate_url"):
        setattr(safehttpx, door, _refuse)


async def _refuse(*_: Any, **__: Any) -> NoReturn:
    raise gr.Error(NO_ADDRESS, print_exception=False)


class _Traceback:
    """Stands in gradio for the module `traceback`, of which it uses this."""

    @staticmethod
    def print_exc() -> None:
        log.warning("an event failed outside of its function", exc_info=True)


def log_failures() -> None:
    """Let gradio, in this process and for good, log failures that it would print with all that a visitor sent."""
    for module in (queueing, route_utils, routes):
        module.traceback = _Traceback  # type: ignore[attr-defined]  # a module takes any attribute
