"""With the same weights, our vectors equal those of open_clip and sentence-transformers.

These need torchvision, which would change how transformers behaves here, so install them in a separate environment:

    pip install torch==2.13.0 && pip install -r benchmarks/requirements-peers.txt
    PEERS_PYTHON=that/bin/python python -m pytest -m endurance tests/features/test_peers.py
"""

import os
import subprocess

import pytest

from tests.support.paths import ROOT


@pytest.mark.endurance
def test_vectors_match_open_clip_and_sentence_transformers():
    python = os.environ.get("PEERS_PYTHON")
    if not python:
        pytest.skip("set PEERS_PYTHON to a Python with benchmarks/requirements-peers.txt")
    command = [python, str(ROOT / "benchmarks" / "peers.py"), "--pictures", "12", "--repeat", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)  # the program also compares the vectors
    print(done.stdout)
    assert done.returncode == 0, done.stderr[-2000:]
