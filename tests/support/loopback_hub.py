"""A Hugging Face Hub on 127.0.0.1 that serves the files of a folder, for tests with the real client."""

import base64
import hashlib
import json
import re
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

from huggingface_hub import RepoCard

COMMIT = "c0ffee" + "0" * 34
WRITE_TOKEN = "hf_write"
STORE = "/store"
DRIPS, DRIP = 8, 0.5  # the number of pieces of a slow download, and the seconds between two
ROUTE = re.compile(r"/(api/)?(?:(models|datasets)/)?([^/]+/[^/]+)(?:/(revision|tree|resolve)/([^/]+)(?:/(.*))?)?")
WRITES = re.compile(r"/api/datasets/([^/]+/[^/]+)/(preupload|commit)/main")


class LoopbackHub(ThreadingHTTPServer):
    """Serves `root/models/<org>/<name>/...` and `root/datasets/<org>/<name>/...`; every repository has one commit.

    With `WRITE_TOKEN`, datasets of the organization `org` can be created and written; a commit replaces the one before.
    Only this token may read those in `private`.

    `refusals` maps repositories to an HTTP error status, `gated` maps repositories to the token they require, and
    with `silent` no request is answered. `revisions` adds branches, tags and commits: it maps (repository, revision)
    to a folder. `faults` maps a repository or a file (`org/name/file`) to an iterator with one fault for each of its
    next downloads: "drop" sends half of the body and closes the connection, "stall" sends half and then nothing,
    "drip" sends the body slowly, and a URL redirects the client. Files in `stored_in_xet` are in the store for large
    files (Xet), which never answers. `requests` lists all requests, and `tokens` their Authorization headers.
    """

    daemon_threads = True

    def __init__(self, root: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.root = root
        self.refusals: dict[str, int] = {}
        self.gated: dict[str, str] = {}
        self.revisions: dict[tuple[str, str], Path] = {}
        self.faults: dict[str, Iterator[str]] = {}
        self.stored_in_xet: set[str] = set()
        self.private: set[str] = set()
        self.commits: dict[str, str] = {}  # of the repositories that were written
        self.silent = False
        self.requests: list[str] = []
        self.tokens: list[str | None] = []
        self.closing = threading.Event()
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def close(self) -> None:
        """Stop the server; the port refuses connections from now on."""
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
        shown = self.headers.get("Authorization")
        hub.requests.append(f"{self.command} {self.path}")
        hub.tokens.append(shown)
        match = ROUTE.fullmatch(unquote(address.path))
        name, revision = (match[3], match[5] or "main") if match else ("", "main")
        folder = hub.root / ((match and match[2]) or "models") / name
        folder = hub.revisions.get((name, revision), folder)
        newest = hub.commits.get(name, COMMIT)
        commit = commit_of(folder) if (name, revision) in hub.revisions else newest
        if hub.silent or address.path.startswith(STORE):
            hub.closing.wait()
            self.close_connection = True
        elif "/xet-read-token/" in address.path:
            ends = str(int(time.time()) + 3600)
            store = {"X_Xet_Cas_Url": hub.url + STORE, "X_Xet_Access_Token": "store", "X_Xet_Token_Expiration": ends}
            self._reply(200, **store)
        elif name in hub.gated and shown != f"Bearer {hub.gated[name]}":
            self._reply(403 if shown else 401, X_Error_Code="GatedRepo")
        elif name in hub.refusals:
            self._reply(hub.refusals[name])
        elif name in hub.private and shown != f"Bearer {WRITE_TOKEN}":
            self._reply(401, X_Error_Code="RepoNotFound")
        elif not match or not folder.is_dir():
            self._reply(404, X_Error_Code="RepoNotFound")
        elif revision not in ("main", newest) and (name, revision) not in hub.revisions:
            self._reply(404, X_Error_Code="RevisionNotFound")
        elif match[4] == "resolve":
            self._send_file(folder / (match[6] or ""), f"{name}/{match[6]}", commit)
        elif match[4] == "tree":
            self._send_tree(folder, match[6] or "", "recursive=true" in address.query.lower())
        else:
            files = [(file.relative_to(folder).as_posix(), file.stat().st_size) for file in _files(folder)]
            siblings = [{"rfilename": file, "size": size} for file, size in files]
            about = {"id": name, "sha": commit, "private": name in hub.private, "cardData": _card(folder)}
            self._send_json(about | {"siblings": siblings})

    do_HEAD = do_GET

    def do_POST(self) -> None:
        hub, path = self.server, urlsplit(self.path).path
        shown = self.headers.get("Authorization")
        hub.requests.append(f"POST {self.path}")
        hub.tokens.append(shown)
        body = self.rfile.read(int(self.headers["Content-Length"]))
        match = WRITES.fullmatch(unquote(path))
        if hub.silent:
            hub.closing.wait()
            self.close_connection = True
        elif path == "/api/validate-yaml":
            self._send_json({"errors": [], "warnings": []})
        elif shown != f"Bearer {WRITE_TOKEN}":
            self._reply(403 if shown else 401)
        elif path == "/api/repos/create":
            self._create(json.loads(body))
        elif not match or not (hub.root / "datasets" / match[1]).is_dir():
            self._reply(404, X_Error_Code="RepoNotFound")
        elif match[2] == "preupload":
            names = [file["path"] for file in json.loads(body)["files"]]
            self._send_json({"files": [{"path": n, "uploadMode": "regular", "shouldIgnore": False} for n in names]})
        else:
            self._commit(match[1], [json.loads(line) for line in body.splitlines()])

    def _create(self, given: dict[str, str]) -> None:
        name = f"{given['organization']}/{given['name']}"
        folder = self.server.root / "datasets" / name
        if given["organization"] != "org":
            return self._reply(403)
        if new := not folder.is_dir():
            folder.mkdir(parents=True)
            if given.get("visibility") == "private":
                self.server.private.add(name)
        url = json.dumps({"url": f"{self.server.url}/datasets/{name}"}).encode()
        self._reply(200 if new else 409, url, Content_Type="application/json")

    def _commit(self, name: str, lines: list[dict[str, dict[str, str]]]) -> None:
        hub, folder = self.server, self.server.root / "datasets" / name
        header, *operations = lines
        before = hub.commits.get(name, COMMIT)
        if header["value"].get("parentCommit", before) != before:
            return self._reply(412)
        for operation in operations:
            file = folder / operation["value"]["path"]
            if operation["key"] == "file":
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(base64.b64decode(operation["value"]["content"]))
            else:
                file.unlink()
        hub.commits[name] = hashlib.sha1(f"{before}{operations}".encode()).hexdigest()
        self._send_json({"commitUrl": f"{hub.url}/datasets/{name}/commit/{before}", "commitOid": hub.commits[name]})

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

    def _send_file(self, file: Path, name: str, commit: str) -> None:
        if not file.is_file():
            return self._reply(404, X_Error_Code="EntryNotFound", X_Repo_Commit=commit)
        data = file.read_bytes()
        known = {"ETag": f'"{hashlib.sha1(data).hexdigest()}"', "X_Repo_Commit": commit}
        if name in self.server.stored_in_xet:
            where = f'<{self.server.url}/api/models/{name}/xet-read-token/main>; rel="xet-auth"'
            known |= {"X_Xet_Hash": hashlib.sha256(data).hexdigest(), "X_Linked_Size": str(len(data)), "Link": where}
        faults = self.server.faults.get(name) or self.server.faults.get("/".join(name.split("/")[:2]), iter(()))
        fault = next(faults, "") if self.command == "GET" else ""
        if "://" in fault:
            return self._reply(302, Location=fault, **known)
        if part := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            start, end = int(part[1]), min(int(part[2] or len(data)), len(data) - 1)
            known["Content_Range"] = f"bytes {start}-{end}/{len(data)}"
            return self._reply(206, data[start : end + 1], fault, **known)
        self._reply(200, data, fault, **known)

    def _send_json(self, value: object) -> None:
        self._reply(200, json.dumps(value).encode(), Content_Type="application/json")

    def _reply(self, status: int, body: bytes = b"", fault: str = "", **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if fault == "drip":
            step = -(-len(body) // DRIPS)
            for start in range(0, len(body), step):
                self.wfile.write(body[start : start + step])
                self.server.closing.wait(DRIP)
        elif fault:
            self.wfile.write(body[: len(body) // 2])
            self.close_connection = True
            if fault == "stall":
                self.server.closing.wait()
        else:
            self.wfile.write(body)


def commit_of(folder: Path) -> str:
    """Return the commit of a folder in `LoopbackHub.revisions`."""
    return hashlib.sha1(folder.name.encode()).hexdigest()


def _card(folder: Path) -> dict[str, object]:
    """Return the metadata of a repository's card."""
    card = folder / "README.md"
    return RepoCard(card.read_text(), ignore_metadata_errors=True).data.to_dict() if card.is_file() else {}


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())
