"""Graceful shutdown: the page refuses new searches, answers those under way, then the server stops."""

import asyncio
import logging
import time
from contextlib import suppress

import gradio as gr
from starlette.types import ASGIApp, Receive, Scope, Send

from retrieval.ui.serving.bodies import refuse

STOPPING = "This page is shutting down. Try again in a minute."
PATIENCE = 6.0  # seconds for searches under way; a Space, Docker and systemd wait at least 10 s before they kill
GRACE = 1  # second for connections that stay open, such as heartbeats and uploads that never end
LOOK = 0.05  # seconds between two checks


class Door:
    """Counts the requests under way; once shut, it lets no new ones in."""

    def __init__(self) -> None:
        self.shut = False
        self.waiting = 0  # changed by one event loop only, so it needs no lock
        self.loop: asyncio.AbstractEventLoop | None = None  # which serves the page

    def wait_until_empty(self, page: gr.Blocks, patience: float = PATIENCE) -> bool:
        """Shut, wait at most `patience` seconds for all running searches to be answered, and return whether all are."""
        self.shut = True
        deadline = time.monotonic() + patience
        # The page's queue is checked as well, because a search may run before anybody waits for it.
        while self.waiting or any(page._queue.active_jobs):
            if time.monotonic() > deadline:
                return False
            time.sleep(LOOK)  # the server runs in other threads
        return True


def close(page: gr.Blocks, door: Door) -> None:
    """Stop serving, even if connections are still open."""
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # it would report each of them with its traceback
    page.server.config.timeout_graceful_shutdown = GRACE  # uvicorn would wait for them without end
    if door.loop:
        # gradio would set it from this thread, which fails while the loop adds another heartbeat that waits for it.
        with suppress(TimeoutError):
            asyncio.run_coroutine_threadsafe(_set(page.app.stop_event), door.loop).result(GRACE)
    page.close(verbose=False)


async def _set(event: asyncio.Event) -> None:
    event.set()


class Doorkeeper:
    """ASGI middleware that answers 503 to new requests once its door is shut."""

    def __init__(self, app: ASGIApp, door: Door) -> None:
        self._app = app
        self._door = door

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 503, or pass the request on."""
        self._door.loop = asyncio.get_running_loop()
        if scope["type"] != "http" or _endless(scope):
            return await self._app(scope, receive, send)
        if self._door.shut and scope["method"] == "POST":
            return await refuse(send, 503, STOPPING)
        self._door.waiting += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._door.waiting -= 1


def _endless(scope: Scope) -> bool:
    """Whether a request lasts as long as the page is open: its heartbeat, or the stream of an MCP client."""
    path = scope["path"]
    return "/heartbeat/" in path or (scope["method"] == "GET" and "/mcp" in path)
