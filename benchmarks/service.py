"""`python app.py` as a process of its own, and visitors that ask it over plain HTTP."""

import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).resolve().parents[1]
PATIENCE = 300.0  # seconds until an answer counts as lost


@dataclass(frozen=True)
class App:
    """A running app: where it listens, its process, and when it was started, by `time.perf_counter`."""

    address: str
    pid: int
    started: float

    @property
    def resident(self) -> float:
        """The megabytes of memory that the process holds (Linux)."""
        text = Path(f"/proc/{self.pid}/status").read_text()
        return int(re.findall(r"VmRSS:\s+(\d+) kB", text)[0]) / 1024


@contextmanager
def running(index: Path, cache: Path, log: list[str] | None = None) -> Iterator[App]:
    """Start the app over an index folder, wait until it says where it listens, and end it afterwards.

    Args:
        index: made by the app if it is not there.
        cache: the Hugging Face cache.
        log: takes the lines that the app prints.
    """
    command = [sys.executable, "app.py", "--host", "127.0.0.1", "--index", str(index)]
    environment = {**os.environ, "HF_HOME": str(cache), "PYTHONUNBUFFERED": "1"}
    started = time.perf_counter()
    app = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        assert app.stdout
        lines = [] if log is None else log
        found = None
        while not found:
            if not (line := app.stdout.readline()):
                raise SystemExit("".join(["The app did not start:\n", *lines]))
            lines.append(line)
            found = re.search(r"http://127\.0\.0\.1:\d+", line)
        # A pipe that nobody reads would stop the app when it is full.
        threading.Thread(target=lines.extend, args=(app.stdout,), daemon=True).start()
        yield App(found[0], app.pid, started)
    finally:
        app.terminate()
        app.wait()


class Visitor:
    """One visitor's connection; uploads pictures and searches by `/query`, as `gradio_client` would, but lighter."""

    def __init__(self, address: str) -> None:
        """Connect to an app."""
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
        asked = self._http.post("/call/v2/query", json={"image": picture, **settings}).raise_for_status()
        told = self._http.get(f"/call/v2/query/{asked.json()['event_id']}").raise_for_status().text
        event = re.search(r"event: (complete|error)\ndata: (.*)", told)
        if not event or event[1] == "error":
            raise RuntimeError(told)
        answer: dict[str, Any] = json.loads(event[2])[0]
        return answer
