"""ZeroGPU: a GPU that is allocated for each call."""

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest

from retrieval.analysis.queries import from_folder
from retrieval.pictures.loading import load_picture
from retrieval.search.searcher import Searcher
from retrieval.storage.catalog import Indexes
from retrieval.ui.serving.health import Health

SPACES = """
lent = []
def GPU(duration):
    return lambda function: lambda inputs: lent.append(function.__name__) or inputs["pixel_values"][:, 0, 0]
"""


def test_zero_gpu_is_used_only_for_queries_of_visitors(
    few_icons: Path, queries: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fake `spaces` package records the functions that would get a GPU."""
    (tmp_path / "spaces.py").write_text(SPACES)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("SPACES_ZERO_GPU", "true")
    searcher = Searcher(Indexes(few_icons))
    health = Health(searcher, 0)
    health.started = True
    data, index = (queries / "fox.png").read_bytes(), searcher.indexes.get()
    folder = tmp_path / "queries" / index.labels[0]
    folder.mkdir(parents=True)
    (folder / "fox.png").write_bytes(data)
    encoder = searcher.embedder.loaded.get("clip", index.manifest.model)
    lent = importlib.import_module("spaces").lent
    vectors = encoder.embed([load_picture(data)])  # as builders do
    labelled = from_folder(index, searcher.embedder, str(folder.parent))
    assert health.problem() is None
    assert lent == []
    assert np.array_equal(vectors, labelled.vectors["clip"])
    encoder.embed_query([load_picture(data)])
    assert lent == ["_forward_on_gpu"]
    sys.modules.pop("spaces")
    searcher.indexes.close()
