"""The app as a process of its own, and calls of its endpoints as any program makes them."""

import json
import os
import re
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.paths import ROOT
from tests.support.waiting import PATIENCE, until


@contextmanager
def running(log: Path, *arguments: str, **environment: str) -> Iterator[str]:
    """`python app.py` as a process of its own, from start to SIGTERM; gives its address."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("RETRIEVAL_")}
    command = [sys.executable, "app.py", "--host", "127.0.0.1", *arguments]
    with log.open("w") as output:
        process = subprocess.Popen(command, cwd=ROOT, env=inherited | environment, stdout=output, stderr=output)
    try:
        yield address_in(log, process)
    finally:
        process.terminate()
        process.wait(PATIENCE)


def address_in(log: Path, process: subprocess.Popen[bytes]) -> str:
    """Wait until an app has written its address."""

    def address() -> re.Match[str] | None:
        assert process.poll() is None, log.read_text()
        return re.search(r"http://127\.0\.0\.1:\d+", log.read_text())

    found = until(address, log.read_text)
    assert found
    return found[0]


def post(address: str, name: str, *data: Any) -> str:
    """Call an endpoint as any program can, without the client's own checks; return the events' text."""
    body = json.dumps({"data": data}).encode()
    url = f"{address}/gradio_api/call/{name}"
    with urllib.request.urlopen(
        urllib.request.Request(url, body, {"Content-Type": "application/json"}), timeout=PATIENCE
    ) as reply:
        event = json.load(reply)["event_id"]
    with urllib.request.urlopen(f"{url}/{event}", timeout=PATIENCE) as reply:
        return reply.read().decode()
