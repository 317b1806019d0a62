"""The app as on a Hugging Face Space: first start, public visitors, no outside requests, and shutdown."""

import ctypes
import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image

from retrieval import settings
from retrieval.ui.serving.health import STOPPING as HEALTH_STOPPING
from retrieval.ui.serving.limits import PUBLIC, limits_of
from retrieval.ui.serving.shutdown import STOPPING
from retrieval.ui.tabs.evaluate import EvaluateTab
from retrieval.ui.tabs.galleries import GalleriesTab
from tests.support.hub_client import GUARD
from tests.support.loopback_hub import LoopbackHub
from tests.support.paths import ROOT
from tests.support.serving import post, wait_for_address
from tests.support.waiting import PATIENCE, wait_until

SECRET = "hf_canaryToken"
CANARY = "zanzibar-7e1c"  # part of everything that the visitor sends

ENDED = """
import json, sys
from retrieval import hub
from retrieval.errors import ModelError
from retrieval.features.models import choose_model
answers = []
for _ in range(2):
    try:
        choose_model("org/model")
    except ModelError as error:
        answers.append(str(error))
    hub.end_access()
print(json.dumps(answers))
"""


@dataclass
class Space:
    """A running Space: its process, its address, its log, and the file with the hosts it tried to reach."""

    process: subprocess.Popen[bytes]
    address: str
    log: Path
    foreign: Path

    def wait_until_ready(self) -> None:
        """Wait until `/health` reports that the app is ready."""
        wait_until(lambda: health(self.address)[0] == 200, self.log.read_text)


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Space]:
    """The first start of a Space with a small gallery; connections that are not loopback are refused and recorded."""
    folder = tmp_path_factory.mktemp("space")
    (folder / "guard").mkdir()
    (folder / "guard" / "sitecustomize.py").write_text(GUARD)
    foreign = folder / "foreign"
    foreign.touch()
    inherited = {k: v for k, v in os.environ.items() if k not in ("HF_HUB_OFFLINE", "GRADIO_ANALYTICS_ENABLED")}
    environment = {
        **inherited,
        # Set by the Space; a real one listens on all addresses, which no test does.
        "SPACE_ID": "somebody/lookalike",
        "SYSTEM": "spaces",
        "SPACE_HOST": "somebody-lookalike.hf.space",
        "GRADIO_SERVER_NAME": "127.0.0.1",
        # Set by the Space's owner: variables and a secret.
        "RETRIEVAL_INDEX": str(folder / "index"),
        "RETRIEVAL_DATASET": "assets/gallery",
        "RETRIEVAL_LIMIT": "64",
        "RETRIEVAL_MODEL": "mini",
        "RETRIEVAL_LOG_FORMAT": "json",
        "HF_TOKEN": SECRET,
        "HOME": str(folder),
        "HF_HOME": str(folder / "hf"),
        "PYTHONPATH": str(folder / "guard"),
        "FOREIGN_HOSTS": str(foreign),
    }
    log = folder / "app.log"
    with log.open("w") as output:
        process = subprocess.Popen([sys.executable, "app.py"], cwd=ROOT, env=environment, stdout=output, stderr=output)
    yield Space(process, wait_for_address(log, process), log, foreign)
    process.kill()
    process.wait(30)


@pytest.fixture(scope="module")
def client(space: Space) -> Client:
    space.wait_until_ready()
    return Client(space.address, verbose=False)


def health(address: str) -> tuple[int, dict[str, str]]:
    try:
        with urllib.request.urlopen(f"{address}/health", timeout=PATIENCE) as reply:
            return reply.status, json.load(reply)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def test_visit_uses_no_network_and_leaves_no_trace_in_the_log(
    space: Space, client: Client, queries: Path, tmp_path: Path
) -> None:
    mine = tmp_path / f"{CANARY}.png"
    mine.write_bytes((queries / "fox.png").read_bytes())
    broken = tmp_path / f"{CANARY}-broken.png"
    broken.write_bytes(CANARY.encode())
    assert len(client.predict(handle_file(str(mine)), top_k=5, api_name="/search")["hits"]) == 5
    assert client.predict(text=CANARY, image=None, engine="chroma", api_name="/query")["hits"]
    assert client.predict(text=CANARY, image=None, top_k=3, api_name="/compare")["cells"]
    assert client.predict(handle_file(str(mine)), rotation=20, api_name="/robustness")["results"]
    for bad in ({"image": handle_file(str(broken))}, {"text": CANARY, "image": None, "labels": [CANARY]}):
        with pytest.raises(AppError):
            client.predict(api_name="/query", **({"text": ""} | bad))
    # gradio itself refuses this call with its own error, before it calls our function.
    config = json.load(urllib.request.urlopen(f"{space.address}/config", timeout=PATIENCE))
    tab = next(each for each in config["dependencies"] if each["api_name"] == "evaluate_gallery")
    assert "event: error" in post(space.address, tab["api_name"], CANARY, 50, None, 0, False)
    request = urllib.request.Request(
        f"{space.address}/?text={CANARY}", headers={"X-Forwarded-For": f"{CANARY}.example"}
    )
    assert urllib.request.urlopen(request, timeout=PATIENCE).status == 200
    # The MCP server refuses these: a wrong content type, an unknown method and an unknown tool.
    mcp = f"{space.address}/gradio_api/mcp/"
    either = {"Accept": "application/json, text/event-stream"}
    strange = either | {"Content-Type": f"text/{CANARY}", "Origin": f"http://{CANARY}", "Host": f"{CANARY}.example"}
    assert httpx.post(mcp, content=b"{}", headers=strange, timeout=PATIENCE).status_code == 400
    for method, params in ((CANARY, {}), ("tools/call", {"name": CANARY, "arguments": {}})):
        message = {"jsonrpc": "2.0", "method": method, "params": params}
        for sent in (message | {"id": 1}, message, {"jsonrpc": "2.0", "id": CANARY, "result": {}}):
            assert httpx.post(mcp, json=sent, headers=either, timeout=PATIENCE).status_code in (200, 202)

    said = space.log.read_text()
    assert "outside of its function" in said, "gradio's own refusal was not provoked"
    assert CANARY not in said
    assert "error at server.py:" in said, "the MCP server's own refusal was not provoked"
    assert SECRET not in said
    lines = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    searched = [line for line in lines if line["logger"] == "search"]
    assert [line["message"] for line in searched] == ["search", "search", "compare", "robustness"]
    assert searched[0] | {"engine": "exact", "k": 5, "hits": 5, "pictures": 64, "features": "clip"} == searched[0]
    assert searched[1]["engine"] == "chroma"
    assert all(searched[0][f"{part}_ms"] >= 0 for part in ("decode", "features", "search", "total"))
    assert not space.foreign.read_text()


def test_public_visitors_cannot_build_and_have_smaller_limits(
    space: Space, client: Client, queries: Path, tmp_path: Path
) -> None:
    with urllib.request.urlopen(f"{space.address}/config", timeout=PATIENCE) as reply:
        page = reply.read().decode()
    assert EvaluateTab.title in page
    assert f'"{GalleriesTab.title}"' not in page
    with pytest.raises(AppError, match="at most 1,000 on this page"):
        client.predict(handle_file(str(queries / "fox.png")), top_k=1001, api_name="/search")
    Image.new("1", (10_000, PUBLIC.pictures.pixels // 10_000 + 1)).save(tmp_path / "large.png")
    with pytest.raises(AppError, match="the limit is 50 megapixels"):
        client.predict(handle_file(str(tmp_path / "large.png")), api_name="/search")
    request = urllib.request.Request(f"{space.address}/gradio_api/call/search", data=b"{}", method="POST")
    request.add_unredirected_header("Content-Length", str(PUBLIC.upload_bytes * 2))
    with pytest.raises(urllib.error.HTTPError, match="413"):
        urllib.request.urlopen(request, timeout=PATIENCE)


@pytest.mark.parametrize(
    ("flags", "environment"),
    [
        ((), {"SPACE_ID": "somebody/lookalike"}),
        (("--share",), {}),
        (("--host", "0.0.0.0"), {}),
        (("--no-build",), {}),
        ((), {"GRADIO_ROOT_PATH": "/behind-a-proxy"}),
    ],
)
def test_pages_that_others_can_open_have_lower_limits(
    monkeypatch: pytest.MonkeyPatch, flags: tuple[str, ...], environment: dict[str, str]
) -> None:
    from retrieval import app

    for name in ("SPACE_ID", "SYSTEM", "GRADIO_ROOT_PATH", "GRADIO_SERVER_NAME", "GRADIO_SHARE"):
        monkeypatch.delenv(name, raising=False)
    own = limits_of(settings.parse(app.parser(), [], {})[1])
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    public = limits_of(settings.parse(app.parser(), [*flags], {})[1])
    for name in ("upload_bytes", "top_k", "sample", "seconds"):
        assert getattr(public, name) < getattr(own, name), name
    assert public.pictures.pixels < own.pictures.pixels
    assert set(public.pictures.formats) < set(own.pictures.formats)


def test_no_model_is_requested_from_the_hub_after_access_has_ended(tmp_path: Path) -> None:
    (tmp_path / "models" / "org" / "model").mkdir(parents=True)
    with LoopbackHub(tmp_path) as hub:
        environment = {k: v for k, v in os.environ.items() if k != "HF_HUB_OFFLINE"}
        environment |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf"), "HF_TOKEN": SECRET}
        done = subprocess.run(
            [sys.executable, "-c", ENDED], cwd=ROOT, env=environment, check=True, capture_output=True, text=True
        )
        asked = len(hub.requests)
    before, after = json.loads(done.stdout)
    assert "has no weights" in before
    assert "makes no more requests to the Hub" in after
    assert asked == 1


def _signal_other_thread(process: int, number: signal.Signals) -> None:
    """Send a signal to another thread than the main one, as the kernel sometimes does when it signals a process."""
    open_to_it = "SigBlk:\t0000000000000000"
    threads = Path(f"/proc/{process}/task").iterdir()
    other = next(each for each in threads if each.name != str(process) and open_to_it in (each / "status").read_text())
    assert ctypes.CDLL(None).tgkill(process, int(other.name), int(number)) == 0


def test_shutdown_finishes_the_running_search_and_refuses_new_ones(
    space: Space, client: Client, tmp_path: Path
) -> None:
    """This must be the last test of the module, because it stops the Space."""
    picture = tmp_path / "large.png"
    Image.new("L", (4000, 4000), 90).save(picture)  # seconds of work
    [path] = json.loads(httpx.post(f"{space.address}/gradio_api/upload", files={"files": picture.read_bytes()}).text)
    config = json.load(urllib.request.urlopen(f"{space.address}/config", timeout=PATIENCE))
    number = next(each["id"] for each in config["dependencies"] if each["api_name"] == "robustness")
    data = [{"path": path, "meta": {"_type": "gradio.FileData"}}, 10, 0.1, 0.02, 0.5, 50, "cosine", 3, ""]
    body = json.dumps({"data": data, "fn_index": number, "session_hash": "visitor"}).encode()
    json_body = {"Content-Type": "application/json"}
    joined = urllib.request.Request(f"{space.address}/gradio_api/queue/join", body, json_body)
    urllib.request.urlopen(joined, timeout=PATIENCE).close()
    stream = urllib.request.urlopen(f"{space.address}/gradio_api/queue/data?session_hash=visitor", timeout=PATIENCE)
    messages = (json.loads(line[6:]) for line in map(bytes.decode, stream) if line.startswith("data: "))
    assert next(each for each in messages if each["msg"] == "process_starts")
    _signal_other_thread(space.process.pid, signal.SIGTERM)
    search = f"{space.address}/gradio_api/call/search"
    answers: list[httpx.Response] = []
    wait_until(lambda: answers.append(httpx.post(search, content=b"{}")) or answers[-1].status_code != 422)
    refused = answers[-1]
    assert (refused.status_code, refused.json()) == (503, {"detail": STOPPING})
    assert health(space.address) == (503, {"status": "unavailable", "reason": HEALTH_STOPPING})
    done: dict[str, Any] = next(each for each in messages if each["msg"] == "process_completed")
    assert done["success"], done
    assert done["output"]["data"][0]["results"]
    stream.close()
    assert space.process.wait(PATIENCE) == 0
    assert "under way" not in space.log.read_text()
