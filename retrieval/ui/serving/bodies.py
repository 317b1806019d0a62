"""What a request may be: no larger than its limits, said or not, and nothing that this page has no use for."""

import json
import re
from pathlib import Path

import anyio
from starlette.formparsers import MultiPartException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from retrieval.pictures.loading import MAX_BYTES
from retrieval.ui.serving.limits import CALLS_BYTES, LOOKED_INTO, MAX_CALL, MAX_NAME, MAX_VALUES
from retrieval.ui.serving.uploads import make_room

TOO_LARGE = "The request is too large. Send a smaller image."
CROWDED = "This page is receiving too much data right now. Try again in a minute."
NO_SUCH_ROUTE = "This page does not offer that."
FULL = "The disk of this server is full, so it cannot accept images now. Try again later."

SURROUNDINGS = 2**20  # bytes of an upload beside the picture
UPLOAD = "/gradio_api/upload"  # the one place whose requests gradio writes to the disk as they come

# What gradio serves besides, and this page never asks for. The first runs ffmpeg on a file of the visitor's, the second
# writes a file at each call, the third asks other servers, the others are for who edits an app.
UNUSED = re.compile(r"/gradio_api/(process_recording|deep_link|proxy=|vibe-|undo-vibe-|dev/)")


class TooLarge(MultiPartException):
    """A request is larger than it may be; gradio's reader of uploads then deletes what it has written."""

    def __init__(self) -> None:
        """Say so in the words by which gradio knows to answer 413."""
        super().__init__(f"{TOO_LARGE} It is beyond the maximum allowed size.")


class BodyLimit:
    """Refuses requests that are too large, said or not, and what this page has no use for; keeps uploads bounded."""

    def __init__(self, app: ASGIApp, uploads: Path, upload_bytes: int = MAX_BYTES) -> None:
        """Take the app behind it, the folder to which gradio writes files, and how large a picture may be."""
        self._app = app
        self._uploads = uploads
        self._max_upload = upload_bytes + SURROUNDINGS
        self._held = 0  # bytes of the bodies of all calls that are read or answered now

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 404, 413, 503 or 507, or hand the request on."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        if UNUSED.search(scope["path"]):
            return await refuse(send, 404, NO_SUCH_ROUTE)
        # By its path alone: what its headers say of its kind, twice perhaps, may be read in another way further in.
        upload = scope["method"] == "POST" and scope["path"].removeprefix(scope.get("root_path", "")) == UPLOAD
        length = dict(scope.get("headers", ())).get(b"content-length", b"0")
        if not length.isdigit() or int(length) > (self._max_upload if upload else MAX_CALL):
            return await refuse(send, 413, TOO_LARGE)
        if upload:
            if not await anyio.to_thread.run_sync(make_room, self._uploads, int(length) or self._max_upload):
                return await refuse(send, 507, FULL)
            return await self._app(scope, _counted(receive, self._max_upload), send)
        if scope["method"] in ("GET", "HEAD", "OPTIONS"):
            return await self._app(scope, receive, send)
        return await self._call(scope, receive, send)

    async def _call(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read a call's body and hand both on; a short call is read however much the others hold."""
        read = bytearray()
        size = 0
        more = True
        try:
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return None  # the visitor has gone
                piece = message.get("body", b"")
                read += piece
                size += len(piece)
                self._held += len(piece)
                if size > MAX_CALL:
                    return await refuse(send, 413, TOO_LARGE)
                if size > LOOKED_INTO and self._held > CALLS_BYTES:
                    return await refuse(send, 503, CROWDED)
                more = message.get("more_body", False)
            body = bytes(read)
            read.clear()
            if size > LOOKED_INTO and not _plain(body):
                return await refuse(send, 413, TOO_LARGE)
            return await self._app(scope, _again(body, receive), send)
        finally:
            self._held -= size


async def refuse(send: Send, status: int, why: str) -> None:
    """Answer a request with a status and the reason in words, and close its connection."""
    headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps({"detail": why}).encode()})


def _counted(receive: Receive, most: int) -> Receive:
    """Return the same messages up to `most` bytes; an upload that is broken off ends like one too large."""
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


def _again(body: bytes, receive: Receive) -> Receive:
    """Return messages that bring a body that was read already, and then what comes after it."""
    left = [body]

    async def again() -> Message:
        if left:
            return {"type": "http.request", "body": left.pop(), "more_body": False}
        return await receive()

    return again


def _plain(body: bytes) -> bool:
    """Whether a long call is long for its texts alone, and only for those that do not outlive it."""
    if sum(body.count(sign) for sign in (b"[", b"{", b",")) > MAX_VALUES:
        return False
    try:
        call = json.loads(body)
    except (ValueError, RecursionError):
        return True  # which the app says better
    values = call.values() if isinstance(call, dict) else ()
    return not any(isinstance(each, str) and len(each) > MAX_NAME for each in values)
