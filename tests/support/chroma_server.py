"""Run `chroma run` on a free port of this machine."""

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from tests.support.waiting import PATIENCE, wait_until


@contextmanager
def chroma_server(folder: Path) -> Iterator[str]:
    """Run a ChromaDB server over a folder; yield its address."""
    folder.mkdir(parents=True, exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = folder / "server.log"
    command = [Path(sys.executable).with_name("chroma"), "run", "--path", folder / "data", "--port", str(port)]
    with log.open("w") as output:
        process = subprocess.Popen([*command, "--host", "127.0.0.1"], stdout=output, stderr=output)

    def answers() -> bool:
        assert process.poll() is None, log.read_text()
        try:
            return httpx.get(f"http://127.0.0.1:{port}/api/v2/heartbeat", trust_env=False).is_success
        except httpx.HTTPError:
            return False

    try:
        wait_until(answers, log.read_text)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(PATIENCE)
