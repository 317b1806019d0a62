"""Who may build: only the page itself, opened on this machine; no other website that its owner happens to visit."""

from urllib.parse import urlsplit

import gradio as gr

from retrieval.errors import RetrievalError
from retrieval.settings import is_loopback

FOREIGN = "Galleries can only be built from this page, opened on the machine it runs on."

# A proxy before the app hides who asks, and makes a page that listens on loopback public.
PROXY_HEADERS = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip")


def only_own_page(request: gr.Request) -> None:
    """Refuse what another website, a renamed host or a proxy sends.

    gradio's own check of the origin only keeps other websites from reading an answer: a browser asks it before it
    sends JSON, but not where the website's name was pointed at this machine (DNS rebinding).

    Raises:
        RetrievalError: the request does not come from this page on this machine.
    """
    headers = request.headers
    host, origin = headers.get("host", ""), headers.get("origin")
    client = request.client.host if request.client else ""
    try:
        own = is_loopback(urlsplit(f"//{host}").hostname or "") and is_loopback(client)
        # Browsers name the origin in every POST; programs of this machine, which could read and write anyway, need not.
        same = origin is None or urlsplit(origin).netloc == host
    except ValueError:  # no address at all
        own = same = False
    if not own or not same or any(name in headers for name in PROXY_HEADERS):
        raise RetrievalError(FOREIGN)
