"""The documents refer only to test files that exist."""

import re

import pytest

from tests.support.paths import ROOT

DOCUMENTS = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "benchmarks").glob("*.md")]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_files_named_in_documents_exist(document):
    named = set(re.findall(r"\btests/[\w/]+\.py", document.read_text(encoding="utf-8")))
    assert sorted(each for each in named if not (ROOT / each).is_file()) == []
