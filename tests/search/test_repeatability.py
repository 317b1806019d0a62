"""The same query gives the same results in every process."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.nearly import nearly
from tests.support.paths import ROOT

ANSWERS = """
import json, sys
from itertools import product
from pathlib import Path
from retrieval.analysis.comparison import compare
from retrieval.storage.catalog import Indexes
from retrieval.search.query import Query
from retrieval.search.searcher import Searcher
index, queries = map(Path, sys.argv[1:])
searcher = Searcher(Indexes(index))
found = [
    compare(searcher, Query(queries / f"{name}.png", text=text, labels=labels, alike=alike, top_k=25)).to_json()
    for name, (text, labels, alike) in product(("fox", "pizza"), (("", (), 1), ("red", ("food-prepared",), 0.9)))
]
for each in found:
    for cell in each["cells"]:
        del cell["timings_ms"]
print(json.dumps(found))
"""


@pytest.mark.endurance
def test_every_process_gives_the_same_answers(few_icons: Path, queries: Path, tmp_path: Path) -> None:
    """Hash seeds and the number of threads may change only the last digits of scores."""
    starts = []
    for seed in ("1", "2"):
        index = shutil.copytree(few_icons, tmp_path / seed)  # only one process can use ChromaDB's files at a time
        environment = {**os.environ, "PYTHONHASHSEED": seed, "OMP_NUM_THREADS": seed}
        command = [sys.executable, "-c", ANSWERS, str(index), str(queries)]
        starts.append(subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE))
    first, second = (json.loads(start.communicate()[0]) for start in starts)
    assert len(first) == 4
    assert first == nearly(second)
