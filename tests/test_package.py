"""The wheel, installed in an environment of its own and used from another folder than the checkout."""

import json
import os
import subprocess
import sys
import urllib.request
import venv
from dataclasses import dataclass
from importlib.metadata import Distribution
from pathlib import Path
from sysconfig import get_path

import pytest
from gradio_client import Client, handle_file

from retrieval.storage.catalog import Indexes
from retrieval.ui.page import PREVIEW
from tests.support.builds import draw_classes
from tests.support.paths import ROOT
from tests.support.serving import running
from tests.support.waiting import PATIENCE

pytestmark = [pytest.mark.endurance, pytest.mark.short]


@dataclass(frozen=True)
class Installation:
    """An environment with the wheel."""

    root: Path

    @property
    def packages(self) -> Path:
        return Path(get_path("purelib", "venv", {"base": str(self.root)}))

    def command(self, name: str) -> str:
        return str(self.root / "bin" / name)

    def files(self) -> set[Path]:
        """Return all files of the package, without the bytecode that Python may cache."""
        found = (self.packages / "retrieval").rglob("*")
        return {path for path in found if "__pycache__" not in path.parts}


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installation:
    """The wheel, built and installed without network; other packages come from the environment of the tests."""
    folder = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "--no-cache-dir", "--disable-pip-version-check"]
    build = [*pip, "wheel", "--no-index", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(ROOT)]
    subprocess.run(build, check=True)
    [wheel] = folder.glob("*.whl")
    found = Installation(folder / "environment")
    venv.create(found.root)
    into = ["--python", found.command("python"), "install", "--no-index", "--no-deps", str(wheel)]
    subprocess.run([*pip, *into], check=True)
    (found.packages / "others.pth").write_text(get_path("purelib"))
    return found


def test_commands_work_in_any_folder_and_leave_the_package_as_it_is(installed: Installation, tmp_path: Path) -> None:
    before = installed.files()
    draw_classes(tmp_path / "pictures", 6)
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("RETRIEVAL_", "PYTHON"))}
    environment = inherited | {"HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1"}

    def run(*command: str) -> str:
        return subprocess.run(
            [installed.command(command[0]), *command[1:]],
            cwd=tmp_path,
            env=environment,
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        ).stdout

    assert run("lookalike", "--help").startswith("usage: lookalike [-h]")
    assert "lookalike-index --dataset ~/photos" in run("lookalike-index", "--help")
    build = ["--dataset", "pictures", "--gallery", "mine", "--features", "pixels", "--json"]
    assert json.loads(run("lookalike-index", *build))["embedded"] == 6
    assert "lookalike-index)" in run("python", "-m", "retrieval", "info", "--index", "none")

    program = [installed.command("lookalike")]
    named = {"program": program, "cwd": tmp_path, "HF_HOME": environment["HF_HOME"]}
    with running(tmp_path / "log", "--dataset", "photos", "--limit", "40", **named) as address:
        client = Client(address, verbose=False)
        scissors = handle_file(str(ROOT / "assets" / "photos" / "queries" / "scissors.jpg"))
        answer = client.predict(scissors, top_k=5, api_name="/search")
        with urllib.request.urlopen(address + PREVIEW, timeout=PATIENCE) as reply:
            assert reply.headers["Content-Type"] == "image/webp"
    assert (answer["gallery"], answer["model"], len(answer["hits"])) == ("photos", "mini", 5)
    assert set(Indexes(tmp_path / "index").names()) == {"mine", "photos"}
    assert installed.files() == before


def test_package_requires_what_is_pinned(installed: Installation) -> None:
    [metadata] = installed.packages.glob("lookalike-*.dist-info")
    required = Distribution.at(metadata).requires or []
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    pinned = [line for line in lines if line and not line.startswith("#")]
    assert sorted(each.lower().replace("_", "-") for each in required) == sorted(
        each.lower().replace("_", "-") for each in pinned
    )
