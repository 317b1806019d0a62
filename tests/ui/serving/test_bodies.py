"""The limits on request bodies, tested without a server."""

import asyncio
import json
from collections.abc import AsyncIterator, Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import httpx
import pytest
from starlette.responses import PlainTextResponse

from retrieval.ui.serving import bodies, uploads
from retrieval.ui.serving.bodies import BodyLimit
from retrieval.ui.serving.limits import MAX_CALL

Result = TypeVar("Result")


def run(work: Coroutine[Any, Any, Result]) -> Result:
    """Run a coroutine in a new thread, because the browser tests leave an event loop running in this one."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, work).result()


def post(limited: BodyLimit, path: str, content: Any, headers: Any = None) -> httpx.Response:
    """Post to the middleware directly, without a server."""

    async def send_body() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(limited), base_url="http://page") as client:
            return await client.post(path, content=content, headers=headers)

    return run(send_body())


def get(limited: BodyLimit, path: str) -> httpx.Response:
    async def read() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(limited), base_url="http://page") as client:
            return await client.get(path)

    return run(read())


@pytest.mark.parametrize("kinds", [("application/json", "multipart/form-data"), ("multipart/form-data", "text/plain")])
def test_upload_with_two_content_types_deletes_old_uploads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kinds: tuple[str, str]
) -> None:
    (tmp_path / "old.png").write_bytes(bytes(100))
    monkeypatch.setattr(uploads, "UPLOADS_FILES", 0)
    headers = [("Content-Type", f"{kind}; boundary=x") for kind in kinds]
    limited = BodyLimit(PlainTextResponse("taken"), tmp_path)
    assert post(limited, "/gradio_api/call/search", b"x", headers).text == "taken"
    assert (tmp_path / "old.png").exists(), "calls must not delete uploads"
    assert post(limited, "/gradio_api/upload", b"x", headers).text == "taken"
    assert not (tmp_path / "old.png").exists()


def test_memory_of_all_calls_together_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unfinished calls use all the memory: then long calls are refused, but short ones are not."""
    limited = BodyLimit(PlainTextResponse("taken"), tmp_path)
    scope = {"type": "http", "method": "POST", "path": "/gradio_api/call/search", "headers": []}
    long = b"A" * MAX_CALL

    async def send_body(body: bytes, more: bool) -> tuple[int, str]:
        """Send a body and return the answer; with `more`, leave it unfinished and disconnect once `done` is set."""
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

    async def check_crowd() -> None:
        slow = [asyncio.create_task(send_body(long, more=True)) for _ in range(3)]
        for _ in slow:
            await waiting.acquire()
        assert await send_body(long, more=False) == (503, json.dumps({"detail": bodies.CROWDED}))
        assert await send_body(b"{}", more=False) == (200, "taken")
        done.set()
        assert await asyncio.gather(*slow) == [(0, "")] * len(slow)
        assert await send_body(long, more=False) == (200, "taken"), "their memory is free again"

    monkeypatch.setattr(bodies, "CALLS_BYTES", 3 * MAX_CALL)
    waiting, done = asyncio.Semaphore(0), asyncio.Event()
    run(check_crowd())


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/mcp/</script><script>alert(1)</script>/gradio_api/mcp/",  # gradio puts it into a script
        "/gradio_api/mcp/x/gradio_api/mcp",
        "/x/gradio_api/mcp/http",
        "/gradio_api/custom_component/\x1b]0;x\x07/client/x/y",  # gradio prints it
    ],
)
def test_paths_that_gradio_repeats_are_refused(tmp_path: Path, path: str) -> None:
    limited = BodyLimit(PlainTextResponse("taken"), tmp_path)
    answers = [post(limited, quote(path), b"{}"), get(limited, quote(path))]
    assert [each.status_code for each in answers] == [404, 404]
    assert not any("script" in each.text for each in answers)


@pytest.mark.parametrize("path", ["", "/", "/http", "/http/", "/schema"])
def test_mcp_server_is_reached(tmp_path: Path, path: str) -> None:
    assert get(BodyLimit(PlainTextResponse("taken"), tmp_path), f"/gradio_api/mcp{path}").text == "taken"


def test_what_gradio_would_keep_is_short(tmp_path: Path) -> None:
    """The values of a call that bypasses the queue, and the names of uploads."""
    limited = BodyLimit(PlainTextResponse("taken"), tmp_path)
    assert post(limited, "/gradio_api/run/predict", b'{"data": [null, 1790000000000], "fn_index": 3}').text == "taken"
    assert post(limited, "/gradio_api/run/predict", b"x" * 5000).status_code == 413
    assert post(limited, "/gradio_api/upload?upload_id=abcdefghijk", b"x").text == "taken"
    for route in ("upload", "upload_progress"):
        assert post(limited, f"/gradio_api/{route}?upload_id={'x' * 1000}", b"x").status_code == 413
    assert get(limited, f"/gradio_api/upload_progress?upload_id={'x' * 1000}").status_code == 413


def test_length_of_thousands_of_digits_is_refused(tmp_path: Path) -> None:
    """Python refuses to read such a number."""
    limited = BodyLimit(PlainTextResponse("taken"), tmp_path)
    assert post(limited, "/gradio_api/call/query", b"12345", {"Content-Length": "0" * 5000 + "5"}).status_code == 413


def test_uploads_that_are_still_arriving_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unfinished uploads must not fill the disk."""
    monkeypatch.setattr(bodies, "ARRIVING_BYTES", 3 * 2**20)

    async def check_refusal() -> list[int]:
        arrived, done = asyncio.Event(), asyncio.Event()

        async def app(scope: Any, receive: Any, send: Any) -> None:
            arrived.set()
            await done.wait()
            await PlainTextResponse("taken")(scope, receive, send)

        transport = httpx.ASGITransport(BodyLimit(app, tmp_path, 2**20))  # 1 MB more for the form
        async with httpx.AsyncClient(transport=transport, base_url="http://page") as client:

            async def upload(size: int) -> int:
                return (await client.post("/gradio_api/upload", content=bytes(size))).status_code

            first = asyncio.create_task(upload(2 * 2**20))
            await arrived.wait()
            refused = await upload(2 * 2**20)
            done.set()
            return [refused, await first, await upload(2 * 2**20)]

    assert run(check_refusal()) == [503, 200, 200]


def test_uploads_are_refused_when_the_disk_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "ARRIVING_BYTES", 10**19)
    # Without a Content-Length, an upload may be as large as the limit, which no disk has space for.
    limited = BodyLimit(lambda *_: pytest.fail("it was let through"), tmp_path, upload_bytes=10**18)

    async def pieces() -> AsyncIterator[bytes]:
        yield b"--x\r\n"

    (tmp_path / "old.png").write_bytes(bytes(100))
    answer = post(limited, "/gradio_api/upload", pieces(), {"Content-Type": "multipart/form-data; boundary=x"})
    assert (answer.status_code, answer.json()["detail"]) == (507, bodies.DISK_FULL)
    assert not (tmp_path / "old.png").exists()  # old uploads were deleted to make space
