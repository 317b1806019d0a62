"""Write docs/dependencies.md, the bill of materials: every package that the project runs with, and its licence.

python docs/make_sbom.py           from what is installed here; install requirements.txt first
python docs/make_sbom.py --check   only say whether it fits requirements.txt, and that what is installed here
"""

import argparse
import re
import sys
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from retrieval.versions import differing, pinned  # noqa: E402  # needs the path above

TABLE = ROOT / "docs" / "dependencies.md"
HEAD = """# Dependencies

What `pip install -r requirements.txt` brought on Linux x86-64 with Python 3.11 and torch for processors, when the
tests were last run: {direct} packages that the project pins, and {others} that these need. Made by
`python docs/make_sbom.py`; licences are what each package says of itself. With torch for Nvidia GPUs come Nvidia's own
packages, under Nvidia's licence.

| package | version | licence | needed by |
|---|---|---|---|
"""
OTHER_NAMES = {"Apache Software License": "Apache-2.0", "MIT License": "MIT", "BSD License": "BSD"}


def main(arguments: list[str] | None = None) -> int:
    """Write the table or check it; return 0, or 1 if it does not fit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    flags = parser.parse_args(arguments)
    problems = differing()
    if flags.check:
        listed = dict(re.findall(r"^\| \*\*([\w.-]+)\*\* \| ([\w.]+)", TABLE.read_text(encoding="utf-8"), re.MULTILINE))
        pins = {_normal(name): version for name, version in pinned().items()}
        if listed != pins:
            problems.append(f"{TABLE.name} does not fit requirements.txt; run python docs/make_sbom.py")
    if problems:
        print("\n".join(problems), file=sys.stderr)
        return 1
    if not flags.check:
        TABLE.write_text(table([*pinned()]), encoding="utf-8")
    return 0


def table(direct: list[str]) -> str:
    """Return the page: the packages asked for in bold, and all that they need here, by name."""
    needed_by: dict[str, set[str]] = {_normal(name): set() for name in direct}
    waiting = [*needed_by]
    while waiting:
        name = waiting.pop()
        for requirement in map(Requirement, distribution(name).requires or ()):
            needed = _normal(requirement.name)
            if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
                continue
            try:
                distribution(needed)
            except PackageNotFoundError:  # no package of this platform
                continue
            if needed not in needed_by:
                needed_by[needed] = set()
                waiting.append(needed)
            needed_by[needed].add(name)
    asked = {_normal(name) for name in direct}
    rows = []
    for name, others in sorted(needed_by.items()):
        package = distribution(name)
        shown = f"**{name}**" if name in asked else name
        version = package.version.partition("+")[0]
        rows.append(f"| {shown} | {version} | {licence(package)} | {', '.join(sorted(others)) or '-'} |\n")
    return HEAD.format(direct=len(asked), others=len(needed_by) - len(asked)) + "".join(rows)


def licence(package: Distribution) -> str:
    """Return the licence that a package names: as an SPDX expression, by a classifier, or in its own words."""
    if expression := package.metadata.get("License-Expression"):
        return str(expression)
    classifiers = [
        line.rpartition(" :: ")[2]
        for line in package.metadata.get_all("Classifier") or ()
        if line.startswith("License :: ") and line != "License :: OSI Approved"
    ]
    words = (package.metadata.get("License") or "").strip().splitlines()
    own = words[0] if len(words) == 1 and len(words[0]) <= 60 else ""
    named = own or ", ".join(classifiers)
    if not named and words:
        named = words[0].strip()[:60]
    return OTHER_NAMES.get(named, named) or "not said"


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


if __name__ == "__main__":
    sys.exit(main())
