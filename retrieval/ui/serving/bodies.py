"""Limits on the requests to a public page: their size, declared or not, and which of gradio's routes exist."""

import json
import re
from pathlib import Path

import anyio
from starlette.formparsers import MultiPartException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from retrieval.pictures.loading import MAX_BYTES
from retrieval.ui.serving.limits import ARRIVING_BYTES, CALLS_BYTES, LOOKED_INTO, MAX_CALL, MAX_NAME, MAX_VALUES
from retrieval.ui.serving.uploads import make_room

TOO_LARGE = "The request is too large. Send a smaller image."
CROWDED = "This page is receiving too much data at once. Try again in a minute."
NOT_FOUND = "This page does not exist."
DISK_FULL = "The server's disk is full, so it cannot accept images at the moment. Try again later."

TOO_MANY_HEADERS = "The request has too many headers."

HEADERS = 200  # of a request; browsers and proxies together send about 40
FORM_BYTES = 2**20  # of an upload in addition to the image
UPLOAD = "/gradio_api/upload"  # the only route whose body gradio writes to the disk as it arrives

# Routes of gradio that this page never uses. The first runs ffmpeg on a visitor's file, the second writes a file at
# each call, the third sends requests to other servers, and the next ones serve gradio's editor. `cancel` can leave a
# call in memory for good (the page stops its jobs in its own way, see `tabs/stopping.py`), and the last one prints what
# the visitor sent.
UNUSED = re.compile(r"/gradio_api/(process_recording|deep_link|proxy=|vibe-|undo-vibe-|dev/|cancel|custom_component)")
# Of the MCP server, these paths alone: for any that ends like them, gradio shows browsers a page with a script that
# contains the path.
MCP = "/gradio_api/mcp"
MCP_PATHS = re.compile(rf"{MCP}(/|/http/?|/schema)?")
# Calls that bypass the queue; the page has one, with a time.
UNQUEUED, UNQUEUED_BYTES = re.compile(r"/gradio_api/(run|api)/"), 4096
QUERY_BYTES = 256  # of an upload's query string, since gradio keeps the id in it
LENGTH = re.compile(rb"\d{1,12}")


class TooLarge(MultiPartException):
    """A request is too large. gradio's reader of uploads then deletes what it has written."""

    def __init__(self) -> None:
        # gradio answers 413 to messages that contain "maximum allowed size".
        super().__init__(f"{TOO_LARGE} It exceeds the maximum allowed size.")


class BodyLimit:
    """ASGI middleware that refuses requests over their limits and unused routes, and keeps the uploads bounded."""

    def __init__(self, app: ASGIApp, uploads: Path, upload_bytes: int = MAX_BYTES) -> None:
        self._app = app
        self._uploads = uploads
        self._max_upload = upload_bytes + FORM_BYTES
        self._held = 0  # bytes of all calls being read or answered
        self._arriving = 0  # bytes of all uploads being read

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 404, 413, 431, 503 or 507, or pass the request on."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        if UNUSED.search(scope["path"]) or (MCP in scope["path"] and not MCP_PATHS.fullmatch(path)):
            return await refuse(send, 404, NOT_FOUND)
        if len(scope["headers"]) > HEADERS:
            return await refuse(send, 431, TOO_MANY_HEADERS)
        # Decided by the path alone, because the app may read duplicate Content-Type headers in another way.
        upload = scope["method"] == "POST" and path == UPLOAD
        length = dict(scope.get("headers", ())).get(b"content-length", b"0")
        if not LENGTH.fullmatch(length) or int(length) > (self._max_upload if upload else MAX_CALL):
            return await refuse(send, 413, TOO_LARGE)
        if path.startswith(UPLOAD) and len(scope.get("query_string", b"")) > QUERY_BYTES:
            return await refuse(send, 413, TOO_LARGE)
        if upload:
            return await self._upload(scope, receive, send, int(length) or self._max_upload)
        if scope["method"] in ("GET", "HEAD", "OPTIONS"):
            return await self._app(scope, receive, send)
        return await self._call(scope, receive, send)

    async def _upload(self, scope: Scope, receive: Receive, send: Send, size: int) -> None:
        """Pass on an upload of at most `size` bytes if there is room for it and for all that are still arriving."""
        if self._arriving + size > ARRIVING_BYTES:
            return await refuse(send, 503, CROWDED)
        self._arriving += size
        try:
            if not await anyio.to_thread.run_sync(make_room, self._uploads, self._arriving):
                return await refuse(send, 507, DISK_FULL)
            return await self._app(scope, _counted(receive, self._max_upload), send)
        finally:
            self._arriving -= size

    async def _call(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read a call's body and pass both on; a short one is read even if others use up the memory for calls."""
        read = bytearray()
        most = UNQUEUED_BYTES if UNQUEUED.search(scope["path"]) else MAX_CALL
        size = 0
        more = True
        try:
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return None  # the visitor has left
                piece = message.get("body", b"")
                read += piece
                size += len(piece)
                self._held += len(piece)
                if size > most:
                    return await refuse(send, 413, TOO_LARGE)
                if size > LOOKED_INTO and self._held > CALLS_BYTES:
                    return await refuse(send, 503, CROWDED)
                more = message.get("more_body", False)
            body = bytes(read)
            read.clear()
            if size > LOOKED_INTO and not _may_be_long(body):
                return await refuse(send, 413, TOO_LARGE)
            return await self._app(scope, _replayed(body, receive), send)
        finally:
            self._held -= size


async def refuse(send: Send, status: int, why: str) -> None:
    """Answer a request with a status and a reason, and close its connection."""
    headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps({"detail": why}).encode()})


def _counted(receive: Receive, most: int) -> Receive:
    """Return the same messages up to `most` bytes; an interrupted upload ends like one that is too large."""
    size = 0
    over = False

    async def counted() -> Message:
        nonlocal size, over
        message = await receive()
        size += len(message.get("body", b""))
        if size > most or (message["type"] == "http.disconnect" and not over):
            raise TooLarge
        over = over or not message.get("more_body", False)
        return message

    return counted


def _replayed(body: bytes, receive: Receive) -> Receive:
    """Return the messages of `receive` after one with a body that was already read."""
    left = [body]

    async def replayed() -> Message:
        if left:
            return {"type": "http.request", "body": left.pop(), "more_body": False}
        return await receive()

    return replayed


def _may_be_long(body: bytes) -> bool:
    """Whether a long call consists of few values, and its own long strings are not kept after the call."""
    if sum(body.count(sign) for sign in (b"[", b"{", b",")) > MAX_VALUES:
        return False
    try:
        call = json.loads(body)
    except (ValueError, RecursionError):
        return True  # the app reports it with a better message
    values = call.values() if isinstance(call, dict) else ()
    return not any(isinstance(each, str) and len(each) > MAX_NAME for each in values)
