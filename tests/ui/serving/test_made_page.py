"""The page as visitors get it, compared with gradio's own answers."""

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import gradio as gr
import httpx
import pytest
from PIL import Image
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from retrieval.ui.serving import made_page
from retrieval.ui.serving.made_page import MadePage

ADDRESS = "http://127.0.0.1:7860"
NAMES: tuple[dict[str, str], ...] = (
    {},
    {"Host": "192.0.2.7:7860"},
    {"Host": "[2001:db8::1]:7860"},
    {"Host": "demo.hf.space", "X-Forwarded-Proto": "https"},
    {"Host": "127.0.0.1", "X-Forwarded-Host": "example.org, other.example", "X-Forwarded-Proto": "https,http"},
    {"X-Gradio-Server": "http://node.example:7861"},
)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[gr.Blocks]:
    picture = tmp_path_factory.mktemp("page") / "gray.png"
    Image.new("L", (8, 8)).save(picture)
    with gr.Blocks() as blocks:
        gr.Image(str(picture))  # its address contains that of the page
    blocks.launch(prevent_thread_lock=True, quiet=True)
    yield blocks
    blocks.close(verbose=False)


def answers(page: gr.Blocks, app: ASGIApp, path: str, names: list[dict[str, str]]) -> list[httpx.Response]:
    """Ask for a path under each of the names, all at once and without a server."""

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        await app({**scope, "app": page.app}, receive, send)

    async def read() -> list[httpx.Response]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(serve), base_url=ADDRESS) as client:
            return await asyncio.gather(*(client.get(path, headers=httpx.Headers(each, "latin-1")) for each in names))

    with ThreadPoolExecutor(1) as thread:  # the browser tests leave an event loop running in this one
        return thread.submit(asyncio.run, read()).result()


@pytest.mark.parametrize("root_path", ["", "/behind", "https://example.org/behind"])
@pytest.mark.parametrize("path", ["/", "/config", "/config/", "/?text=fox&deep_link=x", "/?__theme=dark"])
def test_page_is_the_one_that_gradio_makes(
    page: gr.Blocks, monkeypatch: pytest.MonkeyPatch, path: str, root_path: str
) -> None:
    monkeypatch.setattr(page.app, "root_path", root_path)
    plain = answers(page, page.app, path.split("?")[0], [*NAMES])
    for own, ours in zip(plain, answers(page, MadePage(page.app), path, [*NAMES]), strict=True):
        assert (ours.status_code, ours.headers, ours.content) == (200, own.headers, own.content)
        assert made_page.STAND_IN not in ours.text


def test_many_visitors_cost_one_page(page: gr.Blocks, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if each uses another name."""
    made: list[str] = []

    async def counted(scope: Scope, receive: Receive, send: Send) -> None:
        made.append(scope["path"])
        await page.app(scope, receive, send)

    names = [f"visitor-{number}.example" for number in range(50)]
    for name, answer in zip(
        names, answers(page, MadePage(counted), "/", [{"Host": each} for each in names]), strict=True
    ):
        assert f"http://{name}" in answer.text
    assert made == ["/"]
    monkeypatch.setattr(made_page, "FRESH", 0.0)
    answers(page, MadePage(counted), "/", [{}, {}])
    assert made == ["/"] * 3


def test_slow_readers_hold_up_nobody(page: gr.Blocks) -> None:
    app, read = MadePage(page.app), list[str]()

    async def check() -> None:
        slow = asyncio.Event()
        scope = {"type": "http", "method": "GET", "path": "/", "query_string": b"", "headers": [], "app": page.app}
        scope |= {"server": ("127.0.0.1", 7860), "scheme": "http"}

        async def read_slowly(_: Message) -> None:
            await slow.wait()

        async def read_at_once(message: Message) -> None:
            read.append(message["type"])

        slow_visitor = asyncio.create_task(app(scope, nothing, read_slowly))
        await asyncio.gather(*(app(scope, nothing, read_at_once) for _ in range(20)))
        slow.set()
        await slow_visitor

    async def nothing() -> Message:
        raise AssertionError("nothing was sent")

    with ThreadPoolExecutor(1) as thread:
        thread.submit(asyncio.run, check()).result()
    assert len(read) == 40


@pytest.mark.parametrize("header", ["Host", "X-Forwarded-Host", "X-Gradio-Server"])
def test_names_never_reach_the_page_unescaped(page: gr.Blocks, header: str) -> None:
    names = ['x"onload=alert(1)', "<script>alert(1)</script>", "x'y", "a b", "a&b", "\xe9", "[::"]
    for name, answer in zip(
        names, answers(page, MadePage(page.app), "/", [{header: each} for each in names]), strict=True
    ):
        assert answer.status_code in (200, 400)
        assert name not in answer.text
