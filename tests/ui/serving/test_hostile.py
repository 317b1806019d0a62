"""Attacks by a hostile visitor of a public page: nothing is leaked, fetched, run or stored that should not be.

All tests attack one app that runs as on a Space. They check every answer for secrets. The last test checks that the app
still works as before and that its memory has hardly grown. All addresses are on this machine.
"""

import base64
import json
import math
import os
import re
import shutil
import socket
import threading
import urllib.parse
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest
from datasets import Dataset, Features, Image, Value
from hypothesis import strategies as st
from playwright.sync_api import Browser, expect

import index_builder
from retrieval import errors
from retrieval.errors import PictureError
from retrieval.pictures.loading import MAX_BYTES, load_picture
from retrieval.search.searcher import Searcher
from retrieval.storage.catalog import Indexes
from retrieval.ui.serving import bodies
from retrieval.ui.serving.bodies import FORM_BYTES
from retrieval.ui.serving.limits import MAX_CALL, WAITING
from tests.support.browsing import open_tab, served, settings_of
from tests.support.canary import Canary
from tests.support.fuzz import fuzz
from tests.support.hostile_pictures import NO_PICTURE, READ, files, small
from tests.support.paths import ROOT
from tests.support.serving import running
from tests.support.waiting import PATIENCE, wait_until

pytestmark = [pytest.mark.endurance, pytest.mark.short]

Result = TypeVar("Result")

SECRET = "the-secret-of-the-owner"
PROGRAMS = ("gs", "ffmpeg", "convert", "magick", "inkscape", "rsvg-convert", "djpeg", "xv", "display")
GROWTH_MB = 1200  # allowed growth of the app's peak memory; a single decompression bomb would take more
JSON = {"Content-Type": "application/json"}


class Site:
    """The app under attack."""

    def __init__(self, address: str, index: Path, canary: str) -> None:
        self.address = address
        self.index = index
        self.canary = canary
        # Use a new connection for each request: the app closes it after an error, and the next request would fail.
        self.client = httpx.Client(base_url=address, timeout=PATIENCE, headers={"Connection": "close"})
        self.pid = next(
            int(process.parent.name)
            for process in Path("/proc").glob("[0-9]*/cmdline")
            if str(index).encode() in _bytes(process)
        )

    def clean(self, text: str) -> str:
        """Check that an answer reveals nothing about the server; return it."""
        for told in (
            SECRET,
            str(ROOT),
            str(self.index),
            str(Path.home()) + "/",
            "site-packages",
            "Traceback",
            'File "/',
        ):
            assert told not in text, (told, text[:2000])
        return text

    def ask(self, method: str, path: str, **named: Any) -> tuple[int, str]:
        reply = self.client.request(method, path, **named)
        return reply.status_code, self.clean(f"{reply.headers}\n{reply.text}")

    def post(self, name: str, data: Any) -> str:
        """Call an endpoint; return its events, or "refused" with the status and the reason."""
        content = data if isinstance(data, bytes) else json.dumps({"data": data}).encode()
        url = f"/gradio_api/call/{name}"
        reply = self.client.post(url, content=content, headers=JSON)
        self.clean(reply.text)
        if reply.status_code != 200:
            return f"refused: {reply.status_code} {reply.text}"
        return self.clean(self.client.get(f"{url}/{reply.json()['event_id']}").text)

    def upload(self, data: bytes, name: str = "picture.png") -> str:
        reply = self.client.post("/gradio_api/upload", files={"files": (name, data)})
        self.clean(reply.text)
        assert reply.status_code == 200, reply.text
        return str(reply.json()[0])

    def search(self, path: object, **changed: Any) -> str:
        image = {"path": path, "meta": {"_type": "gradio.FileData"}}
        return self.post("search", list((DEFAULTS["search"] | {"image": image} | changed).values()))

    def raw(self, sent: bytes) -> tuple[int, str]:
        """Send bytes unchanged; return the status (0 without an answer) and the rest of the answer."""
        with socket.create_connection(("127.0.0.1", httpx.URL(self.address).port), timeout=PATIENCE) as line:
            line.sendall(sent)
            answer = line.makefile("rb").read().decode("utf-8", "replace")
        head, _, body = answer.partition("\r\n\r\n")
        assert "Traceback" not in answer
        return int(head.split(" ", 2)[1]) if head else 0, body

    def memory(self, which: str = "VmRSS") -> float:
        """Return the memory of the app in MB: now, or at its peak with `VmHWM`."""
        found = re.search(rf"{which}:\s+(\d+) kB", Path(f"/proc/{self.pid}/status").read_text())
        assert found
        return int(found[1]) / 1024


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:  # a process that has ended
        return b""


TAIL = {"features": "clip", "metric": "cosine", "engine": "exact", "top_k": 3, "gallery": ""}
ASKED = {"text": "red", "image": "", "without": "", "balance": 0.5, "labels": [], "region": [], "alike": 1}
DISTORTED = {"rotation": 5, "crop": 0, "blur": 0, "grey": 0, "quality": 50}
DEFAULTS: dict[str, dict[str, Any]] = {
    "search": {"image": base64.b64encode(small()).decode(), **TAIL},
    "query": {**ASKED, **TAIL},
    "compare": {**ASKED, "top_k": 3, "gallery": ""},
    "robustness": {"image": base64.b64encode(small()).decode(), **DISTORTED, "metric": "l2", "top_k": 3, "gallery": ""},
}


@pytest.fixture(scope="module")
def site(icons: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("attacked")
    shutil.copytree(icons, folder / "index")
    for name in PROGRAMS:  # these come before the real programs in PATH
        program = folder / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(f"#!/bin/sh\ntouch {folder}/ran\n")
        program.chmod(0o755)
    environment = {
        "SPACE_ID": "somebody/lookalike",
        "HOSTILE_SECRET": SECRET,
        "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
        "GRADIO_TEMP_DIR": str(folder.with_name("uploads")),
    }
    handler = type("Handler", (Canary,), {"requests": []})
    with (
        ThreadingHTTPServer(("127.0.0.1", 0), handler) as server,
        running(folder / "app.log", "--index", str(folder / "index"), **environment) as address,
    ):
        threading.Thread(target=server.serve_forever).start()
        yield Site(address, folder / "index", f"http://127.0.0.1:{server.server_port}")
        server.shutdown()
    assert handler.requests == [], "the app fetched an address that a visitor named"
    assert not (folder / "ran").exists(), "the app ran a program for a visitor"


@pytest.fixture(scope="module")
def before(site: Site) -> tuple[str, float]:
    """The results of a search and the memory of the app before the attacks."""
    return search_hits(site), site.memory()


def search_hits(site: Site) -> str:
    found = site.post("query", list(DEFAULTS["query"].values()))
    assert "event: complete" in found
    return found.partition('"timings_ms"')[0]


# Files


@pytest.mark.parametrize("name", files())
def test_files_are_read_or_refused_with_a_message(site: Site, before: object, name: str) -> None:
    sent = files()[name]
    answer = site.search(site.upload(sent.make().replace(b"CANARY", site.canary.encode())))
    messages = sent.messages if sent.public else (NO_PICTURE,)
    assert ("event: complete" in answer) is (messages == (READ,)), answer
    assert any(message in answer for message in messages), answer


@pytest.mark.parametrize(
    "name",
    [
        "../../../../etc/cron.d/x.png",
        "..\\..\\x.png",
        "/etc/passwd",
        "x" * 5000 + ".png",
        "a\nb\r\nX-Injected: 1.png",
        "a\0b.png",
        "\"><script>alert(1)</script>.png",
        "$(touch ran).png",
        "`touch ran`.png",
        "-rf.png",
        "\u202egnp.exe",
        "con.png",
        ".env",
        ".",
        "..",
        "",
        "%2e%2e%2fx.png",
        "{0.__class__}.png",
        "x.svg",
        "x.html",
        "x.py",
    ],
)  # fmt: skip
def test_uploads_are_stored_under_safe_names(site: Site, name: str) -> None:
    head = f'--x\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'.encode()
    body = head + small() + b"\r\n--x--\r\n"
    form = {"Content-Type": "multipart/form-data; boundary=x"}
    reply = site.client.post("/gradio_api/upload", content=body, headers=form)
    site.clean(reply.text)
    assert "x-injected" not in reply.headers
    if reply.status_code != 200:
        assert reply.status_code in (400, 413)
        return
    [path] = reply.json()
    assert re.fullmatch(r".*/uploads/lookalike-uploads-[^/]+/files/[0-9a-f]{64}/[^/]+", path)
    assert "event: complete" in site.search(path)
    shown = site.client.get(f"/gradio_api/file={urllib.parse.quote(path)}")
    assert shown.status_code == 200
    kind = shown.headers["content-type"]
    assert kind == "image/png" or "attachment" in shown.headers["content-disposition"], "could be opened as a page"


# Values


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


FILE = {"meta": {"_type": "gradio.FileData"}}
VALUES: dict[str, Any] = {
    "nothing": None,
    "true": True,
    "a list": ["x", 1, None],
    "an object": {"a": 1},
    "nesting": nested(60),
    "not a number": math.nan,
    "infinity": math.inf,
    "1e308": 1e308,
    "an integer of 400 digits": 10**400,
    "minus one": -1,
    "a NUL": "a\0b",
    "half a character": "\ud800",
    "bidi and controls": "\u202e\u2066\x1b[31m\x07\u200b\ufeff",
    "100,000 letters": "x" * 100_000,
    "combining marks": "a" + "\u0301" * 3000,
    "a format": "{0.__class__.__init__.__globals__}%s%n%x${7*7}{{7*7}}<%= 7*7 %>",
    "a script": "<script>alert(1)</script><img src=x onerror=alert(1)>",
    "sql": "'; DROP TABLE collections; --",
    "a shell": "; touch ran; $(touch ran) `touch ran` | touch ran",
    "up": "../../../../../../etc/passwd",
    "environment": "/proc/self/environ",
    "endless": "/dev/zero",
    "a file address": "file:///etc/passwd",
    "an address": "CANARY/x.png",
    "a path": {"path": "/proc/self/environ"},
    "a file": {"path": "/proc/self/environ", **FILE},
    "an endless file": {"path": "/dev/zero", **FILE},
    "a file far away": {"path": "CANARY/x.png", "url": "CANARY/x.png", **FILE},
    "a file without a path": {"path": None, "url": "CANARY/x.png", **FILE},
    "a file of numbers": {"path": 5, "url": 5, "meta": 5},
    "files": [{"path": "/dev/zero", **FILE}],
    "a stream": {"path": "CANARY/x.m3u8", "is_stream": True, **FILE},
    "an update": {"__type__": "update", "value": "x", "visible": True},
    "a prototype": {"__proto__": {"x": 1}, "constructor": {"prototype": {"x": 1}}, "__class__": "x"},
}


@pytest.mark.parametrize("endpoint", DEFAULTS)
@pytest.mark.parametrize("value", VALUES)
def test_any_value_of_any_argument_gets_a_result_or_a_message(site: Site, endpoint: str, value: str) -> None:
    sent = json.loads(json.dumps(VALUES[value]).replace("CANARY", site.canary))
    for argument in DEFAULTS[endpoint]:
        answer = site.post(endpoint, list((DEFAULTS[endpoint] | {argument: sent}).values()))
        assert errors.SURPRISE not in answer, argument
        if "meta" in json.dumps(sent) and "event: error" in answer:
            continue  # gradio refuses such files without a message
        assert "event: complete" in answer or '{"error": "' in answer, (argument, answer)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "refused: 4"),
        (b"null", "refused: 4"),
        (b"[]", "refused: 4"),
        (b"{}", "refused: 4"),
        (b'{"data": null}', "refused: 4"),
        (b'{"data": {"image": "x"}}', "refused: 4"),
        (b'{"data": []}', "event: error"),
        (b'{"data": [1, 2, 3, 4, 5, 6, 7, 8, 9]}', "event: error"),
        (b'{"data": [' + b"[" * 50_000 + b"]" * 50_000 + b"]}", "refused: 4"),
        (b'{"data": [' + b"[" * 900 + b"]" * 900 + b"]}", ""),
        (b'{"data": [' + b"[]," * 2_000_000 + b"[]]}", "refused: 413"),
        (b'{"data": [' + b"{}," * 2_000_000 + b"{}]}", "refused: 413"),
        (b'{"data": [' + b"1," * 4_000_000 + b"1]}", "refused: 413"),
        (b'{"data": ["' + b"A" * (MAX_CALL + 1) + b'"]}', "refused: 413"),
        (b'{"data": ["' + b"A" * (MAX_CALL - 100) + b'"]}', "event: error"),
        (b'{"data": [], "session_hash": "' + b"s" * 1_000_000 + b'"}', "refused: 413"),
        (b'{"data": [], "session\\u005fhash": "' + b"s" * 1_000_000 + b'"}', "refused: 413"),
        (b'{"data": [' + b"9" * 100_000 + b"]}", "refused: 4"),
        (b'{"data": ["\xff\xfe"]}', "refused: 4"),
        ('{"data": []}'.encode("utf-16"), ""),
        (b"\xef\xbb\xbf{}", "refused: 4"),
        (b'{"data": [NaN, Infinity, -Infinity]}', "event: error"),
        (b"<?xml version='1.0'?><!DOCTYPE x SYSTEM 'file:///etc/passwd'><x/>", "refused: 4"),
        (b"data=1&data=2", "refused: 4"),
    ],
)
def test_invalid_bodies_are_refused(site: Site, body: bytes, said: str) -> None:
    answer = site.post("search", body)
    assert said in answer, answer[:500]
    assert "hits" not in answer


# Addresses and files


FORMS = [
    "http://127.0.0.1:PORT/x",
    "http://localhost:PORT/x",
    "http://localhost.:PORT/x",
    "http://2130706433:PORT/x",
    "http://0x7f000001:PORT/x",
    "http://0177.0.0.1:PORT/x",
    "http://127.1:PORT/x",
    "http://[::1]:PORT/x",
    "http://[::ffff:127.0.0.1]:PORT/x",
    "http://user:password@127.0.0.1:PORT/x",
    "http://127.0.0.1:PORT#@localhost/x",
    "http://127.0.0.1:PORT/redirect",
    "HTTP://127.0.0.1:PORT/x",
    "http:/\\127.0.0.1:PORT/x",
    "//127.0.0.1:PORT/x",
    "\\\\127.0.0.1\\x",
    "https://127.0.0.1:PORT/x",
    "ftp://127.0.0.1:PORT/x",
    "gopher://127.0.0.1:PORT/x",
    "dict://127.0.0.1:PORT/x",
    "data:http://127.0.0.1:PORT/x",
    "jar:http://127.0.0.1:PORT/x!/",
    "http://127.0.0.1:PORT/\r\nX-Injected: 1",
]


@pytest.mark.parametrize("form", FORMS)
def test_no_form_of_a_url_is_fetched(site: Site, form: str) -> None:
    address = form.replace("PORT", site.canary.rpartition(":")[2])
    for image in (address, {"path": address, "url": address, **FILE}, {"path": address}, {"url": address}):
        answer = site.post("search", [image, *TAIL.values()])
        assert "event: error" in answer, answer
    quoted = urllib.parse.quote(address, safe="")
    for door in ("file=", "file/", "proxy=", "stream/", "custom_component/"):
        status, _ = site.ask("GET", f"/gradio_api/{door}{quoted}")
        assert status >= 400, door


UP = "%2e%2e%2f" * 12
FILES = """
    INDEX/icons/manifest.json INDEX ROOT/app.py ROOT/README.md ROOT/.git/config HOME/.bashrc app.py .env README.md
    UPLOADS/../lock retrieval/settings.py ../app.py /etc/passwd /etc/hostname /proc/self/environ /proc/self/cmdline
    /proc/1/environ /dev/zero /dev/stdin / . .. ~ ~/.ssh/id_rsa UPLOADS UPLOADS/../index/icons/manifest.json
    UPLOADS/shown UPLOADS/shown/examples/../../../app.log UPLOADS/shown/examples
    UPLOADS/shown/examples/%2e%2e/%2e%2e/x.png UPLOADS/shown/icons/BUILD/../items.parquet
    UPLOADS/shown/icons/BUILD/manifest.json UPLOADS/shown/icons/BUILD/000000/../../items.parquet
    UPLOADS/shown/icons/BUILD/000000/000000999999.jpg UPLOADS/shown/icons/../icons/BUILD/000000/000000000001.jpg
    UPLOADS/shown/icons/nothing/000000/000000000001.jpg %00 /etc/passwd%00.png file:///etc/passwd UP/etc/passwd
    ..%5c..%5cetc%5cpasswd %252e%252e%252fetc%252fpasswd
"""
PATHS = """
    /static/UP/etc/passwd /assets/UP/etc/passwd /svelte/UP/etc/passwd /static/../../../../etc/passwd
    /gradio_api/custom_component/x/client/component/UP/etc/passwd /gradio_api/stream/x/y/1/UP/etc/passwd.ts
    /gradio_api/stream/x/y/1/playlist.m3u8 /gradio_api/file/etc/passwd /gradio_api/proxy=http://127.0.0.1:1/
    /gradio_api/deep_link?session_hash=x /gradio_api/vibe-code /gradio_api/dev/reload /monitoring /monitoring/summary
    /gradio_api/profiling/summary /.env /.git/config /app.py /index/icons/manifest.json /gradio_api/run-history/records
    /gradio_api/call/search/../../../etc/passwd /pwa_icon/99999999999
    /gradio_api/queue/data?session_hash=of-somebody-else /gradio_api/call/search/of-somebody-else
    /gradio_api/upload_progress?upload_id=of-somebody-else
"""


@pytest.fixture(scope="module")
def path_values(site: Site) -> dict[str, str]:
    """The values of the placeholders in the paths above; some thumbnails are already published."""
    site.post("run", [None, "red", "", 0.5, [], 1, None, "icons", "clip", "cosine", "exact", 1, None])
    return {
        "INDEX": str(site.index),
        "ROOT": str(ROOT),
        "HOME": str(Path.home()),
        "UPLOADS": str(Path(site.upload(small())).parents[1]),
        "BUILD": next((site.index / "icons").glob("snapshot-*")).name,
        "UP": "%2e%2e%2f" * 12,
    }


@pytest.mark.parametrize("path", [*(f"/gradio_api/file={path}" for path in FILES.split()), *PATHS.split()])
def test_server_files_cannot_be_read_by_any_path(site: Site, path_values: dict[str, str], path: str) -> None:
    for name, value in path_values.items():
        path = re.sub(rf"\b{name}\b", value, path)
    status, body = site.raw(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())
    known = ("session_not_found", "event: error", "Session not found")
    assert status >= 400 or any(each in body for each in known), (status, body[:300])
    assert not re.search(r"root:|\"schema|def main|\[core\]|PAR1", body)
    assert SECRET not in body


def test_pictures_on_the_page_are_served(site: Site, path_values: dict[str, str]) -> None:
    """The control for the paths above: pictures on the page have the same kind of path."""
    for shown in (f"icons/{path_values['BUILD']}/000000/000000000001.jpg", "examples/building-at-mit.jpg"):
        path = f"/gradio_api/file={path_values['UPLOADS']}/shown/{shown}"
        assert site.client.get(path).headers["content-type"] in ("image/jpeg", "image/png")


# Events of the page, headers and sessions


@pytest.fixture(scope="module")
def events(site: Site) -> list[dict[str, Any]]:
    """All events of the page, including private ones."""
    return list(site.client.get("/config").json()["dependencies"])


@pytest.mark.parametrize("value", ["nothing", "an object", "a NUL", "up", "a file", "an update"])
def test_page_events_do_not_leak_details_with_invalid_data(
    site: Site, events: list[dict[str, Any]], value: str
) -> None:
    sent = VALUES[value]
    for event in events:
        call = {"data": [sent] * len(event["inputs"]), "event_data": sent, "fn_index": event["id"]}
        session = f"{value} {event['id']}"
        status, text = site.ask("POST", "/gradio_api/queue/join", json=call | {"session_hash": session})
        assert status in (200, 400, 422, 500, 503), text
        if status == 200:
            assert "process_completed" in site.ask("GET", "/gradio_api/queue/data", params={"session_hash": session})[1]


@pytest.mark.parametrize("endpoint", [*DEFAULTS, "run", "sweep", "evaluate_gallery"])
@pytest.mark.parametrize("way", ["run", "api"])
def test_queue_cannot_be_bypassed(site: Site, endpoint: str, way: str) -> None:
    status, text = site.ask("POST", f"/gradio_api/{way}/{endpoint}", json={"data": []})
    assert status == 404
    assert "join the queue" in text or "Not Found" in text


@pytest.mark.parametrize("component", [0, 7, 8, 11, -1, 10**6])
@pytest.mark.parametrize("name", ["thumbnail", "preprocess", "__init__", "get_config", "__class__", "../x"])
def test_only_public_component_functions_can_be_called(site: Site, component: int, name: str) -> None:
    call = {"data": ["icons", "../..", 0], "component_id": component, "session_hash": "s", "fn_name": name}
    status, _ = site.ask("POST", "/gradio_api/component_server", json=call)
    assert status in (404, 500)


@pytest.mark.parametrize(
    ("method", "path", "sent", "statuses"),
    [
        (
            "POST",
            "/gradio_api/process_recording",
            {"files": {"video": ("x.mp4", b"#EXTM3U\nfile:///x")}},
            {404},
        ),
        ("POST", "/gradio_api/vibe-edit", {"json": {"prompt": "x"}}, {404}),
        ("POST", "/gradio_api/vibe-code/", {"json": {"code": "x"}}, {404}),
        ("GET", "/gradio_api/deep_link?session_hash=s", {}, {404}),
        ("POST", "/gradio_api/upload", {"content": b"x"}, {400}),
        ("POST", "/gradio_api/upload", {"headers": {"Content-Type": "multipart/form-data"}, "content": b"x"}, {400}),
        ("POST", "/gradio_api/upload", {"files": [("files", (str(n), b"x")) for n in range(1200)]}, {400}),
        ("POST", "/gradio_api/upload", {"data": {str(n): "x" for n in range(1200)}, "files": {"x": b""}}, {400}),
        ("POST", "/gradio_api/upload", {"files": {"files": ("x.png", bytes(MAX_BYTES + 1))}}, {413}),
        ("POST", "/gradio_api/upload", {"files": {"files": ("x.png", bytes(MAX_BYTES + FORM_BYTES + 1))}}, {413}),
        ("POST", "/gradio_api/call/search", {"content": (bytes(2**20) for _ in range(14))}, {413}),
        ("POST", "/gradio_api/mcp/", {"content": (bytes(2**20) for _ in range(14))}, {413}),
        ("POST", "/gradio_api/mcp/", {"json": nested(900)}, {400, 406, 500}),
        ("POST", "/gradio_api/cancel", {"json": {"session_hash": "x", "fn_index": 1, "event_id": "x"}}, {404}),
        ("POST", "/gradio_api/reset", {"json": {"event_id": "x"}}, {200}),
        ("POST", "/login", {"data": {"username": "x", "password": "y"}}, {302}),
        ("PUT", "/gradio_api/upload", {}, {405}),
        ("DELETE", "/gradio_api/file=app.py", {}, {405}),
        ("PATCH", "/config", {}, {405}),
        ("TRACE", "/", {}, {405}),
        ("OPTIONS", "/config", {}, {200, 405}),
        ("X" * 1000, "/", {}, {400, 405}),
        ("GET", "/" + "x" * 60_000, {}, {400, 404, 414, 431}),
        ("GET", "/?" + "&".join(f"label={n}" for n in range(5000)), {}, {200}),
        ("GET", "/", {"headers": {"Host": "evil.example"}}, {200}),
        ("GET", "/config", {"headers": {"Host": "{0}'\"<script>"}}, {200, 400}),
        ("GET", "/config", {"headers": {"X-Forwarded-Host": "evil.example", "X-Forwarded-Proto": "javascript"}}, {200}),
        ("GET", "/config", {"headers": {"Origin": "http://evil.example", "Host": "localhost"}}, {200, 400, 403}),
        ("GET", "/config", {"headers": {"X-Forwarded-For": "127.0.0.1", "X-Gradio-User": "mcp"}}, {200}),
        ("GET", "/config", {"headers": {"Cookie": "access-token=x; " + "a" * 8000}}, {200, 400, 431}),
        ("GET", "/config", {"headers": {"Range": "bytes=0-99999999999999999999"}}, {200, 206, 416}),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_unexpected_requests_are_refused(
    site: Site, method: str, path: str, sent: dict[str, Any], statuses: set[int]
) -> None:
    assert site.ask(method, path, **sent)[0] in statuses


@pytest.mark.parametrize(
    "sent",
    [
        b"\x00\x01\x02\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET http://127.0.0.1:1/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        b"CONNECT 127.0.0.1:1 HTTP/1.1\r\nHost: 127.0.0.1:1\r\nConnection: close\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 20_000 + b"\r\n",
        b"POST /gradio_api/call/search HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n{}",
        b"POST /gradio_api/upload HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\nG\r\n",
        b"POST /gradio_api/upload HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
        b"POST /gradio_api/upload HTTP/1.1\r\nHost: a\r\nContent-Length: 1e3\r\n\r\n",
        b"POST /gradio_api/call/search HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFF\r\n",
        b"POST /gradio_api/call/search HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000000000\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n\xff\xff\xff",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64),
    ],
    ids=lambda sent: str(sent[:30]),
)  # fmt: skip
def test_malformed_http_is_refused(site: Site, sent: bytes) -> None:
    with socket.create_connection(("127.0.0.1", httpx.URL(site.address).port), timeout=PATIENCE) as line:
        line.sendall(sent)
        line.shutdown(socket.SHUT_WR)
        answer = line.makefile("rb").read()
    site.clean(answer.decode("utf-8", "replace"))
    assert not answer or int(answer.split(b" ", 2)[1]) >= 400 or sent.startswith(b"GET http"), answer[:200]


def test_slow_senders_do_not_block_other_searches(site: Site, before: tuple[str, float]) -> None:
    head = b"POST /gradio_api/call/search HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n{"
    lines = [socket.create_connection(("127.0.0.1", httpx.URL(site.address).port)) for _ in range(200)]
    for line in lines:
        line.sendall(head)
    try:
        assert search_hits(site) == before[0]
    finally:
        for line in lines:
            line.close()


def test_uploads_of_other_visitors_can_only_be_reached_by_their_full_path(site: Site) -> None:
    path = Path(site.upload(small(size=(31, 17))))
    for other in (path.parent, path.parents[1], path.with_name("other.png"), path.parent / ".." / path.parent.name):
        answer = site.search(str(other))
        assert "event: error" in answer, other
    assert len(path.parent.name) == 64, "the path can be guessed"


# Floods


def test_flood_of_calls_is_refused_and_memory_stays_bounded(site: Site, before: tuple[str, float]) -> None:
    """300 calls from sessions that never fetch their results, and one visitor among them."""
    first = site.memory()
    body = {"data": list((DEFAULTS["query"] | {"top_k": 1800}).values())}

    def call(number: int) -> int:
        return site.client.post("/gradio_api/call/query", json=body | {"session_hash": f"flood {number}"}).status_code

    with ThreadPoolExecutor(16) as crowd:
        found = set(crowd.map(call, range(300)))
    assert found <= {200, 503}, found
    status = site.client.get("/gradio_api/queue/status").json()
    assert status["queue_size"] <= WAITING
    # Until the sessions of the flood count as abandoned.
    wait_until(lambda: "refused: 503" not in site.post("query", list(DEFAULTS["query"].values())))
    assert search_hits(site) == before[0]
    assert site.memory() - first < 400


def test_aborted_uploads_leave_no_files(site: Site) -> None:
    uploads = Path(site.upload(small())).parents[1]

    def kept() -> set[Path]:
        return {path for path in uploads.iterdir() if path.is_file()}

    left = kept()
    head = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n' + bytes(300_000)
    request = "POST /gradio_api/upload HTTP/1.1\r\nHost: a\r\nContent-Type: multipart/form-data; boundary=x\r\n"
    for _ in range(5):
        with socket.create_connection(("127.0.0.1", httpx.URL(site.address).port)) as line:
            line.sendall(f"{request}Content-Length: {10**7}\r\n\r\n".encode() + head)
    site.upload(small())
    wait_until(lambda: not kept() - left, lambda: f"expected {left}, found {kept()}")


@pytest.mark.parametrize("kinds", [("application/json", "multipart/form-data"), ("multipart/form-data", "text/plain")])
def test_call_with_two_content_types_has_the_limits_of_a_call(site: Site, kinds: tuple[str, str]) -> None:
    """No matter which of the two headers later code reads."""
    headers = [("Content-Type", f"{kind}; boundary=x") for kind in kinds]
    for body in (b'{"data": [' + b"[]," * 200_000 + b"[]]}", bytes(MAX_CALL + 1)):
        reply = site.client.post("/gradio_api/call/search", content=body, headers=headers)
        assert (reply.status_code, reply.json()) == (413, {"detail": bodies.TOO_LARGE})


# Random


GOOD = [small(kind) for kind in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "AVIF", "PPM", "TGA", "ICO", "JPEG2000")]
SPOILT = st.tuples(
    st.sampled_from(GOOD), st.lists(st.tuples(st.floats(0, 1), st.binary(max_size=9)), max_size=8), st.floats(0.2, 1)
)
TEXTS = st.text() | st.sampled_from(["", "icons", "clip", "l2", "chroma", "\0", "../x", "data:,", "/dev/zero"])
ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS | st.just("path"), inner, max_size=4),
    max_leaves=8,
)


def check_picture(spoilt: tuple[bytes, list[tuple[float, bytes]], float]) -> None:
    good, changes, share = spoilt
    data = bytearray(good)
    for at, change in changes:
        place = int(at**3 * len(data))  # mostly in the header
        data[place : place + len(change)] = change
    try:
        assert load_picture(bytes(data[: int(share * len(data))])).mode == "RGB"
    except PictureError as error:
        assert str(error).endswith(("Choose another file.", "or choose another.", "Shrink it.", "BMP or AVIF."))


def check_answer(site: Site, endpoint: str, arguments: list[Any]) -> None:
    answer = site.post(endpoint, json.dumps({"data": arguments}).encode())
    assert errors.SURPRISE not in answer
    assert answer.startswith(("event: ", "refused: 4"))


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::PIL.Image.DecompressionBombWarning")
def test_random_bytes_are_read_or_refused_with_a_message() -> None:
    fuzz(SPOILT, check_picture)


def test_random_arguments_get_an_answer(site: Site) -> None:
    fuzz(st.tuples(st.sampled_from(list(DEFAULTS)), st.lists(ANY, max_size=13)), lambda call: check_answer(site, *call))


# In a browser


@pytest.mark.browser
def test_browser_runs_and_fetches_nothing_from_a_dataset_or_a_link(
    tmp_path: Path, browser: Browser, queries: Path, site: Site
) -> None:
    """Labels, captions and links are untrusted text; rendered as HTML, they would send requests to the canary."""
    evil = (
        f"</script><img src={site.canary}/a.png onerror=window.hacked=1>![x]({site.canary}/b.png)"
        f"[x](javascript:window.hacked=1)${{window.hacked=1}}{{{{x}}}}<svg onload=window.hacked=1>"
    )
    pictures = [{"bytes": small(size=(24, 20 + number))} for number in range(8)]
    table = {"image": pictures, "label": [evil, "tame"] * 4, "caption": [f"{n} {evil}" for n in range(8)]}
    Dataset.from_dict(
        table, Features({"image": Image(), "label": Value("string"), "caption": Value("string")})
    ).to_parquet(tmp_path / "x.parquet")
    root = tmp_path / "index"
    flags = ["--index", str(root), "--dataset", str(tmp_path / "x.parquet"), "--model", "mini", "--map", "tsne"]
    assert index_builder.main([*flags, "--label-column", "label", "--caption-column", "caption"]) == 0
    searcher = Searcher(Indexes(root))
    with served(searcher, settings_of(root), queries) as address:
        context = browser.new_context()
        page = context.new_page()
        page.set_default_timeout(60_000)
        requested: set[str] = set()
        page.on("request", lambda request: requested.add(request.url))
        page.on("dialog", lambda dialog: requested.add(dialog.message))
        names = ("text", "without", "label", "gallery", "id", "region", "features", "metric", "k")
        page.goto(f"{address}/?{urllib.parse.urlencode(dict.fromkeys(names, evil))}")
        expect(page.locator("#results .caption-label").first).to_contain_text("onerror")
        page.goto(f"{address}/?{urllib.parse.urlencode({'text': 'red', 'label': evil, 'gallery': 'x'})}")
        expect(page.locator("#results .caption-label")).to_have_count(4)
        page.locator("#results .thumbnail-item").first.click()
        expect(page.locator("#trail .thumbnail-item, #query img").first).to_be_visible()
        for tab, shown in (("Compare", "#compare_note"), ("Map", "#map_note"), ("Robustness", "#robustness_note")):
            open_tab(page, tab)
            expect(page.locator(shown)).not_to_be_empty()
        open_tab(page, "Evaluate")
        page.locator("#evaluate_query").click()
        expect(page.locator("#figures_plot img")).to_be_visible()
        assert page.evaluate("window.hacked") is None
        context.close()
    searcher.indexes.close()
    assert not [url for url in requested if not url.startswith((address, "blob:", "data:"))]


# After all attacks


def test_app_still_works_and_has_hardly_grown(site: Site, before: tuple[str, float]) -> None:
    assert search_hits(site) == before[0]
    assert site.memory("VmHWM") - before[1] < GROWTH_MB
