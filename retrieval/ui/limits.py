"""How much visitors can ask of the server at once, and how large a request may be."""

import json
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

from retrieval import words
from retrieval.images import MAX_BYTES

# Of all events of a group together so many run at a time; without a group, gradio would let so many run of each.
SEARCHES: dict[str, Any] = {"concurrency_id": "search", "concurrency_limit": 4}
LONG: dict[str, Any] = {"concurrency_id": "long", "concurrency_limit": 2}  # sweeps and evaluations
WAITING = 64  # events in the queue; beyond that visitors are told that the page is busy
# Sessions that gradio keeps the state of, those used last: of each the whole page's configuration, 0.3 MB and 9 ms to
# make. A call of the API that names no session is one. Who comes back to a forgotten one only finds the trail empty.
SESSIONS = 100
MAX_BODY = MAX_BYTES * 3 // 2  # a picture in base64 and its surroundings


class BodyLimit:
    """Refuses a request that says it is larger than `MAX_BODY`, before it is read."""

    def __init__(self, app: ASGIApp) -> None:
        """Take the app behind it."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 413, or hand the request on."""
        length = dict(scope.get("headers", ())).get(b"content-length", b"0")
        if scope["type"] != "http" or (length.isdigit() and int(length) <= MAX_BODY):
            return await self._app(scope, receive, send)
        headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
        await send({"type": "http.response.start", "status": 413, "headers": headers})
        await send({"type": "http.response.body", "body": json.dumps({"detail": words.TOO_LARGE}).encode()})
        return None
