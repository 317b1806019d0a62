"""Where the page listens, and the messages if it cannot."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from retrieval.errors import RetrievalError
from retrieval.ui.serving.health import PATH as HEALTH
from retrieval.ui.serving.listening import listening_address
from tests.support.paths import ROOT
from tests.support.waiting import PATIENCE, wait_until


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove gradio's variables."""
    for name in ("GRADIO_SERVER_NAME", "GRADIO_SERVER_PORT", "GRADIO_NUM_PORTS", "GRADIO_ROOT_PATH"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("given", ["::1", "[::1]"])
def test_ipv6_addresses_are_accepted_with_and_without_brackets(monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    assert listening_address(given, 0)[0] == "[::1]"
    monkeypatch.setenv("GRADIO_SERVER_NAME", given)
    assert listening_address(None, 0)[0] == "[::1]"


def test_the_first_free_port_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        monkeypatch.setenv("GRADIO_SERVER_PORT", str(taken))
        assert listening_address(None, None)[1] > taken
        with pytest.raises(RetrievalError, match=rf"port {taken} is not free.*Choose another `--port`"):
            listening_address(None, taken)
        monkeypatch.setenv("GRADIO_NUM_PORTS", "1")
        with pytest.raises(RetrievalError, match=rf"ports {taken} to {taken} are not free"):
            listening_address(None, None)


@pytest.mark.parametrize(
    ("host", "message"),
    [
        ("203.0.113.7", "not an address of this machine. Choose another `--host`"),
        ("no-such-host.invalid", "is unknown. Choose another `--host`"),
    ],
)
def test_hosts_of_other_machines_are_refused(host: str, message: str) -> None:
    with pytest.raises(RetrievalError, match=message):
        listening_address(host, None)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("GRADIO_SERVER_PORT", "abc"),
        ("GRADIO_SERVER_PORT", "70000"),
        ("GRADIO_NUM_PORTS", "x"),
        ("GRADIO_ROOT_PATH", "::::nonsense"),
    ],
)
def test_invalid_variables_are_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(RetrievalError, match=rf"variable {name} must be .*{value}"):
        listening_address(None, None)


def test_invalid_host_is_an_error_message_and_exit_code_2(few_icons: Path) -> None:
    command = [sys.executable, "app.py", "--index", str(few_icons), "--host", "203.0.113.7"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.splitlines()[-1].startswith("error: The page cannot listen on 203.0.113.7")
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(
    ("flags", "variables"),
    [
        ([], {"GRADIO_SERVER_NAME": "[::]"}),
        pytest.param(["--host", "::"], {}, marks=pytest.mark.endurance),
        pytest.param(["--host", "::1"], {}, marks=pytest.mark.endurance),
    ],
)
def test_the_page_is_served_by_ipv6_on_a_terminal_without_unicode(
    few_icons: Path, tmp_path: Path, flags: list[str], variables: dict[str, str]
) -> None:
    import httpx

    with socket.create_server(("::1", 0), family=socket.AF_INET6) as free:
        port = free.getsockname()[1]
    log = tmp_path / "log"
    command = [sys.executable, "app.py", "--index", str(few_icons), *flags, "--port", str(port)]
    with log.open("w") as output:
        environment = {"PYTHONIOENCODING": "ascii", "PATH": "", "HF_HUB_OFFLINE": "1"} | variables
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=output)

    def ready() -> bool:
        assert process.poll() is None, log.read_text()
        try:
            return httpx.get(f"http://[::1]:{port}{HEALTH}", timeout=PATIENCE).status_code == 200
        except httpx.ConnectError:
            return False

    wait_until(ready, log.read_text)
    process.terminate()
    assert process.wait(PATIENCE) == 0, log.read_text()
