"""An app under attack, one for each file of tests."""

import os
import shutil
import threading
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.support.attacked import SECRET, Site, search_hits
from tests.support.canary import Canary
from tests.support.serving import running

PROGRAMS = ("gs", "ffmpeg", "convert", "magick", "inkscape", "rsvg-convert", "djpeg", "xv", "display")


@pytest.fixture(scope="module")
def site(icons: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("attacked")
    shutil.copytree(icons, folder / "index")
    for name in PROGRAMS:  # these come before the real programs in PATH
        program = folder / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(f"#!/bin/sh\ntouch {folder}/ran\n")
        program.chmod(0o755)
    environment = {
        "SPACE_ID": "somebody/lookalike",
        "HOSTILE_SECRET": SECRET,
        "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
        "GRADIO_TEMP_DIR": str(folder.with_name("uploads")),
    }
    handler = type("Handler", (Canary,), {"requests": []})
    with (
        ThreadingHTTPServer(("127.0.0.1", 0), handler) as server,
        running(folder / "app.log", "--index", str(folder / "index"), **environment) as address,
    ):
        threading.Thread(target=server.serve_forever).start()
        yield Site(address, folder / "index", f"http://127.0.0.1:{server.server_port}")
        server.shutdown()
    assert handler.requests == [], "the app fetched an address that a visitor named"
    assert not (folder / "ran").exists(), "the app ran a program for a visitor"


@pytest.fixture(scope="module")
def before(site: Site) -> tuple[str, float]:
    """The results of a search and the memory of the app before the attacks."""
    return search_hits(site), site.memory()
