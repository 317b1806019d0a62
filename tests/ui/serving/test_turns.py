"""The turns of requests by address, tested without a server."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from retrieval.ui.serving.turns import AT_ONCE, Turns

FLOOD = 100


def answered(app: ASGIApp, clients: list[str]) -> list[str]:
    """Send a request from each client, all at once, and return the clients in the order of the answers."""
    order: list[str] = []

    async def ask(turns: Turns, client: str) -> None:
        async def send(message: Message) -> None:
            if message["type"] == "http.response.body":
                order.append(client)

        scope = {"type": "http", "method": "GET", "path": "/", "headers": [], "client": (client, 1)}
        await turns(scope, nothing, send)

    async def ask_all() -> None:
        turns = Turns(app)
        await asyncio.wait_for(asyncio.gather(*(ask(turns, client) for client in clients)), 60)
        assert not turns._places, "places are kept for nobody"

    with ThreadPoolExecutor(1) as thread:  # the browser tests leave an event loop running in this one
        thread.submit(asyncio.run, ask_all()).result()
    return order


async def nothing() -> Any:
    raise AssertionError("nothing was sent")


def test_other_visitors_do_not_wait_for_a_flood() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(0)
        await PlainTextResponse("answer")(scope, receive, send)

    order = answered(app, ["203.0.113.1"] * FLOOD + ["192.0.2.1"])
    assert len(order) == FLOOD + 1
    assert order.index("192.0.2.1") <= AT_ONCE


def test_requests_that_last_make_room_for_others_of_the_same_address() -> None:
    started: list[str] = []
    everybody_started = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        started.append(scope["client"][0])
        if len(started) == 2 * AT_ONCE:
            everybody_started.set()
        await everybody_started.wait()
        await PlainTextResponse("answer")(scope, receive, send)

    assert len(answered(app, ["203.0.113.1"] * 2 * AT_ONCE)) == 2 * AT_ONCE


def test_request_that_fails_leaves_its_place() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise OSError("broken")

    async def ask_all() -> list[BaseException | None]:
        turns = Turns(app)
        scope = {"type": "http", "method": "GET", "path": "/", "headers": [], "client": ("203.0.113.1", 1)}
        asked = (turns(scope, nothing, nothing) for _ in range(3 * AT_ONCE))
        return await asyncio.wait_for(asyncio.gather(*asked, return_exceptions=True), 60)

    with ThreadPoolExecutor(1) as thread:
        assert [str(each) for each in thread.submit(asyncio.run, ask_all()).result()] == ["broken"] * 3 * AT_ONCE
