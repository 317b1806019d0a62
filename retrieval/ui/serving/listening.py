"""Where the page listens: the host and port as gradio takes them, checked before gradio starts.

gradio (6.31.0) tries a hundred ports even if the host is the problem, its MCP server cannot start twice, and it reads
its environment variables while it is imported, with a traceback for a wrong one.
"""

import os
import re
import resource
import socket

from retrieval.errors import RetrievalError

HOST, FIRST_PORT, PORTS = "127.0.0.1", 7860, 100  # gradio's defaults
DESCRIPTORS = 2**15
ROOT_PATH = re.compile(r"(https?://[^\s/]+)?(/\S*)?")


def listening_address(host: str | None, port: int | None) -> tuple[str, int]:
    """Return the host, with brackets if it is an IPv6 address, and a free port; None stands for gradio's variables.

    Raises:
        RetrievalError: the host is unknown or not of this machine, no port is free, or a variable of gradio is wrong.
    """
    first, tried = _number("GRADIO_SERVER_PORT", FIRST_PORT, 65535), _number("GRADIO_NUM_PORTS", PORTS, 65535)
    root = os.environ.get("GRADIO_ROOT_PATH", "")
    if not ROOT_PATH.fullmatch(root):
        raise RetrievalError(
            f"The environment variable GRADIO_ROOT_PATH must be a path such as `/search` or a URL, not {root[:80]!r}."
        )
    bare = (host or os.environ.get("GRADIO_SERVER_NAME") or HOST).strip("[]")
    error = OSError("no port was tried")
    for candidate in range(first, min(first + tried, 65536)) if port is None else [port]:
        try:
            return f"[{bare}]" if ":" in bare else bare, _bind(bare, candidate)
        except socket.gaierror as failure:
            raise RetrievalError(f"The host {bare!r} is unknown. Choose another `--host`.") from failure
        except OSError as failure:
            error = failure
            if not _has_address(bare):
                break
    if not _has_address(bare):
        raise RetrievalError(
            f"The page cannot listen on {bare}, which is not an address of this machine. Choose another `--host`, "
            "such as 127.0.0.1 for this machine only, or 0.0.0.0 for everyone who can reach it."
        ) from error
    ports = f"port {port} is" if port is not None else f"the ports {first} to {min(first + tried, 65536) - 1} are"
    raise RetrievalError(
        f"The page cannot listen on {bare}: {ports} not free ({error.strerror or error}). Choose another `--port`."
    ) from error


def allow_many_connections() -> None:
    """Raise this process's limit of file descriptors: a thousand idle connections would reach the usual one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def _number(name: str, default: int, most: int) -> int:
    text = os.environ.get(name) or str(default)
    if not text.strip().isdecimal() or int(text) > most:
        raise RetrievalError(
            f"The environment variable {name} must be a whole number from 0 to {most}, not {text[:40]!r}."
        )
    return int(text)


def _has_address(host: str) -> bool:
    try:
        _bind(host, 0)
    except OSError:
        return False
    return True


def _bind(host: str, port: int) -> int:
    """Bind and release a port of a host, and of this machine's own address as gradio does; return the port."""
    for name in (host, HOST):
        family, kind, protocol, _, address = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            listener.bind(address)
            port = listener.getsockname()[1]
    return port
