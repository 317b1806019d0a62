"""The limits of what a request may send, without a server behind them."""

import asyncio
import json
from collections.abc import AsyncIterator, Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest
from starlette.responses import PlainTextResponse

from retrieval.ui.serving import bodies, uploads
from retrieval.ui.serving.bodies import BodyLimit
from retrieval.ui.serving.limits import MAX_CALL

Result = TypeVar("Result")


def run(work: Coroutine[Any, Any, Result]) -> Result:
    """Run something asynchronous; in a thread, since the browser's tests leave a loop running in this one."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, work).result()


def ask(limited: BodyLimit, path: str, content: Any, headers: Any = None) -> httpx.Response:
    """Post to what is behind the limits alone, without a server."""

    async def posted() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(limited), base_url="http://page") as client:
            return await client.post(path, content=content, headers=headers)

    return run(posted())


@pytest.mark.parametrize("kinds", [("application/json", "multipart/form-data"), ("multipart/form-data", "text/plain")])
def test_an_upload_of_two_kinds_makes_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kinds: tuple[str, str]
) -> None:
    (tmp_path / "old.png").write_bytes(bytes(100))
    monkeypatch.setattr(uploads, "UPLOADS_FILES", 0)
    headers = [("Content-Type", f"{kind}; boundary=x") for kind in kinds]
    limited = BodyLimit(PlainTextResponse("taken"), tmp_path)
    assert ask(limited, "/gradio_api/call/search", b"x", headers).text == "taken"
    assert (tmp_path / "old.png").exists(), "a call that uploads nothing"
    assert ask(limited, "/gradio_api/upload", b"x", headers).text == "taken"
    assert not (tmp_path / "old.png").exists()


def test_all_calls_together_take_no_more_memory_than_they_may(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as fill it, which never end; then a long one is told to wait, a short one is not."""
    limited = BodyLimit(PlainTextResponse("taken"), tmp_path)
    scope = {"type": "http", "method": "POST", "path": "/gradio_api/call/search", "headers": []}
    long = b"A" * MAX_CALL

    async def posted(body: bytes, more: bool) -> tuple[int, str]:
        """Send a body, break it off when all are done if more of it was promised; return what is answered."""
        pieces = [{"type": "http.request", "body": body, "more_body": more}]
        sent: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            if not pieces:
                waiting.release()
                await done.wait()
                return {"type": "http.disconnect"}
            return pieces.pop()

        async def send(message: Any) -> None:
            sent.append(message)

        await limited(scope, receive, send)
        return (sent[0]["status"], sent[1]["body"].decode()) if sent else (0, "")

    async def crowd() -> None:
        slow = [asyncio.create_task(posted(long, more=True)) for _ in range(3)]
        for _ in slow:
            await waiting.acquire()
        assert await posted(long, more=False) == (503, json.dumps({"detail": bodies.CROWDED}))
        assert await posted(b"{}", more=False) == (200, "taken")
        done.set()
        assert await asyncio.gather(*slow) == [(0, "")] * len(slow)
        assert await posted(long, more=False) == (200, "taken"), "what they held is free again"

    monkeypatch.setattr(bodies, "CALLS_BYTES", 3 * MAX_CALL)
    waiting, done = asyncio.Semaphore(0), asyncio.Event()
    run(crowd())


def test_a_full_disk_takes_no_upload_and_says_so(tmp_path: Path) -> None:
    # An upload that does not say how large it is may be the largest, for which no disk has room here.
    limited = BodyLimit(lambda *_: pytest.fail("it was let through"), tmp_path, upload_bytes=10**18)

    async def pieces() -> AsyncIterator[bytes]:
        yield b"--x\r\n"

    (tmp_path / "old.png").write_bytes(bytes(100))
    answer = ask(limited, "/gradio_api/upload", pieces(), {"Content-Type": "multipart/form-data; boundary=x"})
    assert (answer.status_code, answer.json()["detail"]) == (507, bodies.DISK_FULL)
    assert not (tmp_path / "old.png").exists()  # which might have made room
