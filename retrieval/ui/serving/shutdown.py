"""How the page is closed: no new search is taken, those that run are answered, then the server ends."""

import time

import gradio as gr
from starlette.types import ASGIApp, Receive, Scope, Send

from retrieval.ui.serving.bodies import refuse

STOPPING = "This page is shutting down. Try again in a minute."

PATIENCE = 10.0  # seconds that searches under way have; a Space, Docker and systemd give 10 or more before they kill
LOOK = 0.05


class Door:
    """Counts the requests that wait for an answer; once it is shut, no request that asks for something new comes in."""

    def __init__(self) -> None:
        """Be open."""
        self.shut = False
        self.waiting = 0  # of one event loop, so that nothing needs a lock

    def wait_until_empty(self, page: gr.Blocks, patience: float = PATIENCE) -> bool:
        """Shut, and wait until every search under way is answered; return whether all were.

        Args:
            page: whose queue is looked at: a search may run before anybody waits for it.
            patience: seconds.
        """
        self.shut = True
        deadline = time.monotonic() + patience
        while self.waiting or any(page._queue.active_jobs):
            if time.monotonic() > deadline:
                return False
            time.sleep(LOOK)  # the server's threads work meanwhile
        return True


class Doorkeeper:
    """Stands before the app, and lets in what the door does."""

    def __init__(self, app: ASGIApp, door: Door) -> None:
        """Take the app behind it."""
        self._app = app
        self._door = door

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 503, or hand the request on."""
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
    """Whether a request is answered for as long as the page is open: its heartbeat, or what MCP clients listen to."""
    path = scope["path"]
    return "/heartbeat/" in path or (scope["method"] == "GET" and "/mcp" in path)
