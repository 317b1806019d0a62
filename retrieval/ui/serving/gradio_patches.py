"""Every patch to gradio 6.31.0 and safehttpx 0.1.7, each with the reason for it.

Each patch lasts for the whole process. gradio is imported inside the functions, because the first patch must come
before gradio's own import.
"""

import logging
import re
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import ModuleType
from typing import Any, NoReturn

from jinja2 import FunctionLoader
from typing_extensions import override

STUB_WRITER = "gradio.component_meta"
LINK_TAGS = re.compile(r'<meta\s+(?:property="og:|name="twitter:)[^>]*>')
NO_ADDRESS = "This server does not fetch URLs. Upload the image instead."

log = logging.getLogger(__name__)


def skip_type_stubs() -> None:
    """Keep a later `import gradio` from writing type stubs for editors (gradio 6.31.0).

    That takes more than a third of the import, and more than a tenth of the start (3.9 s instead of 2.4 s).
    """
    sys.meta_path.insert(0, _StubWriterFinder)


class _StubWriterFinder:
    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path) if name == STUB_WRITER else None
        if spec and spec.origin:
            spec.loader = _WithoutStubs(name, spec.origin)
        return spec


class _WithoutStubs(SourceFileLoader):
    @override
    def exec_module(self, module: ModuleType) -> None:
        super().exec_module(module)
        module.create_or_modify_pyi = lambda *_: None  # type: ignore[attr-defined]  # replaces a function of gradio


def forbid_fetching() -> None:
    """Keep gradio from fetching URLs that visitors send (gradio 6.31.0, safehttpx 0.1.7).

    gradio fetches `/gradio_api/file=https://...` and every argument that is a file with a URL, before the component
    sees it. It refuses private addresses, but sends requests to public ones in the name of this server, without limits
    on time or size. All of them go through these two functions of safehttpx, which nothing else here uses.
    """
    import safehttpx

    safehttpx.get = safehttpx.async_validate_url = _refuse


async def _refuse(*_: Any, **__: Any) -> NoReturn:
    import gradio as gr

    raise gr.Error(NO_ADDRESS, print_exception=False)


def trust_own_page() -> None:
    """Keep gradio from requesting its page at the start (gradio 6.31.0).

    It gives up after three seconds, in which a busy machine may not have rendered the page for the first time, and the
    start fails. It has just had an answer from the same server, for which it waits as long as necessary.
    """
    from gradio import networking

    networking.url_ok = lambda url: True


def look_for_ports_on_this_machine() -> None:
    """Let `GRADIO_SERVER_NAME` be an IPv6 address (gradio 6.31.0).

    gradio looks for a free port by binding a socket for IPv4 to that name, which fails.
    """
    from gradio import http_server

    http_server.LOCALHOST_NAME = "127.0.0.1"


def describe_page(title: str, about: str, image: str) -> None:
    """Say what the page is in the tags that other sites read to show a link to it (gradio 6.31.0).

    gradio's template names itself, its own picture and `{url}` there. `image` is a path on this server.
    """
    from gradio import routes

    tags = {
        **{"og:title": title, "og:description": about, "og:type": "website", "og:url": "{{ config['root'] }}"},
        **{"og:image": f"{{{{ config['root'] }}}}{image}", "twitter:card": "summary_large_image"},
    }
    text = "".join(f'<meta property="{name}" content="{value}" />' for name, value in tags.items())
    environment = routes.templates.env
    original = environment.loader
    if original is None or isinstance(original, FunctionLoader):  # this function was called before
        return

    def load(name: str) -> str:
        return LINK_TAGS.sub("", original.get_source(environment, name)[0]).replace("</head>", f"{text}</head>", 1)

    environment.loader = FunctionLoader(load)


def log_failures() -> None:
    """Send gradio's own tracebacks to the log (gradio 6.31.0).

    gradio prints them to stderr together with what the visitor sent, which our log never contains.
    """
    from gradio import queueing, route_utils, routes

    for module in (queueing, route_utils, routes):
        module.traceback = _LoggedTraceback  # type: ignore[attr-defined]  # replaces the standard library's module


class _LoggedTraceback:
    """Replaces the module `traceback` where gradio calls only its `print_exc`."""

    @staticmethod
    def print_exc() -> None:
        log.warning("an event failed outside of its function", exc_info=True)
