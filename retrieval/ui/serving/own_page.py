"""A page for this machine only: opened under a name of this machine, whose galleries are changed only with its token.

Headers tell browsers of other websites and common proxies apart from the owner, but a plain forwarder can send any
headers. The token is known only to those who see what the app prints.
"""

import hashlib
import secrets
from urllib.parse import urlsplit

import gradio as gr
from starlette.datastructures import URL
from starlette.requests import Request, cookie_parser
from starlette.responses import PlainTextResponse, RedirectResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from retrieval.errors import RetrievalError
from retrieval.settings import is_loopback

TOKEN = secrets.token_urlsafe(24)  # of this process
# Browsers send the cookies of all ports to each port, so each process has a name of its own.
COOKIE = f"lookalike-{hashlib.sha256(TOKEN.encode()).hexdigest()[:12]}"
PARAMETER = "token"

FOREIGN = "Galleries can only be built or changed from this page, opened on the machine that it runs on."
NO_TOKEN = (
    "To build or change galleries, open the page at the address with a token, which the app printed when it started."
)
WRONG_HOST = (
    "This page can only be opened on the machine that it runs on, for example as http://127.0.0.1 with its port. "
    "If a proxy makes it public, start it with --no-build."
)
# A proxy hides the client's address and can make a page public that listens on loopback.
PROXY_HEADERS = (
    *("forwarded", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip", "via"),
    *("cf-connecting-ip", "true-client-ip"),
)


def address_with_token(address: str) -> str:
    """Return the page's address for its owner."""
    return str(URL(address).include_query_params(**{PARAMETER: TOKEN}))


def only_own_page(request: gr.Request) -> None:
    """Raise a `RetrievalError` for requests without the token, from another website, or through a proxy.

    gradio's own check of the origin does not stop a website whose name was pointed at this machine (DNS rebinding).
    """
    headers = request.headers
    host, origin = headers.get("host", ""), headers.get("origin")
    client = request.client.host if request.client else ""
    try:
        # Browsers send the origin with every POST; local programs could read and write files anyway.
        same = origin is None or urlsplit(origin).netloc == host
    except ValueError:  # not a valid host
        same = False
    if not same or not _is_own(host) or not is_loopback(client) or any(name in headers for name in PROXY_HEADERS):
        raise RetrievalError(FOREIGN)
    cookie = cookie_parser(headers.get("cookie", "")).get(COOKIE, "")
    if not secrets.compare_digest(cookie.encode(), TOKEN.encode()):
        raise RetrievalError(NO_TOKEN)


class OwnPage:
    """ASGI middleware for a page that listens on loopback.

    It refuses all requests under another name, so that a website that points its own name at this machine reads
    nothing, and exchanges the token in an address for a cookie.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 403, redirect, or pass the request on."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        request = Request(scope)
        if not _is_own(request.headers.get("host", "")):
            return await PlainTextResponse(WRONG_HOST, 403)(scope, receive, send)
        token = request.query_params.get(PARAMETER, "")
        if request.method == "GET" and secrets.compare_digest(token.encode(), TOKEN.encode()):
            # The token leaves the address, which people share.
            answer = RedirectResponse(str(request.url.remove_query_params(PARAMETER)), 303)
            answer.set_cookie(COOKIE, TOKEN, httponly=True, samesite="strict")
            return await answer(scope, receive, send)
        return await self._app(scope, receive, send)


def _is_own(host: str) -> bool:
    try:
        return is_loopback(urlsplit(f"//{host}").hostname or "")
    except ValueError:  # not a valid host
        return False
