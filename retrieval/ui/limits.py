"""How much visitors can ask of the server at once, how large a request may be, and what may be asked at all."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
from starlette.formparsers import MultiPartException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from retrieval import words
from retrieval.images import MAX_BYTES

# Of all events of a group together so many run at a time; without a group, gradio would let so many run of each.
SEARCHES: dict[str, Any] = {"concurrency_id": "search", "concurrency_limit": 4}
LONG: dict[str, Any] = {"concurrency_id": "long", "concurrency_limit": 2}  # sweeps and evaluations
WAITING = 64  # events in the queue; beyond that visitors are told that the page is busy
# Sessions that gradio keeps the state of, those used last: of each the whole page's configuration, 0.3 MB and 9 ms to
# make. A call of the API that names no session is one. Who comes back to a forgotten one only finds the trail empty.
SESSIONS = 100
ANSWERS = 200  # sessions whose answers gradio keeps until they are fetched; a long one takes 4 MB

MAX_UPLOAD = MAX_BYTES + 2**20  # a picture and its surroundings
MAX_CALL = 12 * 2**20  # any other request; in base64 that is a picture of 9 MB
MAX_VALUES = 100_000  # of a call: a list of nothing but lists takes 20 times its length in memory
MAX_NAME = 1000  # of a call's own texts, such as its session, which are kept when it is over; a picture is not one
LOOKED_INTO = 2**16  # bytes; a shorter call cannot break the two limits by much
UPLOADS_BYTES = 2 * 2**30
UPLOADS_FILES = 2000

# What gradio serves besides, and this page never asks for. The first runs ffmpeg on a file of the visitor's, the second
# writes a file at each call, the third asks other servers, the others are for who edits an app.
UNUSED = re.compile(r"/gradio_api/(process_recording|deep_link|proxy=|vibe-|undo-vibe-|dev/)")


class TooLarge(MultiPartException):
    """A request is larger than it may be; gradio's reader of uploads then deletes what it has written."""

    def __init__(self) -> None:
        """Say so in the words by which gradio knows to answer 413."""
        super().__init__(f"{words.TOO_LARGE} It is beyond the maximum allowed size.")


class BodyLimit:
    """Refuses requests that are too large, said or not, and what this page has no use for; keeps uploads bounded."""

    def __init__(self, app: ASGIApp, uploads: Path) -> None:
        """Take the app behind it, and the folder to which gradio writes files."""
        self._app = app
        self._uploads = uploads

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 404 or 413, or hand the request on."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        if UNUSED.search(scope["path"]):
            return await _refuse(send, 404, words.UNUSED)
        headers = dict(scope.get("headers", ()))
        length = headers.get(b"content-length", b"0")
        form = headers.get(b"content-type", b"").strip().lower().startswith(b"multipart/form-data")
        if not length.isdigit() or int(length) > (MAX_UPLOAD if form else MAX_CALL):
            return await _refuse(send, 413, words.TOO_LARGE)
        if form:
            await anyio.to_thread.run_sync(make_room, self._uploads)
            return await self._app(scope, _counted(receive), send)
        if scope["method"] in ("GET", "HEAD", "OPTIONS"):
            return await self._app(scope, receive, send)
        body = await _whole(receive)
        if body is None:
            return None  # the visitor has gone
        if len(body) > MAX_CALL or (len(body) > LOOKED_INTO and not _plain(body)):
            return await _refuse(send, 413, words.TOO_LARGE)
        return await self._app(scope, _again(body, receive), send)


async def _refuse(send: Send, status: int, why: str) -> None:
    headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps({"detail": why}).encode()})


def _counted(receive: Receive) -> Receive:
    """Return the same messages up to `MAX_UPLOAD` bytes; an upload that is broken off ends like one too large."""
    size = 0
    over = False

    async def counted() -> Message:
        nonlocal size, over
        message = await receive()
        size += len(message.get("body", b""))
        if size > MAX_UPLOAD or (message["type"] == "http.disconnect" and not over):
            raise TooLarge
        over = over or not message.get("more_body", False)
        return message

    return counted


async def _whole(receive: Receive) -> bytes | None:
    """Return a request's body, or as much as is too much of it."""
    pieces: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        pieces.append(message.get("body", b""))
        size += len(pieces[-1])
        if size > MAX_CALL or not message.get("more_body", False):
            return b"".join(pieces)


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


def make_room(folder: Path) -> None:
    """Delete the oldest files below a folder until it is within `UPLOADS_BYTES` and `UPLOADS_FILES`."""
    found = sorted(_files(folder))
    size = sum(each for _, each, _ in found)
    for left, (_, each, path) in zip(range(len(found), 0, -1), found, strict=True):
        if size <= UPLOADS_BYTES and left <= UPLOADS_FILES:
            break
        Path(path).unlink(missing_ok=True)
        size -= each


def _files(folder: Path) -> Iterator[tuple[float, int, str]]:
    for path in folder.rglob("*"):
        try:
            state = path.lstat()
        except OSError:  # gone meanwhile
            continue
        if path.is_file():
            yield state.st_mtime, state.st_size, str(path)
