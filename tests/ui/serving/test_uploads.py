"""The folder of uploads, and when they are deleted."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from retrieval.errors import PictureError, RetrievalError
from retrieval.ui.serving import uploads
from retrieval.ui.widgets.picture_input import uploaded
from tests.support.paths import ROOT

OTHER_START = """
import os, sys
from retrieval.ui.serving.uploads import own_folder
folder = own_folder()
assert folder is own_folder()
(folder / "picture.png").touch()
print(folder, flush=True)
sys.stdin.read()
"""


def test_upload_folder_is_deleted_at_exit_or_at_the_next_start_after_a_kill(tmp_path: Path) -> None:
    """Three starts in one GRADIO_TEMP_DIR, one of them killed; other files there are kept."""
    for name in ("mine.txt", "lookalike-mine/mine.txt", "elsewhere/mine.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / f"{uploads.OWN}link").symlink_to(tmp_path / "elsewhere")
    before = set(tmp_path.rglob("*"))
    environment = os.environ | {"GRADIO_TEMP_DIR": str(tmp_path)}

    def start() -> tuple[subprocess.Popen[str], Path]:
        process = subprocess.Popen(
            [sys.executable, "-c", OTHER_START],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout
        return process, Path(process.stdout.readline().strip())

    running, in_use = start()
    killed, left = start()
    killed.kill()
    killed.communicate()
    assert in_use.parents[1] == left.parents[1] == tmp_path
    assert in_use.parent.stat().st_mode & 0o077 == 0
    assert (left / "picture.png").exists()
    third, _ = start()
    assert not left.parent.exists()
    assert (in_use / "picture.png").exists()
    for process in (running, third):
        process.communicate()
        assert process.returncode == 0
    assert set(tmp_path.rglob("*")) == before


def test_error_when_the_upload_folder_cannot_be_created(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "file"))
    with pytest.raises(RetrievalError, match="set `GRADIO_TEMP_DIR` to another folder"):
        uploads.own_folder.__wrapped__()


@pytest.mark.parametrize("name", ["\ud800", "x" * 10**5, "a\0b", "", None, 5])
def test_names_that_are_no_paths_are_refused(name: object) -> None:
    with pytest.raises(PictureError, match="was not uploaded here"):
        uploaded(name)


def test_oldest_uploads_are_deleted_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(10):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "x.png").write_bytes(bytes(100))
        os.utime(tmp_path / str(number) / "x.png", (number, number))
    (tmp_path / "stray").write_bytes(bytes(100))  # from an unfinished upload
    os.utime(tmp_path / "stray", (3.5, 3.5))
    monkeypatch.setattr(uploads, "UPLOADS_BYTES", 550)
    uploads.make_room(tmp_path)
    assert sorted(path.parent.name for path in tmp_path.glob("*/x.png")) == ["5", "6", "7", "8", "9"]
    monkeypatch.setattr(uploads, "UPLOADS_FILES", 2)
    uploads.make_room(tmp_path)
    assert sorted(path.parent.name for path in tmp_path.glob("*/x.png")) == ["8", "9"]
    assert not (tmp_path / "stray").exists()
    assert uploads.make_room(tmp_path, needed=1)
    assert len(list(tmp_path.glob("*/x.png"))) == 2
    assert {path.name for path in tmp_path.iterdir()} == set("0123456789"), "new folders may be about to receive a file"
    for folder in tmp_path.iterdir():
        os.utime(folder, (0, 0))
    uploads.make_room(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"8", "9"}
