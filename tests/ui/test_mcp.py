"""The page as an MCP server, called with the client of the package `mcp`; and no visitor can make it fetch a URL."""

import asyncio
import base64
import importlib.util
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
import safehttpx
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from mcp import ClientSession
from mcp.client.streamable_http import streamable_http_client
from mcp.types import CallToolResult, InitializeResult, Tool

from retrieval.engines import AUTO, ENGINES
from retrieval.features import DEFAULT_SET
from retrieval.metrics import Metric
from retrieval.search.query import Added, Query
from retrieval.search.searcher import Searcher
from retrieval.ui.arguments import NOT_BASE64
from retrieval.ui.page import TITLE
from retrieval.ui.serving.gradio_patches import NO_ADDRESS
from retrieval.ui.widgets.picture_input import NOT_UPLOADED
from tests.support.canary import Canary
from tests.support.waiting import PATIENCE

PICTURE_TOOL = "search"
TEXT_TOOL = "query"

COMMON_DEFAULTS = {  # arguments of both tools besides their query, with their defaults
    "features": "clip",
    "metric": "cosine",
    "engine": "auto",
    "top_k": 10,
    "gallery": "",
}


@pytest.fixture(scope="module")
def searcher(page_searcher: Searcher) -> Searcher:
    """The searcher of the served page."""
    return page_searcher


@pytest.fixture
def canary() -> Iterator[str]:
    """The address of a server on loopback that must not receive any request."""
    handler = type("Handler", (Canary,), {"requests": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
    assert handler.requests == []


def in_session(address: str, ask: Any) -> Any:
    async def run() -> Any:
        async with (
            streamable_http_client(f"{address}/gradio_api/mcp/") as (read, write, _),
            ClientSession(read, write) as session,
        ):
            return await ask(session, await session.initialize())

    with ThreadPoolExecutor(1) as thread:  # because the browser tests have an event loop running in this one
        return thread.submit(asyncio.run, run()).result()


def call(address: str, tool: str, **arguments: Any) -> CallToolResult:
    async def ask(session: ClientSession, _: InitializeResult) -> CallToolResult:
        return await session.call_tool(tool, arguments)

    return in_session(address, ask)


def call_for_result(address: str, tool: str, **arguments: Any) -> dict[str, Any]:
    result = call(address, tool, **arguments)
    assert not result.isError, result.content
    (text,) = result.content
    return json.loads(text.text)


def call_for_error(address: str, tool: str, **arguments: Any) -> str:
    result = call(address, tool, **arguments)
    assert result.isError, result.content
    (text,) = result.content
    assert "Traceback" not in text.text
    return text.text


def data_uri(picture: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(picture).decode()}"


@pytest.fixture(scope="module")
def tools(address: str) -> dict[str, Tool]:
    async def ask(session: ClientSession, hello: InitializeResult) -> list[Tool]:
        assert hello.serverInfo.name == TITLE
        assert (await session.list_resources()).resources == []
        assert (await session.list_prompts()).prompts == []
        return (await session.list_tools()).tools

    return {tool.name: tool for tool in in_session(address, ask)}


def test_tools_are_the_endpoints_without_events_of_the_page(tools: dict[str, Tool]) -> None:
    assert set(tools) == {PICTURE_TOOL, TEXT_TOOL, "compare", "robustness", "why", "evaluate"}


@pytest.mark.parametrize("name", [PICTURE_TOOL, TEXT_TOOL])
def test_every_argument_is_documented(tools: dict[str, Tool], name: str) -> None:
    tool = tools[name]
    schema = tool.inputSchema
    assert tool.description.startswith("Find the images of a gallery")
    assert "Returns: JSON" in tool.description
    properties = schema["properties"]
    assert all(len(each["description"]) > 20 for each in properties.values())
    assert {key: properties[key]["default"] for key in COMMON_DEFAULTS} == COMMON_DEFAULTS
    assert all(f'"{name}"' in properties["features"]["description"] for name in DEFAULT_SET)
    assert properties["metric"]["enum"] == list(Metric)
    assert properties["engine"]["enum"] == [AUTO, *ENGINES]
    assert (properties["top_k"]["type"], properties["top_k"]["maximum"]) == ("integer", 10_000)
    assert properties["image"]["oneOf"] == [{"type": "string"}, {"type": "null"}]
    assert "base64" in properties["image"]["description"]
    assert "url" not in json.dumps(schema).lower(), "this would invite URLs"


def test_only_the_picture_of_an_image_search_is_required(tools: dict[str, Tool]) -> None:
    assert tools[PICTURE_TOOL].inputSchema["required"] == ["image"]
    assert "required" not in tools[TEXT_TOOL].inputSchema
    assert tools[TEXT_TOOL].inputSchema["properties"]["labels"]["items"] == {"type": "string"}


@pytest.mark.parametrize("prefix", ["data:image/png;base64,", ""])
def test_search_with_base64_matches_the_searcher(address: str, searcher: Searcher, queries: Path, prefix: str) -> None:
    picture = (queries / "pizza.png").read_bytes()
    found = call_for_result(address, PICTURE_TOOL, image=prefix + base64.b64encode(picture).decode(), top_k=7)
    wanted = searcher.search(Query(picture=picture, top_k=7, engine=AUTO)).to_json()
    assert found | {"timings_ms": None} == wanted | {"timings_ms": None}
    assert found["hits"][0]["caption"] == "pizza"


def test_text_search_matches_the_searcher(address: str, searcher: Searcher) -> None:
    asked: dict[str, Any] = {"text": "red fruit", "without": "apple", "labels": ["food-fruit"]}
    found = call_for_result(address, TEXT_TOOL, **asked, top_k=3)
    wanted = searcher.search(
        Query(text="red fruit", without="apple", labels=("food-fruit",), top_k=3, engine=AUTO)
    ).to_json()
    assert found | {"timings_ms": None} == wanted | {"timings_ms": None}


def test_added_images_and_notes_match_the_searcher(address: str, searcher: Searcher, queries: Path) -> None:
    fox, item = (queries / "fox.png").read_bytes(), searcher.indexes.get().position("1f32f")
    found = call_for_result(
        address, TEXT_TOOL, text="猫", more=["1f32f"], less=[data_uri(fox)], engine="exact", top_k=3
    )
    added = (Added(position=item), Added(fox, more=False))
    wanted = searcher.search(Query(text="猫", added=added, top_k=3)).to_json()
    assert found | {"timings_ms": None} == wanted | {"timings_ms": None}
    assert found["notes"][0].startswith('The model mini cannot read most of "猫"')


def test_search_with_text_and_picture(address: str, searcher: Searcher, queries: Path) -> None:
    picture = (queries / "cat.png").read_bytes()
    found = call_for_result(address, TEXT_TOOL, text="blue", image=data_uri(picture), balance=0.7)
    assert (
        found["hits"]
        == searcher.search(Query(picture=picture, text="blue", balance=0.7, engine=AUTO)).to_json()["hits"]
    )


def test_file_uploaded_by_gradios_helper_is_searched(address: str, queries: Path) -> None:
    with (queries / "fox.png").open("rb") as file:  # what `gradio upload-mcp` does
        uploaded = httpx.post(f"{address}/gradio_api/upload", files={"files": file}).raise_for_status().json()[0]
    found = call_for_result(address, PICTURE_TOOL, image=f"{address}/gradio_api/file={uploaded}", top_k=1)
    assert len(found["hits"]) == 1


def test_several_feature_types_are_searched_at_once(address: str, queries: Path) -> None:
    fox = data_uri((queries / "fox.png").read_bytes())
    both = call_for_result(address, PICTURE_TOOL, image=fox, features="pixels,clip", top_k=3)
    for ranking, name in zip(both["rankings"], ("pixels", "clip"), strict=True):
        alone = call_for_result(address, PICTURE_TOOL, image=fox, features=name, top_k=3)
        assert (ranking["features"], ranking["hits"]) == (name, alone["hits"])


@pytest.mark.parametrize(
    ("tool", "arguments", "said"),
    [
        (TEXT_TOOL, {"text": "red", "features": "pixels"}, "Text search needs CLIP features"),
        (TEXT_TOOL, {"text": "red", "labels": ["nothing"]}, "No image has the label 'nothing'."),
        (TEXT_TOOL, {"text": "red", "labels": "flags"}, "'flags' is not of type 'array'"),
        (TEXT_TOOL, {}, "The argument image is missing."),
        (PICTURE_TOOL, {}, "'image' is a required property"),
        (PICTURE_TOOL, {"image": ""}, "The argument image is missing."),
        (TEXT_TOOL, {"text": "red", "features": "colour"}, "has no colour features; it has pixels, color, clip"),
        (TEXT_TOOL, {"text": "red", "features": ""}, "Features '' does not exist"),
        (PICTURE_TOOL, {"image": "x", "top_k": 0}, "0 is less than the minimum of 1"),
        (PICTURE_TOOL, {"image": data_uri(b"no picture")}, "not an image that can be read"),
        (PICTURE_TOOL, {"image": "data:image/png;base64,"}, "is empty"),
        (
            TEXT_TOOL,
            {"text": "red", "gallery": "nowhere"},
            "There is no gallery 'nowhere'. Available galleries: icons.",
        ),
        ("run", {}, "Unknown tool"),
    ],
)
def test_errors_for_invalid_arguments(address: str, tool: str, arguments: dict[str, Any], said: str) -> None:
    assert said in call_for_error(address, tool, **arguments)


@pytest.mark.parametrize(
    "image",
    [
        "CANARY/x.png",
        "CANARY/redirect",
        "CANARY/gradio_api/file=/etc/hostname",
        "CANARY/gradio_api/file=CANARY/x.png",
        "ADDRESS/gradio_api/file=CANARY/x.png",
        "ADDRESS/gradio_api/file=/etc/hostname",
        "file:///etc/hostname",
        "/etc/hostname",
        "PICTURE",
        "data:CANARY/x.png",
        "data:image/png;base64,CANARY/x.png",
    ],
)
def test_urls_and_paths_are_refused_as_pictures(address: str, canary: str, queries: Path, image: str) -> None:
    unserved = str(queries.parents[1] / "screens" / "search-clip.png")
    image = image.replace("CANARY", canary).replace("ADDRESS", address).replace("PICTURE", unserved)
    for tool in (PICTURE_TOOL, TEXT_TOOL):
        assert call_for_error(address, tool, image=image) in (NOT_BASE64, NOT_UPLOADED)


@pytest.mark.parametrize("argument", ["image", "text", "labels", "gallery", "unknown"])
@pytest.mark.parametrize("path", ["/etc/hostname", "/dev/zero", "CANARY/x.png"])
def test_file_references_in_any_argument_are_refused(address: str, canary: str, argument: str, path: str) -> None:
    """gradio's MCP server would read such files with its own client, which runs on the server."""
    file = {"path": path.replace("CANARY", canary), "meta": {"_type": "gradio.FileData"}}
    arguments: dict[str, Any] = {"text": "red"} | {argument: [file] if argument == "labels" else file}
    said = call_for_error(address, TEXT_TOOL, **arguments)
    assert "is not of type 'string'" in said or "is not valid under any" in said or "`unknown` is not a valid" in said


def try_to_fetch(address: str, target: str) -> None:
    """Try each way to make gradio fetch a URL; the canary records whether it did."""
    for path in ("file=", "file/", "proxy="):
        httpx.get(f"{address}/gradio_api/{path}{target}", timeout=PATIENCE)
    client = Client(address, verbose=False)
    for arguments in ({"image": handle_file(target)}, {"image": None, "features": handle_file(target)}):
        with pytest.raises(AppError):
            client.predict(**arguments, api_name=f"/{PICTURE_TOOL}")


def allow_loopback(monkeypatch: pytest.MonkeyPatch, *, fetching: bool) -> None:
    """Treat loopback as a public address; with `fetching`, also remove the page's protection against fetching."""
    spec = importlib.util.find_spec("safehttpx")
    fresh = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fresh)
    fresh.is_public_ip = lambda _: True
    monkeypatch.setattr(safehttpx, "is_public_ip", fresh.is_public_ip)
    if fetching:
        for door in ("get", "async_validate_url"):
            monkeypatch.setattr(safehttpx, door, getattr(fresh, door))


@pytest.mark.parametrize("path", ["x.png", "redirect"])
def test_urls_are_never_fetched(address: str, canary: str, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    allow_loopback(monkeypatch, fetching=False)
    try_to_fetch(address, f"{canary}/{path}")
    with pytest.raises(AppError, match=NO_ADDRESS):
        Client(address, verbose=False).predict(handle_file(f"{canary}/{path}"), api_name=f"/{PICTURE_TOOL}")


def test_canary_detects_requests_without_the_protection(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control for the test above: without the page's protection, gradio fetches the URL in each of these ways."""
    allow_loopback(monkeypatch, fetching=True)
    handler = type("Handler", (Canary,), {"requests": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever).start()
        try_to_fetch(address, f"http://127.0.0.1:{server.server_port}/redirect")
        server.shutdown()
    assert handler.requests.count("/redirect") >= 3
    assert handler.requests.count("/x.png") >= 3
