"""The app starts and searches without slow imports; these tests check the imports, not the time."""

import json
import subprocess
import sys
from pathlib import Path

from tests.support.paths import ROOT

STUB = ROOT / "retrieval" / "ui" / "widgets" / "picture_input.pyi"

# Each takes about a second to import, and is needed only for building, evaluation, plots or ChromaDB.
FOR_LATER = {"datasets", "matplotlib", "sklearn", "chromadb", "retrieval.indexing.build"}
FOR_CLIP = {"transformers", "scipy"}

# Does what `app.serve` does except listening; prints the imported modules after each step.
STEPS = f"""
import json, sys
from pathlib import Path
import app
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
page = build_page(searcher, queries.glob("*.png"), why)
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
        "import sys, index_builder, retrieval.engines.chroma_folder, retrieval.storage.vectors; "
        "print({'torch', 'datasets'} & sys.modules.keys())"
    )
    told = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert told.strip() == "set()"
