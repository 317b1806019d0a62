"""A cache of built indexes that is kept between test runs, outside the checkout, until the code changes."""

import hashlib
import os
import platform
import shutil
from functools import cache
from importlib.metadata import version
from pathlib import Path

from filelock import FileLock

from retrieval import index_builder
from tests.support.paths import ROOT

KEPT = 6  # most recently used indexes; several checkouts may share the folder
# The only code of the project that does not affect the contents of an index.
WITHOUT_EFFECT = ("ui", "analysis", "search", "app.py", "cli.py", "__main__.py")
DATA = ("assets/gallery", "assets/photos", "assets/mini-clip")
PACKAGES = ("torch", "transformers", "numpy", "pillow", "chromadb", "datasets", "pyarrow", "scikit-learn")


def cache_folder() -> Path:
    """The folder of the cache: `LOOKALIKE_TEST_CACHE`, or a folder in the user's cache."""
    if named := os.environ.get("LOOKALIKE_TEST_CACHE"):
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lookalike-tests"


@cache
def fingerprint() -> str:
    """A digest of everything that affects the contents of an index: code, data, model, packages, machine."""
    digest = hashlib.sha256()
    code = [path for path in (ROOT / "retrieval").rglob("*.py") if _affects_index(path.relative_to(ROOT / "retrieval"))]
    data = [path for folder in DATA for path in (ROOT / folder).rglob("*") if path.is_file()]
    for path in sorted([*code, *data]):
        if "training" not in path.parts and "__pycache__" not in path.parts:
            digest.update(f"{path.relative_to(ROOT)}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
    packages = [f"{name} {version(name)}" for name in PACKAGES]
    # The manifest names the dataset's folder, and an encoder's last digits depend on the processor.
    digest.update("\0".join([str(ROOT), platform.machine(), _processor(), *packages]).encode())
    return digest.hexdigest()[:24]


def _affects_index(path: Path) -> bool:
    return path.parts[0] not in WITHOUT_EFFECT


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith("model name")), "")


def copy_index(target: Path, *arguments: str) -> Path:
    """Copy the index that the builder makes with these flags to a new folder; build it if it is not in the cache."""
    root = cache_folder()
    root.mkdir(parents=True, exist_ok=True)
    key = hashlib.sha256("\0".join([fingerprint(), *arguments]).encode()).hexdigest()[:24]
    with FileLock(root / "lock"):  # the other workers wait and then copy
        folder = root / key
        if not folder.exists():
            unfinished = root / "unfinished"
            shutil.rmtree(unfinished, ignore_errors=True)
            assert index_builder.main(["--index", str(unfinished), *arguments]) == 0
            unfinished.rename(folder)
        os.utime(folder)
        shutil.copytree(folder, target, dirs_exist_ok=True)
        newest_first = sorted(
            (path for path in root.iterdir() if path.is_dir()), key=lambda path: path.stat().st_mtime, reverse=True
        )
        for old in newest_first[KEPT:]:
            shutil.rmtree(old)
    return target
