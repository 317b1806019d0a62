"""Run `python app.py` as a separate process, and act as its visitors over plain HTTP."""

import json
import os
import re
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).resolve().parents[1]
# The arguments of `/query`, in their order.
DEFAULTS: dict[str, object] = {
    "text": "",
    "image": None,
    "more": [],
    "less": [],
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
    "min_score": None,
}
PATIENCE = 300.0  # seconds after which a response counts as lost


@dataclass
class App:
    """A running app.

    Attributes:
        pid: the process.
        started: `time.perf_counter` at its start.
        address: the URL at which it listens.
        output: the lines of its output, each with the seconds since the start.
    """

    pid: int
    started: float
    address: str = ""
    output: list[tuple[float, str]] = field(default_factory=list)

    def listen(self, lines: Iterable[str]) -> None:
        """Record output: the first call up to the line with the address, a later call all the rest."""
        known = bool(self.address)
        for line in lines:
            self.output.append((time.perf_counter() - self.started, line))
            if not known and (found := re.search(r"http://127\.0\.0\.1:\d+", line)):
                self.address = found[0]
                return

    def seconds_to(self, text: str) -> float | None:
        """Return the seconds from the start to the first line that contains a text, or None."""
        return next((seconds for seconds, line in self.output if text in line), None)

    def wait_until_warm(self) -> float:
        """Wait until the app has loaded everything that a search needs; return the seconds since its start."""
        while (warm := self.seconds_to("INFO every search is warm")) is None:
            time.sleep(0.1)  # poll the output of the process
        return warm

    @property
    def resident(self) -> float:
        """The resident memory of the process in megabytes."""
        return resident(self.pid) / 2**20


def resident(process: int, kind: str = "VmRSS") -> int:
    """Return the resident memory of a process in bytes (Linux); the kind `RssAnon` excludes mapped files."""
    text = Path(f"/proc/{process}/status").read_text()
    return int(re.findall(rf"{kind}:\s+(\d+) kB", text)[0]) * 1024


@contextmanager
def running(index: Path, cache: Path, *options: str, **environment: str) -> Iterator[App]:
    """Start the app, wait until it prints its address, and stop it afterwards.

    Args:
        index: the index folder; the app builds it if it does not exist.
        cache: the Hugging Face cache.
        options: options of the Python interpreter.
        environment: more environment variables.
    """
    command = [sys.executable, *options, "app.py", "--host", "127.0.0.1", "--index", str(index)]
    all_variables = {**os.environ, "HF_HOME": str(cache), "PYTHONUNBUFFERED": "1", **environment}
    started = time.perf_counter()
    process = subprocess.Popen(
        command, cwd=ROOT, env=all_variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        assert process.stdout
        app = App(process.pid, started)
        app.listen(process.stdout)
        if not app.address:
            raise SystemExit("".join(["The app did not start:\n", *(line for _, line in app.output)]))
        # The app would block when the pipe is full, so its output must be read.
        threading.Thread(target=app.listen, args=(process.stdout,), daemon=True).start()
        yield app
    finally:
        process.terminate()
        process.wait()


class Visitor:
    """One visitor's connection and session, a light version of `gradio_client`; a Space takes `ip` for the address."""

    def __init__(self, address: str, ip: str = "192.0.2.1") -> None:
        self._address, self._session = address, uuid.uuid4().hex
        headers = {"x-forwarded-for": ip}
        self._http = httpx.Client(base_url=f"{address}/gradio_api", timeout=PATIENCE, headers=headers)

    def load(self, host: str) -> None:
        """Load the page under the name of a host."""
        self._http.get(self._address, headers={"host": host}).raise_for_status()

    def upload(self, picture: bytes, name: str = "query.jpg") -> dict[str, Any]:
        """Upload an image and return the value that stands for it in a search."""
        answer = self._http.post("/upload", files={"files": (name, picture)}).raise_for_status()
        return {"path": answer.json()[0], "meta": {"_type": "gradio.FileData"}}

    def search(self, picture: dict[str, Any], **settings: object) -> dict[str, Any]:
        """Return the result of the HTTP API's `/query`; raise RuntimeError if it is an error."""
        return self.call("query", DEFAULTS | {"image": picture} | settings)

    def call(self, name: str, values: Mapping[str, object]) -> dict[str, Any]:
        """Return the result of an endpoint; raise RuntimeError if it is an error. `values` are all its arguments."""
        body = {"data": list(values.values()), "session_hash": self._session}
        call = self._http.post(f"/call/{name}", json=body).raise_for_status()
        events = self._http.get(f"/call/{name}/{call.json()['event_id']}").raise_for_status().text
        event = re.search(r"event: (complete|error)\ndata: (.*)", events)
        if not event or event[1] == "error":
            raise RuntimeError(events)
        answer: dict[str, Any] = json.loads(event[2])[0]
        return answer
