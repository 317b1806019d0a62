"""With equal weights our vectors are those of open_clip and sentence-transformers, which live in an environment apart.

Their torchvision would change what transformers does here, so they are no requirement of the tests:

    pip install torch==2.13.0 && pip install -r benchmarks/requirements-peers.txt      in an environment of its own
    PEERS_PYTHON=that/bin/python python -m pytest -m endurance tests/features/test_peers.py
"""

import os
import subprocess

import pytest

from tests.support.paths import ROOT


@pytest.mark.endurance
def test_vectors_are_those_of_the_peers():
    python = os.environ.get("PEERS_PYTHON")
    if not python:
        pytest.skip("PEERS_PYTHON names no Python with benchmarks/requirements-peers.txt")
    command = [python, str(ROOT / "benchmarks" / "peers.py"), "--pictures", "12", "--repeat", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)  # it compares the vectors that it times
    print(done.stdout)
    assert done.returncode == 0, done.stderr[-2000:]
