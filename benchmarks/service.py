"""`python app.py` as a process of its own, and visitors that ask it over plain HTTP."""

import json
import os
import re
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).resolve().parents[1]
# The arguments of `/query`, in its order.
DEFAULTS: dict[str, object] = {
    "text": "",
    "image": None,
    "without": "",
    "balance": 0.5,
    "labels": [],
    "region": [],
    "alike": 1,
    "features": "clip",
    "metric": "cosine",
    "engine": "exact",
    "top_k": 10,
    "gallery": "",
}
PATIENCE = 300.0  # seconds until an answer counts as lost


@dataclass
class App:
    """A running app: its process, when it was started, by `time.perf_counter`, where it listens, and what it said.

    `said` has the seconds from the start to each line of its output.
    """

    pid: int
    started: float
    address: str = ""
    said: list[tuple[float, str]] = field(default_factory=list)

    def listen(self, lines: Iterable[str]) -> None:
        """Note what comes: up to the line with the address, and when that is known, all of it."""
        known = bool(self.address)
        for line in lines:
            self.said.append((time.perf_counter() - self.started, line))
            if not known and (found := re.search(r"http://127\.0\.0\.1:\d+", line)):
                self.address = found[0]
                return

    def seconds_to(self, text: str) -> float | None:
        """Return how long it took the app to say something, or None if it has not."""
        return next((seconds for seconds, line in self.said if text in line), None)

    def wait_until_warm(self) -> float:
        """Wait until the app has loaded all that a search needs; return how long that took from its start."""
        while (warm := self.seconds_to("INFO every search is warm")) is None:
            time.sleep(0.1)  # polls the output of a process
        return warm

    @property
    def resident(self) -> float:
        """The megabytes of memory that the process holds."""
        return resident(self.pid) / 2**20


def resident(process: int, kind: str = "VmRSS") -> int:
    """Return the bytes of memory that a process holds (Linux); `RssAnon` leaves out files that are mapped."""
    text = Path(f"/proc/{process}/status").read_text()
    return int(re.findall(rf"{kind}:\s+(\d+) kB", text)[0]) * 1024


@contextmanager
def running(index: Path, cache: Path, *options: str) -> Iterator[App]:
    """Start the app over an index folder, wait until it says where it listens, and end it afterwards.

    Args:
        index: made by the app if it is not there.
        cache: the Hugging Face cache.
        options: of Python.
    """
    command = [sys.executable, *options, "app.py", "--host", "127.0.0.1", "--index", str(index)]
    environment = {**os.environ, "HF_HOME": str(cache), "PYTHONUNBUFFERED": "1"}
    started = time.perf_counter()
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        assert process.stdout
        app = App(process.pid, started)
        app.listen(process.stdout)
        if not app.address:
            raise SystemExit("".join(["The app did not start:\n", *(line for _, line in app.said)]))
        # A pipe that nobody reads would stop the app when it is full.
        threading.Thread(target=app.listen, args=(process.stdout,), daemon=True).start()
        yield app
    finally:
        process.terminate()
        process.wait()


class Visitor:
    """One visitor's connection and session; uploads and searches by `/query`, as `gradio_client` would, but lighter."""

    def __init__(self, address: str) -> None:
        """Connect to an app."""
        self._session = uuid.uuid4().hex
        self._http = httpx.Client(base_url=f"{address}/gradio_api", timeout=PATIENCE)

    def upload(self, picture: bytes, name: str = "query.jpg") -> dict[str, Any]:
        """Return what stands for an uploaded picture in a search."""
        answer = self._http.post("/upload", files={"files": (name, picture)}).raise_for_status()
        return {"path": answer.json()[0], "meta": {"_type": "gradio.FileData"}}

    def search(self, picture: dict[str, Any], **settings: object) -> dict[str, Any]:
        """Return the answer of the HTTP API's `/query`.

        Raises:
            RuntimeError: the app answered with an error.
        """
        body = {"data": list((DEFAULTS | {"image": picture} | settings).values()), "session_hash": self._session}
        asked = self._http.post("/call/query", json=body).raise_for_status()
        told = self._http.get(f"/call/query/{asked.json()['event_id']}").raise_for_status().text
        event = re.search(r"event: (complete|error)\ndata: (.*)", told)
        if not event or event[1] == "error":
            raise RuntimeError(told)
        answer: dict[str, Any] = json.loads(event[2])[0]
        return answer
