"""Untrusted names of datasets and galleries."""

from pathlib import Path

import pytest

from retrieval import errors
from retrieval.errors import GalleryError, RetrievalError
from retrieval.gallery.opening import check_dataset, open_dataset
from retrieval.gallery.source import GallerySource
from retrieval.indexing.jobs import Builds
from tests.support.browsing import settings_of
from tests.support.paths import ROOT
from tests.support.waiting import PATIENCE

DATASETS = """
    ../../etc ../../../../etc/passwd /dev/zero /proc/self/environ x/y/z x/.. -rf --help <script>/x {0}/x file:///etc/passwd
    http://127.0.0.1:1/x.parquet s3://x/y hf://datasets/x/y zip://x::http://127.0.0.1:1/ \\\\127.0.0.1\\x
"""


@pytest.mark.parametrize("dataset", [*DATASETS.split(), "a\0b", "\ud800", "x" * 5000])
def test_strange_dataset_names_are_refused_with_a_message(tmp_path: Path, dataset: str) -> None:
    chosen = settings_of(tmp_path / "index", f"--dataset={dataset}", "--model", "mini")
    with pytest.raises(RetrievalError) as error:
        check_dataset(chosen.source)
        Builds(chosen).start(chosen).outcome(PATIENCE)
    assert str(error.value) not in ("", errors.SURPRISE)


@pytest.mark.parametrize("gallery", [*["../x", "/x", ".", "..", "a/b", "a\\b", ".hidden", "<b>"], "a\0b", "x" * 300])
def test_invalid_gallery_names_are_refused(tmp_path: Path, gallery: str) -> None:
    with pytest.raises((RetrievalError, SystemExit)):
        settings_of(tmp_path, "--gallery", gallery)


def test_cache_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "file" / "datasets")
    with pytest.raises(GalleryError, match=rf"`{tmp_path}/file/datasets`: Not a directory. Set `HF_HOME`"):
        open_dataset(GallerySource(str(ROOT / "assets" / "gallery")))
