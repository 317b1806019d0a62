"""How this program was installed, as a checkout or a package: where its assets are, and the names of its commands."""

from pathlib import Path

_PACKAGED = Path(__file__).with_name("assets")  # only in an installed package; see `sources` in pyproject.toml
_INSTALLED = _PACKAGED.is_dir()

APP = "lookalike" if _INSTALLED else "python app.py"
BUILDER = "lookalike-index" if _INSTALLED else "python index_builder.py"


def asset(name: str) -> Path:
    """Return the path of a file or folder in `assets`."""
    return (_PACKAGED if _INSTALLED else Path(__file__).resolve().parents[1] / "assets") / name
