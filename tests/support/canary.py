"""A server on loopback that must not receive any request."""

from http.server import BaseHTTPRequestHandler
from typing import Any


class Canary(BaseHTTPRequestHandler):
    """Answers every request, `/redirect` with a redirect, and records its path."""

    requests: list[str]

    def do_GET(self) -> None:
        self.requests.append(self.path)
        self.send_response(302 if self.path == "/redirect" else 200)
        if self.path == "/redirect":
            self.send_header("Location", "/x.png")
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_POST = do_GET

    def log_message(self, *_: Any) -> None:
        pass
