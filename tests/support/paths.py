"""Paths of the project and of the material beside it."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SEED = ROOT.parent / "shared" / "seed-data"
CASES = ROOT.parent / "shared" / "cases"  # programs that write folders as people have them
# The user's own HF_HOME, for tests with the real Hub: conftest sets another one, which the workers inherit.
OWN_HF_HOME = os.environ.setdefault("LOOKALIKE_OWN_HF_HOME", os.environ.get("HF_HOME", ""))
