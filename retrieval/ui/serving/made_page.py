"""The page that visitors load, made once every few seconds; gradio makes it anew for each, in 40 ms of one core."""

import asyncio
import re
import time
from dataclasses import dataclass
from http import HTTPStatus

from gradio.route_utils import get_root_url
from httpx import InvalidURL
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from retrieval.ui.serving.bodies import refuse

ROUTES = {"": "/", "/": "/", "/config": "/config", "/config/": "/config"}  # path -> gradio's name of the route
FRESH = 10.0  # seconds for which a page is served; it changes only while the app starts
STAND_IN = "page.invalid"  # as which the page is made; each visitor's copy has the name by which they reached it
# Which name that is, gradio also takes from these headers, which proxies send.
HEADERS = (b"host", b"x-forwarded-host", b"x-forwarded-proto", b"x-gradio-server")
PLAIN = re.compile(r"https?://[\w.:\[\]%~/@-]+", re.ASCII)  # an address that reads the same in HTML and JSON
BAD_ADDRESS = "The address by which this page was requested is not valid."


@dataclass(frozen=True)
class Made:
    """An answer by gradio, with the root address that it contains, and the time at which it was made."""

    start: Message
    body: bytes
    root: str
    at: float


class MadePage:
    """ASGI middleware that answers requests for the page, and for its configuration, from what was made before.

    Many requests, whatever names they use, so take little time from the searches of others.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._made: dict[str, Made] = {}  # by route
        self._making = asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer with the page, or 400; pass all other requests on."""
        path = scope["path"].removeprefix(scope.get("root_path", "")) if scope["type"] == "http" else None
        if path not in ROUTES or scope["method"] not in ("GET", "HEAD"):
            return await self._app(scope, receive, send)
        route = ROUTES[path]
        try:
            root = _root(scope, route)
        except (InvalidURL, UnicodeError, ValueError):
            root = ""
        if not PLAIN.fullmatch(root):
            return await refuse(send, 400, BAD_ADDRESS)
        async with self._making:
            made = self._made.get(route)
            if made is None or time.monotonic() - made.at > FRESH:
                made = await self._make(scope, route)
                if made.start["status"] == HTTPStatus.OK:
                    self._made[route] = made
        body = made.body.replace(made.root.encode(), root.encode())
        headers = [(name, value) for name, value in made.start["headers"] if name != b"content-length"]
        await send({**made.start, "headers": [*headers, (b"content-length", str(len(body)).encode())]})
        await send({"type": "http.response.body", "body": body})

    async def _make(self, scope: Scope, route: str) -> Made:
        """Let gradio answer a request without anything of the visitor's: no cookies, no query and another name."""
        asked = {**scope, "method": "GET", "path": scope.get("root_path", "") + route, "query_string": b""}
        asked |= {"raw_path": asked["path"].encode(), "headers": [(b"host", STAND_IN.encode())]}
        answer: list[Message] = []

        async def receive() -> Message:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def keep(message: Message) -> None:
            answer.append(message)

        at, root = time.monotonic(), _root(asked, route)
        await self._app(asked, receive, keep)
        return Made(answer[0], b"".join(each.get("body", b"") for each in answer[1:]), root, at)


def _root(scope: Scope, route: str) -> str:
    """Return the address by which a request reached the page, as gradio finds it."""
    request = Request({**scope, "headers": [each for each in scope["headers"] if each[0] in HEADERS]})
    app = scope["app"]
    root_path = app.root_path or scope.get("root_path") or app.get_blocks().custom_mount_path
    return get_root_url(request, route, root_path)
