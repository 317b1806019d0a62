"""What a crowd of visitors leaves behind, and what happens when they take every file descriptor."""

import os
import random
import re
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from pathlib import Path
from statistics import median
from types import SimpleNamespace

import httpx
import pytest

from retrieval.ui.serving.limits import UPLOADS_FILES
from tests.support.fuzz import SECONDS
from tests.support.hostile_pictures import small
from tests.support.paths import ROOT
from tests.support.serving import post, wait_for_address
from tests.support.waiting import PATIENCE, wait_until

pytestmark = pytest.mark.endurance

DESCRIPTORS = 256
VISITORS = 32
WARM = 60.0  # seconds that a load takes at least, so that everything has been used
SAMPLES = 30
GROWTH = 1.1  # of the last third of the samples over the second


@dataclass(frozen=True)
class Taken:
    """What a process holds at a moment."""

    descriptors: int
    threads: int
    megabytes: int


@contextmanager
def started(index: Path, folder: Path, descriptors: int = 0) -> Iterator[SimpleNamespace]:
    """Run the app as on a Space, perhaps with a limit of file descriptors; yield its address, and what it has taken."""
    uploads, log = folder / "uploads", folder / "log"
    more = {"SPACE_ID": "somebody/lookalike", "GRADIO_TEMP_DIR": str(uploads), "PYTHONUNBUFFERED": "1"}

    def limit() -> None:
        if descriptors:
            resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors // 2, descriptors))

    with log.open("w") as output:
        command = [sys.executable, "app.py", "--index", str(index), "--host", "127.0.0.1"]
        process = subprocess.Popen(
            command, cwd=ROOT, env=os.environ | more, stdout=output, stderr=output, preexec_fn=limit
        )
    proc = Path(f"/proc/{process.pid}")

    def taken() -> Taken:
        status = proc.joinpath("status").read_text()
        threads, kilobytes = (int(re.findall(rf"{name}:\s+(\d+)", status)[0]) for name in ("Threads", "VmRSS"))
        return Taken(len(list(proc.joinpath("fd").iterdir())), threads, kilobytes // 1024)

    address = wait_for_address(log, process)
    wait_until(lambda: httpx.get(f"{address}/health", timeout=PATIENCE).status_code == 200, log.read_text)
    yield SimpleNamespace(address=address, taken=taken, uploads=uploads, limits=proc / "limits", log=log)
    process.terminate()
    assert process.wait(PATIENCE) == 0, log.read_text()


def upload(client: httpx.Client, content: bytes) -> dict[str, object]:
    path = client.post("/gradio_api/upload", files={"files": ("a.png", content)}).raise_for_status().json()[0]
    return {"path": path, "meta": {"_type": "gradio.FileData"}}


@pytest.mark.short
def test_page_survives_visitors_who_take_all_file_descriptors(few_icons: Path, tmp_path: Path) -> None:
    with started(few_icons, tmp_path, DESCRIPTORS) as site:
        # The app takes as many as it may, because 300 idle connections would be enough for a common soft limit.
        assert re.search(rf"Max open files +{DESCRIPTORS} ", site.limits.read_text())
        address = httpx.URL(site.address)
        with httpx.Client(base_url=address, timeout=PATIENCE) as client:
            client.get("/health")
            lines = [socket.create_connection((address.host, address.port)) for _ in range(DESCRIPTORS)]
            wait_until(lambda: site.taken().descriptors >= DESCRIPTORS)
            assert client.get("/health").status_code in (200, 503)  # by the connection that was there before
            refused = client.post("/gradio_api/upload", files={"files": ("a.png", small())})
            assert refused.status_code >= 500
            assert "Traceback" not in refused.text
        for line in lines:
            line.close()
        wait_until(lambda: httpx.get(f"{address}/health", timeout=PATIENCE).status_code == 200, site.log.read_text)
        with httpx.Client(base_url=address, timeout=PATIENCE) as client:
            image = upload(client, small())
        assert "event: complete" in post(site.address, "search", image, "clip", "cosine", "exact", 3, "")


def visit(site: SimpleNamespace, end: float, seed: int, pictures: list[bytes]) -> int:
    """Act like a visitor until the time is over; return the number of searches that were answered."""
    chance, answered = random.Random(seed), 0
    headers = {"x-forwarded-for": f"192.0.2.{seed}"}
    while time.monotonic() < end:
        with httpx.Client(base_url=f"{site.address}", timeout=PATIENCE, headers=headers) as client:
            for path in ("/", "/config"):
                client.get(path).raise_for_status()
            session = f"visitor {chance.random()}"
            for _ in range(chance.randrange(10)):
                engine, top_k, text = chance.choice(("exact", "chroma")), chance.choice((3, 50)), chance.random()
                image = upload(client, chance.choice(pictures)) if chance.random() < 0.5 else None
                asked = [f"a fox {text}", image, [], [], "", 0.5, [], [], 1]
                name, data = chance.choice(
                    [("query", [*asked, "clip", "cosine", engine, top_k, "", None])] * 3
                    + [("compare", [*asked, top_k, ""])]
                )
                sent = client.post(f"/gradio_api/call/{name}", json={"data": data, "session_hash": session})
                if sent.status_code != 200 or chance.random() < 0.1:  # refused, or does not wait for the answer
                    continue
                with client.stream("GET", f"/gradio_api/call/{name}/{sent.json()['event_id']}") as answer:
                    if chance.random() < 0.1:  # leaves before it comes
                        next(answer.iter_bytes())
                    else:
                        answered += "event: complete" in answer.read().decode()
    return answered


def test_resources_level_off_under_a_mixed_load(icons: Path, tmp_path: Path) -> None:
    pictures = [*(small(size=(64 + number, 64)) for number in range(20)), b"no image"]
    seconds = max(SECONDS, WARM)
    with started(icons, tmp_path) as site, ThreadPoolExecutor(VISITORS) as threads:
        end, samples = time.monotonic() + seconds, []
        visits = [threads.submit(visit, site, end, seed, pictures) for seed in range(VISITORS)]
        while time.monotonic() < end:
            samples.append(site.taken())
            time.sleep(seconds / SAMPLES)
        answered = sum(each.result() for each in visits)
        files = sum(path.is_file() for path in site.uploads.rglob("*"))
    print(f"{answered} answers, {files} files", *samples, sep="\n")
    assert answered > VISITORS
    assert files <= UPLOADS_FILES + VISITORS
    third = len(samples) // 3
    before, last = list(map(astuple, samples[: 2 * third])), list(map(astuple, samples[2 * third :]))
    # Single samples have short-lived threads, so peaks are compared with all that came before.
    for typical, earlier in ((median, before[third:]), (max, before)):
        low, high = ([typical(values) for values in zip(*part, strict=True)] for part in (earlier, last))
        assert all(after <= GROWTH * first for first, after in zip(low, high, strict=True)), (low, high)
