"""Galleries are renamed and deleted, while others search, build or prune."""

import shutil
import threading
from pathlib import Path

import pytest

from retrieval import index_builder
from retrieval.engines.lock import acquire_lock
from retrieval.errors import IndexingError, QueryError
from retrieval.indexing.embeddings import PRUNE_LOCK
from retrieval.indexing.upkeep import delete, rename
from retrieval.metrics import Metric
from retrieval.search.query import Query
from retrieval.search.searcher import Searcher
from retrieval.storage.catalog import Indexes
from retrieval.storage.manifest import STORE
from tests.support.builds import draw_classes
from tests.support.waiting import wait_until

COUNT = 6
NAMES = ["a/b", "../b", "..", ".b", "", " ", STORE, "a\nb", "x" * 201, "\N{GRINNING FACE}" * 60, "second"]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index with the galleries `first` and `second`, which have the same images."""
    folder = tmp_path_factory.mktemp("built")
    dataset = draw_classes(folder / "images", COUNT)
    for name in ("first", "second"):
        flags = ["--dataset", str(dataset), "--gallery", name, "--model", "mini", "--features", "pixels,clip"]
        assert index_builder.main(["--index", str(folder / "index"), *flags]) == 0
    return folder


@pytest.fixture
def index(built: Path, tmp_path: Path) -> Path:
    return shutil.copytree(built / "index", tmp_path / "index")


@pytest.fixture
def searcher(index: Path):
    searcher = Searcher(Indexes(index))
    yield searcher
    searcher.indexes.close()


def search(searcher: Searcher, gallery: str, engine: str = "chroma") -> list[str]:
    query = Query(position=0, gallery=gallery, metric=Metric.L2, engine=engine, top_k=COUNT)
    return [hit.id for hit in searcher.search(query).hits]


def test_renamed_gallery_is_searched_under_its_new_name_only(index: Path, searcher: Searcher) -> None:
    before = {engine: search(searcher, "first", engine) for engine in ("exact", "chroma")}
    rename(searcher.indexes, "first", "third")
    assert sorted(searcher.indexes.names()) == ["second", "third"]
    assert searcher.indexes.get("third").manifest.gallery == "third"
    assert {engine: search(searcher, "third", engine) for engine in before} == before
    with pytest.raises(QueryError, match="no gallery 'first'"):
        search(searcher, "first")
    assert not (index / "first").exists()


def test_rename_embeds_nothing_again(built: Path, index: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert index_builder.main(["--index", str(index), "--rename", "first", "third"]) == 0
    assert "first is now called third." in capsys.readouterr().out
    flags = ["--dataset", str(built / "images"), "--gallery", "third", "--model", "mini"]
    assert index_builder.main(["--index", str(index), *flags]) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert index_builder.main(["--index", str(index), "--verify"]) == 0


@pytest.mark.parametrize("new", NAMES)
def test_names_that_cannot_be_used(index: Path, new: str) -> None:
    with pytest.raises(QueryError):
        rename(Indexes(index), "first", new)
    assert sorted(Indexes(index).names()) == ["first", "second"]


@pytest.mark.parametrize("name", ["missing", "../first", "first/", "", STORE, "."])
def test_only_galleries_are_renamed_or_deleted(index: Path, name: str) -> None:
    indexes = Indexes(index)
    with pytest.raises(QueryError, match="There is no gallery"):
        rename(indexes, name, "third")
    with pytest.raises(QueryError, match="There is no gallery"):
        delete(indexes, name)
    assert len(list(index.iterdir())) == 3


def test_search_that_has_begun_ends_properly(index: Path, searcher: Searcher) -> None:
    """It holds the snapshot, whose files are deleted by the next deletion or prune."""
    opened = searcher.indexes.get("first")
    query = Query(position=0, engine="chroma", top_k=COUNT)
    before = searcher.search(query, opened).hits
    delete(searcher.indexes, "first")
    assert searcher.indexes.names() == ["second"]
    assert searcher.search(query, opened).hits == before
    assert list((index / "first").glob("snapshot-*"))
    opened.close()
    assert index_builder.main(["--index", str(index), "--prune"]) == 0
    assert not (index / "first").exists()


def test_deleted_gallery_leaves_images_and_embeddings(
    built: Path, index: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert index_builder.main(["--index", str(index), "--delete", "first"]) == 2
    assert "Add `--yes`" in capsys.readouterr().err
    for name in ("first", "second"):
        assert index_builder.main(["--index", str(index), "--delete", name, "--yes"]) == 0
        assert f"{name} was deleted." in capsys.readouterr().out
    assert [each.name for each in index.iterdir()] == [STORE]
    assert len(list((built / "images").rglob("*.png"))) == COUNT
    flags = ["--dataset", str(built / "images"), "--gallery", "first", "--model", "mini", "--features", "pixels,clip"]
    assert index_builder.main(["--index", str(index), *flags]) == 0
    assert f"(0 embedded now, {COUNT} reused, 0 removed)" in capsys.readouterr().out


def test_damaged_gallery_can_be_renamed_and_deleted(index: Path) -> None:
    (index / "first" / "manifest.json").write_text("{}")
    rename(Indexes(index), "first", "third")
    delete(Indexes(index), "third")
    assert Indexes(index).names() == ["second"]


def test_gallery_that_is_being_built_stays(index: Path) -> None:
    builder = acquire_lock(index / "first")
    for change in (lambda: rename(Indexes(index), "first", "third"), lambda: delete(Indexes(index), "first")):
        with pytest.raises(IndexingError, match="'first' is being built or updated"):
            change()
    builder.release()
    assert sorted(Indexes(index).names()) == ["first", "second"]


def test_rename_waits_for_prune(index: Path) -> None:
    """Otherwise the prune could miss the gallery and delete its embeddings."""
    pruning = acquire_lock(index / STORE, name=PRUNE_LOCK)
    renaming = threading.Thread(target=rename, args=(Indexes(index), "first", "third"))
    renaming.start()
    renaming.join(0.5)
    assert (index / "first").exists()
    pruning.release()
    wait_until((index / "third").exists)
    renaming.join()


def test_files_of_others_are_kept(index: Path, built: Path) -> None:
    (index / "first" / "notes.txt").write_text("mine")
    delete(Indexes(index), "first")
    assert [each.name for each in (index / "first").iterdir()] == ["notes.txt"]
    linked = index / "linked"
    linked.symlink_to(shutil.copytree(index / "second", index.parent / "elsewhere"))
    for change in (lambda: rename(Indexes(index), "linked", "third"), lambda: delete(Indexes(index), "linked")):
        with pytest.raises(IndexingError, match="is a link"):
            change()
    assert (linked / "manifest.json").exists()


def test_images_inside_the_index_are_not_renamed(index: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dataset = draw_classes(index / "holiday", 2)
    assert index_builder.main(["--index", str(index), "--dataset", str(dataset), "--model", "mini"]) == 2
    assert "is inside the dataset" in capsys.readouterr().err
    flags = ["--dataset", str(draw_classes(index / "trip" / "images", 2)), "--gallery", "trip", "--model", "mini"]
    assert index_builder.main(["--index", str(index), *flags]) == 0
    with pytest.raises(IndexingError, match="which would be renamed, too"):
        rename(Indexes(index), "trip", "third")
    delete(Indexes(index), "trip")
    assert len(list((index / "trip" / "images").rglob("*.png"))) == 2
