"""Run the app in its own process, and call its endpoints over HTTP."""

import json
import os
import re
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.paths import ROOT
from tests.support.waiting import PATIENCE, wait_until


@contextmanager
def running(
    log: Path,
    *arguments: str,
    program: Sequence[str] = (sys.executable, "app.py"),
    cwd: Path = ROOT,
    **environment: str,
) -> Iterator[str]:
    """Run the app in its own process; yield its address, and stop it with SIGTERM."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("RETRIEVAL_")}
    command = [*program, "--host", "127.0.0.1", *arguments]
    with log.open("w") as output:
        process = subprocess.Popen(command, cwd=cwd, env=inherited | environment, stdout=output, stderr=output)
    try:
        yield wait_for_address(log, process)
    finally:
        process.terminate()
        process.wait(PATIENCE)


def wait_for_address(log: Path, process: subprocess.Popen[bytes]) -> str:
    """Wait until the app has logged its address; return it."""

    def address() -> re.Match[str] | None:
        assert process.poll() is None, log.read_text()
        return re.search(r"http://127\.0\.0\.1:\d+", log.read_text())

    found = wait_until(address, log.read_text)
    assert found
    return found[0]


def post(address: str, name: str, *data: Any) -> str:
    """Call an endpoint without the checks of gradio's client; return the text of its events."""
    body = json.dumps({"data": data}).encode()
    url = f"{address}/gradio_api/call/{name}"
    with urllib.request.urlopen(
        urllib.request.Request(url, body, {"Content-Type": "application/json"}), timeout=PATIENCE
    ) as reply:
        event = json.load(reply)["event_id"]
    with urllib.request.urlopen(f"{url}/{event}", timeout=PATIENCE) as reply:
        return reply.read().decode()
