"""The installed packages match the pinned versions."""

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions, version

from tests.support.paths import ROOT


def pinned_versions() -> dict[str, str]:
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def test_installed_packages_have_the_pinned_versions() -> None:
    different = {
        name: version(name) for name, pin in pinned_versions().items() if version(name).partition("+")[0] != pin
    }
    assert different == {}
    front = (ROOT / "README.md").read_text(encoding="utf-8").split("---")[1]
    assert f"sdk_version: {pinned_versions()['gradio']}\n" in front


def test_every_package_that_the_app_imports_is_pinned() -> None:
    imported = set()
    for file in (ROOT / "app.py", ROOT / "index_builder.py", *(ROOT / "retrieval").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {each.name.partition(".")[0] for each in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                imported.add(str(node.module).partition(".")[0])
    packages = packages_distributions()
    # Spaces with ZeroGPU have `spaces` preinstalled.
    foreign = imported - sys.stdlib_module_names - {"retrieval", "spaces"}
    assert "PIL" in foreign
    pins = {normalized(each) for each in pinned_versions()}
    assert [each for each in sorted(foreign) if not {normalized(name) for name in packages.get(each, ())} & pins] == []


def test_build_tools_are_those_of_the_tests() -> None:
    needed = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["build-system"]["requires"]
    assert set(needed) <= set((ROOT / "requirements-dev.txt").read_text(encoding="utf-8").splitlines())


def normalized(name: str) -> str:
    """Return the normalized name of a package (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()
