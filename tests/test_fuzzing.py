"""Coverage-guided fuzzing of everything that reads untrusted bytes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.fuzz import SECONDS
from tests.support.fuzz_target import INDEX, TARGETS
from tests.support.paths import ROOT

pytestmark = [pytest.mark.endurance, pytest.mark.short]

LIMITS = ("-timeout=20", "-rss_limit_mb=3000", "-max_len=65536")


@pytest.mark.parametrize("name", TARGETS)
def test_no_input_breaks_a_reader(name: str, few_icons: Path, tmp_path: Path) -> None:
    (tmp_path / "found").mkdir()
    command = [sys.executable, "-m", "tests.support.fuzz_target", name, f"-max_total_time={SECONDS:.0f}", *LIMITS]
    found = subprocess.run(
        [*command, f"-artifact_prefix={tmp_path}/", str(tmp_path / "found")],
        cwd=ROOT,
        env=os.environ | {INDEX: str(few_icons)},
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    crashes = {path.name: path.read_bytes()[:2000] for path in tmp_path.iterdir() if path.is_file()}
    assert not crashes, found.stderr[-6000:]
    assert found.returncode == 0, found.stderr[-6000:]
    assert "stat::number_of_executed_units" in found.stderr or "Done " in found.stderr
