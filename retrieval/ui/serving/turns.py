"""Turns for all requests, so that a visitor who sends many at once does not hold up the others."""

import asyncio
from weakref import WeakValueDictionary

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from retrieval.ui.serving.queue import address_of

AT_ONCE = 6  # requests of an address that are answered at the same time; browsers have as many connections
HELD = 0.1  # seconds after which a request makes room for the next one: it waits for the queue, or is read slowly


class Turns:
    """ASGI middleware that starts to answer a few requests of each address at a time.

    The queue has turns for calls; this one is for what does not pass through it, such as the page and its files.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._places: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()  # by address, while in use

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, once it is its turn."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        places = self._places.setdefault(address_of(Request(scope)), asyncio.Semaphore(AT_ONCE))
        await places.acquire()
        held = True

        def leave() -> None:
            nonlocal held
            if held:
                held = False
                places.release()

        timer = asyncio.get_running_loop().call_later(HELD, leave)
        try:
            await self._app(scope, receive, send)
        finally:
            timer.cancel()
            leave()
