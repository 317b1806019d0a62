"""How much visitors can ask of the server at once, how large a request may be, and how much less that is on a Space."""

import json
import math
import time
from dataclasses import dataclass
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

from retrieval import evaluation, words
from retrieval.images import MAX_BYTES, MAX_PIXELS
from retrieval.query import MAX_TOP_K
from retrieval.settings import Settings

# Of all events of a group together so many run at a time; without a group, gradio would let so many run of each.
SEARCHES: dict[str, Any] = {"concurrency_id": "search", "concurrency_limit": 4}
LONG: dict[str, Any] = {"concurrency_id": "long", "concurrency_limit": 2}  # sweeps and evaluations
WAITING = 64  # events in the queue; beyond that visitors are told that the page is busy
# Sessions that gradio keeps the state of, those used last: of each the whole page's configuration, 0.3 MB and 9 ms to
# make. A call of the API that names no session is one. Who comes back to a forgotten one only finds the trail empty.
SESSIONS = 100
MAX_BODY = MAX_BYTES * 3 // 2  # a picture in base64 and its surroundings


@dataclass(frozen=True)
class Limits:
    """How much one request may take; whoever runs the page for themselves knows what they ask for."""

    upload_bytes: int = MAX_BYTES
    pixels: int = MAX_PIXELS
    top_k: int = MAX_TOP_K
    sample: int = evaluation.SAMPLE  # queries of an evaluation
    seconds: float = math.inf  # of a sweep or an evaluation, which ends after the step that it is at

    def deadline(self) -> float:
        """Return when a long job that begins now must end, by `time.monotonic`."""
        return time.monotonic() + self.seconds


OWN = Limits()
# A Space has 2 cores for all: two long jobs fill both, so what waits behind them must not wait for long.
SPACE = Limits(upload_bytes=20 * 2**20, pixels=50_000_000, top_k=1000, sample=500, seconds=60.0)


def limits_of(settings: Settings) -> Limits:
    """Return the limits of a page: those of a Space, whose visitors are strangers, or those of anybody's own."""
    return SPACE if settings.space else OWN


class BodyLimit:
    """Refuses a request that says it is larger than a body may be, before it is read."""

    def __init__(self, app: ASGIApp, upload_bytes: int = MAX_BYTES) -> None:
        """Take the app behind it, and how large a picture may be."""
        self._app = app
        self._most = upload_bytes * 3 // 2  # in base64, with its surroundings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 413, or hand the request on."""
        length = dict(scope.get("headers", ())).get(b"content-length", b"0")
        if scope["type"] != "http" or (length.isdigit() and int(length) <= self._most):
            return await self._app(scope, receive, send)
        return await refuse(send, 413, words.TOO_LARGE)


async def refuse(send: Send, status: int, why: str) -> None:
    """Answer a request with a status and the reason in words, and close its connection."""
    headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps({"detail": why}).encode()})
