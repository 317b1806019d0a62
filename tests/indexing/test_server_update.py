"""The collections on a real ChromaDB server follow the gallery, whatever is killed."""

import shutil
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from retrieval import index_builder
from retrieval.errors import IndexingError
from retrieval.features import DEFAULT_SET
from retrieval.metrics import Metric
from retrieval.search.query import Query
from retrieval.search.searcher import Searcher
from retrieval.storage.catalog import Indexes
from tests.support.builds import NAME, draw_classes
from tests.support.chroma_server import chroma_server
from tests.support.on_server import assert_correct, client, collections, flags, where
from tests.support.warm import Builder, Moment

COUNT = 10


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with chroma_server(tmp_path_factory.mktemp("server")) as url:
        yield url


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return draw_classes(tmp_path / NAME, COUNT)


def first_hits(files: Path, url: str, picture: Path) -> list[tuple[str, str]]:
    """Return ids and labels of the images that are closest to a picture."""
    hits = Searcher(Indexes(files, server=url)).search(Query(picture=picture, engine="chroma", top_k=3)).hits
    return [(hit.id, hit.label) for hit in hits]


def problems(url: str, files: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """Return what `--verify` finds."""
    capsys.readouterr()
    code = index_builder.main([*where(url, files), "--verify"])
    found = capsys.readouterr().out
    assert code == (0 if found.startswith("Every file") else 2)
    return found


def test_collections_follow_every_change(
    server: str, dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = tmp_path / "files"
    build = flags(server, files, dataset)
    assert index_builder.main(build) == 0
    assert_correct(server, files)
    moved = dataset / "odd" / "000.png"
    (dataset / "even" / "000.png").rename(moved)  # another label
    (dataset / "even" / "002.png").unlink()
    shutil.copy(dataset / "even" / "004.png", dataset / "even" / "copy.png")
    draw_classes(dataset, 2, seed=100)
    assert index_builder.main(build) == 0
    assert_correct(server, files)
    assert first_hits(files, server, moved)[0] == ("odd/000.png", "odd")
    assert problems(server, files, capsys).startswith("Every file")


def test_build_that_ends_before_it_publishes_leaves_readers_their_snapshot(
    server: str, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, picture = tmp_path / "files", dataset / "even" / "008.png"
    build = flags(server, files, dataset)
    assert index_builder.main(build) == 0
    before = first_hits(files, server, picture)
    draw_classes(dataset, 6, seed=100)  # other content of six images

    def fail(*_: object) -> None:
        raise IndexingError("The disk is full.")

    with monkeypatch.context() as patched:
        patched.setattr("retrieval.indexing.build.publish", fail)
        assert index_builder.main(build) == 2
    for collection in collections(server, files).values():
        assert collection.count() == COUNT + 6  # COUNT after the next build, in which these are gone again
    assert first_hits(files, server, picture) == before
    shutil.rmtree(dataset)
    draw_classes(dataset, COUNT)
    assert index_builder.main(build) == 0
    assert_correct(server, files)


def test_collections_that_a_server_has_lost_are_filled_again(
    server: str, dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = tmp_path / "files"
    assert index_builder.main(flags(server, files, dataset)) == 0
    lost, part, *_ = collections(server, files).values()
    client(server).delete_collection(lost.name)
    some = part.get(limit=3)["ids"]
    part.delete(ids=some)
    assert "has no" in (found := problems(server, files, capsys)) or "cannot be used" in found
    assert index_builder.main(flags(server, files, dataset)) == 0
    assert_correct(server, files)
    part.delete(ids=some)
    part.upsert(ids=["other"], embeddings=part.get(limit=1, include=["embeddings"])["embeddings"])
    assert f"the collection {part.name} lacks 3 images and has 1 others" in problems(server, files, capsys)
    assert "without the address" in problems_without_address(files, capsys)


def problems_without_address(files: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """Return what `--verify` says of the shared folder alone."""
    assert index_builder.main(["--index", str(files), "--verify"]) == 2
    return capsys.readouterr().out


def test_vectors_that_store_and_server_have_lost_are_computed_again(server: str, dataset: Path, tmp_path: Path) -> None:
    files = tmp_path / "files"
    assert index_builder.main(flags(server, files, dataset)) == 0
    for collection in collections(server, files).values():
        client(server).delete_collection(collection.name)
    for part in (files / "embeddings").glob("clip-*/*.parquet"):
        part.unlink()
    assert index_builder.main(flags(server, files, dataset)) == 0
    assert_correct(server, files)


def test_galleries_of_the_same_name_do_not_mix(server: str, dataset: Path, tmp_path: Path) -> None:
    other = draw_classes(tmp_path / "other", 6, seed=50)
    for files, data in ((tmp_path / "a", dataset), (tmp_path / "b", other)):
        assert index_builder.main(flags(server, files, data)) == 0
    assert_correct(server, tmp_path / "a")
    assert_correct(server, tmp_path / "b")


def test_other_features_get_collections_of_their_own(server: str, dataset: Path, tmp_path: Path) -> None:
    files = tmp_path / "files"
    assert index_builder.main(flags(server, files, dataset)) == 0
    before = {each.name for each in collections(server, files).values()}
    assert index_builder.main(flags(server, files, dataset, "--pixel-size", "8")) == 0
    assert_correct(server, files)
    after = {each.name for each in collections(server, files).values()}
    assert len(before & after) == 4  # of colours and CLIP
    assert {each.name for each in client(server).list_collections()} >= after
    assert not (before - after) & {each.name for each in client(server).list_collections()}


def test_gallery_moves_between_folder_and_server(server: str, dataset: Path, tmp_path: Path) -> None:
    files = tmp_path / "files"
    in_folder = ["--index", str(files), *flags(server, files, dataset)[4:]]
    assert index_builder.main(in_folder) == 0
    assert index_builder.main(flags(server, files, dataset)) == 0
    assert_correct(server, files)
    assert index_builder.main(in_folder) == 0
    assert Indexes(files).get().vectors("clip").shape[0] == COUNT


@pytest.mark.endurance
@pytest.mark.short
def test_reader_searches_while_workers_are_killed_and_restarted(tmp_path: Path) -> None:
    count, more = 24, 130  # the second worker gets rows 64 to 127
    dataset = draw_classes(tmp_path / NAME, count)
    files = tmp_path / "files"
    with chroma_server(tmp_path / "server") as url:
        assert Builder(tmp_path, *flags(url, files, dataset)).wait() == 0
        with searching(url, files, dataset) as reader:
            draw_classes(dataset, more)
            (dataset / "even" / "000.png").rename(dataset / "odd" / "000.png")
            (dataset / "even" / "002.png").unlink()
            command = flags(url, files, dataset)
            first = Builder(tmp_path, *command, "--shard", "1/2")
            second = Builder(tmp_path, *command, "--shard", "2/2", at=Moment("Parts.write", "return", 3))
            assert second.wait() == -signal.SIGKILL, second.output
            assert Builder(tmp_path, *command, "--shard", "2/2").wait() == 0
            assert first.wait() == 0
            assert len(reader.sizes) == 1
            for moment in (
                Moment("ChromaServer.upsert", "return", 2),
                Moment("publish_manifest", "return"),
                Moment("ChromaServer.delete", "call", 2),
            ):
                publisher = Builder(tmp_path, *command, at=moment)
                assert publisher.wait() == -signal.SIGKILL, publisher.output
            assert Builder(tmp_path, *command).wait() == 0
            assert_correct(url, files)
            reader.wait_for(more - 1)
        assert set(reader.sizes) == {count, more - 1}


class searching:
    """A reader that searches in another thread, and remembers the sizes of the galleries that it has searched."""

    def __init__(self, url: str, files: Path, dataset: Path) -> None:
        self._searcher = Searcher(Indexes(files, server=url))
        self._picture = (dataset / "odd" / "001.png").read_bytes()  # which stays, but is written again
        self._stop = threading.Event()
        self._changed = threading.Condition()
        self.sizes: dict[int, int] = {}
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> "searching":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        if self._failure:
            raise self._failure

    def wait_for(self, size: int) -> None:
        """Wait until a gallery of this size was searched."""
        with self._changed:
            assert self._changed.wait_for(lambda: size in self.sizes or self._failure, 60)

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                for features in DEFAULT_SET:
                    for metric in Metric:
                        self._search(Query(self._picture, features=features, metric=metric, engine="chroma"))
        except BaseException as error:  # noqa: BLE001  # raised again by the thread that waits
            self._failure = error

    def _search(self, query: Query) -> None:
        index = self._searcher.indexes.get()
        hits = self._searcher.search(query, index).hits
        assert hits[0].id == "odd/001.png" and len(hits) == 10
        for hit in hits:
            assert hit.label == hit.id.split("/")[0]
            assert index.thumbnail(hit.position).is_file()
        with self._changed:
            self.sizes[len(index)] = self.sizes.get(len(index), 0) + 1
            self._changed.notify_all()


def test_deleted_gallery_takes_its_collections_with_it(
    server: str, dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = tmp_path / "files"
    assert index_builder.main(flags(server, files, dataset)) == 0
    found = collections(server, files)
    assert index_builder.main(["--index", str(files), "--delete", NAME, "--yes"]) == 2
    assert "Name its address" in capsys.readouterr().err
    assert index_builder.main([*where(server, files), "--rename", NAME, "other"]) == 0
    assert index_builder.main([*where(server, files), "--delete", "other", "--yes"]) == 0
    left = {each.name for each in client(server).list_collections()}
    assert found and not left & {each.name for each in found.values()}
