"""The documents refer only to test files that exist."""

import re

import pytest
import yaml

from retrieval.features.models import AUTO_MODEL
from tests.support.paths import ROOT

DOCUMENTS = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "benchmarks").glob("*.md")]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_files_named_in_documents_exist(document):
    named = set(re.findall(r"\btests/[\w/]+\.py", document.read_text(encoding="utf-8")))
    assert sorted(each for each in named if not (ROOT / each).is_file()) == []


def test_front_matter_describes_the_space() -> None:
    front = yaml.safe_load((ROOT / "README.md").read_text(encoding="utf-8").split("---")[1])
    assert len(front["short_description"]) <= 60
    assert (ROOT / front["app_file"]).is_file()
    assert "mcp-server" in front["tags"]
    assert AUTO_MODEL in front["models"]
    assert front["models"] == front["preload_from_hub"]
