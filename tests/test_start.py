"""The app starts and searches without slow imports; these tests check the imports, not the time."""

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.support.builds import NAME, draw
from tests.support.paths import ROOT

STUB = ROOT / "retrieval" / "ui" / "widgets" / "picture_input.pyi"

# Each takes about a second to import, and is needed only for building, evaluation, plots or ChromaDB.
FOR_LATER = {"datasets", "matplotlib", "sklearn", "chromadb", "retrieval.indexing.build"}
FOR_CLIP = {"transformers", "scipy"}

# Does what `app.serve` does except listening; prints the imported modules after each step.
STEPS = f"""
import json, sys
from pathlib import Path
from retrieval import app
from retrieval.indexing.jobs import Builds
from retrieval.storage.catalog import Indexes
from retrieval.engines import ENGINES
from retrieval.search.query import Query
from retrieval.search.searcher import Searcher
from retrieval.ui.page import build_page, launch

def tell():
    print(json.dumps(sorted({FOR_LATER | FOR_CLIP} & sys.modules.keys())))

index, queries = map(Path, sys.argv[1:])
first, why = app.ready(app.settings.parse(app.parser(), ["--index", str(index)])[1])
searcher = Searcher(Indexes(index, first))
page = build_page(searcher, why)
tell()
assert searcher.search(Query(queries / "pizza.png")).hits
tell()
assert searcher.search(Query(queries / "pizza.png", engine="chroma")).hits
tell()
"""


def test_page_and_first_search_import_only_what_they_need(icons: Path, queries: Path) -> None:
    STUB.unlink(missing_ok=True)
    command = [sys.executable, "-c", STEPS, str(icons), str(queries)]
    told = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.splitlines()
    page, clip, chroma = ({*json.loads(line)} for line in told)
    assert not page
    assert clip <= FOR_CLIP
    assert "transformers" in clip
    assert chroma - clip == {"chromadb"}
    assert not STUB.exists(), "gradio wrote a stub file that nobody needs"


def test_process_that_builds_chromadb_does_not_import_torch() -> None:
    # Every build starts this process, and torch takes longer to load than everything else.
    code = (
        "import sys, retrieval.index_builder, retrieval.engines.chroma_fill, retrieval.storage.vectors; "
        "print({'torch', 'datasets'} & sys.modules.keys())"
    )
    told = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert told.strip() == "set()"


def test_build_of_an_unchanged_gallery_does_not_import_torch(tmp_path: Path) -> None:
    folder = draw(tmp_path / NAME, 3)
    for path in folder.iterdir():
        os.utime(path, (1_600_000_000, 1_600_000_000))  # the builder trusts old times
    given = ["--index", str(tmp_path / "index"), "--dataset", str(folder), "--model", "mini"]
    code = (
        "import sys; from retrieval import index_builder; "
        f"print(index_builder.main({given}), {{'torch', 'transformers', 'chromadb'}} & sys.modules.keys())"
    )
    for loaded in (True, False):
        told = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True).stdout
        assert told.splitlines()[-1].startswith("0 {") is loaded
    assert told.splitlines()[-1] == "0 set()"
