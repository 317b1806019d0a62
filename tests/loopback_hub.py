"""A Hugging Face Hub on 127.0.0.1 that serves files of a folder, for tests with the real client."""

import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

COMMIT = "c0ffee" + "0" * 34
ROUTE = re.compile(r"/(api/)?(?:(models|datasets)/)?([^/]+/[^/]+)(?:/(revision|tree|resolve)/([^/]+)(?:/(.*))?)?")


class LoopbackHub(ThreadingHTTPServer):
    """Serves `root/models/<org>/<name>/...` and `root/datasets/<org>/<name>/...`; every repository has one commit.

    `refusals` gives the status that a repository answers with, and `silent` leaves every request without an
    answer. `requests` lists what was asked.
    """

    daemon_threads = True

    def __init__(self, root: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.root = root
        self.refusals: dict[str, int] = {}
        self.silent = False
        self.requests: list[str] = []
        self.closing = threading.Event()
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def close(self) -> None:
        """Stop answering; from now on the port refuses connections."""
        self.closing.set()
        self.shutdown()
        self.server_close()

    def __exit__(self, *_: object) -> None:
        self.close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: LoopbackHub

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        hub, address = self.server, urlsplit(self.path)
        hub.requests.append(f"{self.command} {self.path}")
        match = ROUTE.fullmatch(unquote(address.path))
        if hub.silent:
            hub.closing.wait()
            self.close_connection = True
        elif match and match[3] in hub.refusals:
            self._reply(
                hub.refusals[match[3]], **({"X_Error_Code": "GatedRepo"} if hub.refusals[match[3]] == 401 else {})
            )
        elif not match or not (folder := hub.root / (match[2] or "models") / match[3]).is_dir():
            self._reply(404, X_Error_Code="RepoNotFound")
        elif match[5] not in (None, "main", COMMIT):
            self._reply(404, X_Error_Code="RevisionNotFound")
        elif match[4] == "resolve":
            self._send_file(folder / (match[6] or ""))
        elif match[4] == "tree":
            self._send_tree(folder, match[6] or "", "recursive=true" in address.query.lower())
        else:
            names = [file.relative_to(folder).as_posix() for file in _files(folder)]
            self._send_json({"id": match[3], "sha": COMMIT, "siblings": [{"rfilename": name} for name in names]})

    do_HEAD = do_GET

    def _send_tree(self, folder: Path, below: str, recursive: bool) -> None:
        if not (folder / below).is_dir():
            return self._reply(404, X_Error_Code="EntryNotFound")
        found = sorted((folder / below).rglob("*") if recursive else (folder / below).iterdir())
        kinds = [(path, "directory" if path.is_dir() else "file") for path in found]
        self._send_json(
            [
                {"type": kind, "path": path.relative_to(folder).as_posix(), "size": path.stat().st_size, "oid": COMMIT}
                for path, kind in kinds
            ]
        )

    def _send_file(self, file: Path) -> None:
        if not file.is_file():
            return self._reply(404, X_Error_Code="EntryNotFound")
        data = file.read_bytes()
        known = {"ETag": f'"{hashlib.sha1(data).hexdigest()}"', "X_Repo_Commit": COMMIT}
        if part := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            start, end = int(part[1]), min(int(part[2] or len(data)), len(data) - 1)
            return self._reply(206, data[start : end + 1], Content_Range=f"bytes {start}-{end}/{len(data)}", **known)
        self._reply(200, data, **known)

    def _send_json(self, value: object) -> None:
        self._reply(200, json.dumps(value).encode(), Content_Type="application/json")

    def _reply(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())
