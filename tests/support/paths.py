"""Where things are: the project, and the photos for measuring."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SEED = ROOT.parent / "shared" / "seed-data"
# For the tests that ask for the real Hub: conftest sets another HF_HOME, and the workers inherit that one.
OWN_HF_HOME = os.environ.setdefault("LOOKALIKE_OWN_HF_HOME", os.environ.get("HF_HOME", ""))
