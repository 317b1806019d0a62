"""Galleries can only be built from the page itself, opened on this machine, and not by another website."""

from urllib.parse import urlsplit

import gradio as gr

from retrieval.errors import RetrievalError
from retrieval.settings import is_loopback

FOREIGN = "Galleries can only be built from this page, opened on the machine that it runs on."
# A proxy hides the client's address and can make a page public that listens on loopback.
PROXY_HEADERS = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip")


def only_own_page(request: gr.Request) -> None:
    """Raise a `RetrievalError` for requests from another website, for another host name, or through a proxy.

    gradio's own check of the origin does not stop a website whose name was pointed at this machine (DNS rebinding).
    """
    headers = request.headers
    host, origin = headers.get("host", ""), headers.get("origin")
    client = request.client.host if request.client else ""
    try:
        own = is_loopback(urlsplit(f"//{host}").hostname or "") and is_loopback(client)
        # Browsers send the origin with every POST; local programs could read and write files anyway.
        same = origin is None or urlsplit(origin).netloc == host
    except ValueError:  # not a valid host
        own = same = False
    if not own or not same or any(name in headers for name in PROXY_HEADERS):
        raise RetrievalError(FOREIGN)
