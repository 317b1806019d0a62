"""The app stops in time, whatever its visitors do."""

import asyncio
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest
from typing_extensions import override

from retrieval.search.searcher import Searcher
from retrieval.storage.catalog import Indexes
from retrieval.ui.page import build_page, launch
from retrieval.ui.serving.health import Health
from retrieval.ui.serving.shutdown import close
from tests.support.browsing import settings_of
from tests.support.paths import ROOT
from tests.support.serving import wait_for_address
from tests.support.waiting import PATIENCE

HEARTBEATS, UPLOADS = 300, 20
SECONDS = 16.0  # twice as long as a stop takes at most on a machine that is not busy

HEARTBEAT = "GET /gradio_api/heartbeat/visitor{} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
UPLOAD = (  # its beginning; the rest never comes
    b"POST /gradio_api/upload HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: multipart/form-data; boundary=x\r\n"
    b"Content-Length: 1000000\r\n\r\n"
    b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'
)

pytestmark = [pytest.mark.endurance, pytest.mark.short]


def test_open_connections_and_slow_images_do_not_delay_a_stop(few_icons: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with log.open("w") as output:
        command = [sys.executable, "app.py", "--index", str(few_icons), "--host", "127.0.0.1"]
        process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output)
    url = httpx.URL(wait_for_address(log, process))
    slow = b"P3\n1 1\n255\n" + b"#\n" * 9_000_000 + b"0 0 0\n"
    path = httpx.post(f"{url}/gradio_api/upload", files={"files": ("slow.ppm", slow)}, timeout=PATIENCE).json()[0]
    lines = [socket.create_connection((url.host, url.port)) for _ in range(HEARTBEATS + UPLOADS)]
    for number, line in enumerate(lines):
        line.sendall(HEARTBEAT.format(number).encode() if number < HEARTBEATS else UPLOAD)
    for line in lines[:HEARTBEATS]:
        assert line.recv(4096).startswith(b"HTTP/1.1 200")
    data = [{"path": path, "meta": {"_type": "gradio.FileData"}}, "clip", "cosine", "exact", 3, ""]
    for _ in range(4):
        httpx.post(f"{url}/gradio_api/call/search", json={"data": data}, timeout=PATIENCE).raise_for_status()
    started = time.monotonic()
    process.terminate()
    assert process.wait(PATIENCE) == 0, log.read_text()
    assert time.monotonic() - started < SECONDS
    print(f"stopped after {time.monotonic() - started:.1f} s")
    for line in lines:
        line.close()


def test_stop_is_announced_within_the_loop_that_serves_the_page(few_icons: Path) -> None:
    announced: list[threading.Thread] = []

    class Watched(asyncio.Event):
        @override
        def set(self) -> None:
            if not self.is_set():
                announced.append(threading.current_thread())
            super().set()

    searcher = Searcher(Indexes(few_icons))
    page = build_page(searcher, "about")
    door = launch(page, settings_of(few_icons), Health(searcher))
    page.app.stop_event = Watched()
    close(page, door)
    searcher.indexes.close()
    assert len(announced) == 1
    assert announced[0] is not threading.current_thread()
