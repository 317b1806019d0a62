"""An app under attack, which runs as on a Space, and its endpoints with valid arguments."""

import base64
import json
import re
import socket
from pathlib import Path
from typing import Any

import httpx

from tests.support.hostile_pictures import small
from tests.support.paths import ROOT
from tests.support.waiting import PATIENCE

SECRET = "the-secret-of-the-owner"
GROWTH_MB = 1200  # allowed growth of the app's peak memory; a single decompression bomb would take more
FILE = {"meta": {"_type": "gradio.FileData"}}
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

    def wait_for_answer(self, session: str) -> None:
        """Read the events of a session up to its first answer; the app keeps the stream open for later calls."""
        with self.client.stream("GET", "/gradio_api/queue/data", params={"session_hash": session}) as reply:
            assert any("process_completed" in self.clean(line) for line in reply.iter_lines())

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
ASKED = {
    "text": "red",
    "image": "",
    "more": [],
    "less": [],
    "without": "",
    "balance": 0.5,
    "labels": [],
    "region": [],
    "alike": 1,
}
DISTORTED = {"rotation": 5, "crop": 0, "blur": 0, "grey": 0, "quality": 50}
DEFAULTS: dict[str, dict[str, Any]] = {
    "search": {"image": base64.b64encode(small()).decode(), **TAIL},
    "query": {**ASKED, **TAIL, "min_score": None},
    "compare": {**ASKED, "top_k": 3, "gallery": ""},
    "robustness": {"image": base64.b64encode(small()).decode(), **DISTORTED, "metric": "l2", "top_k": 3, "gallery": ""},
    "evaluate": {"gallery": "", "sample": 5, "k": "1,5", "per_class": False},
}


def search_hits(site: Site) -> str:
    found = site.post("query", list(DEFAULTS["query"].values()))
    assert "event: complete" in found
    return found.partition('"timings_ms"')[0]


def nested(depth: int) -> list[Any]:
    """Return lists in lists."""
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


def check_after_attacks(site: Site, before: tuple[str, float]) -> None:
    """Check that the app still works as before, and that its memory has hardly grown."""
    assert search_hits(site) == before[0]
    assert site.memory("VmHWM") - before[1] < GROWTH_MB
