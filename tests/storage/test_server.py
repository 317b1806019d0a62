"""Indexes in a real ChromaDB server: several workers, one of them killed; local copies; failing servers."""

import logging
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest
from gradio_client import Client, handle_file

import index_builder
from retrieval import cli
from retrieval.engines import ENGINES
from retrieval.engines.chroma_folder import ChromaFolder, Collections
from retrieval.errors import IndexingError
from retrieval.features import FEATURES
from retrieval.gallery.source import Item
from retrieval.metrics import Metric
from retrieval.search.query import Query
from retrieval.search.searcher import Searcher
from retrieval.settings import parse
from retrieval.storage.batches import Batch
from retrieval.storage.catalog import Indexes, location_of
from retrieval.storage.folder import FolderLocation
from retrieval.storage.location import Published
from retrieval.storage.manifest import Skipped
from retrieval.storage.projection import Method
from retrieval.storage.reader import GalleryIndex
from retrieval.storage.server.address import Server, read_address
from retrieval.storage.server.connection import connect, pack, server_error, unpack
from retrieval.storage.server.location import PUBLISHED, Head, ServerLocation
from retrieval.storage.server.store import ServerStore
from retrieval.storage.store import Store
from tests.support.browsing import served, settings_of
from tests.support.builds import corrupt_pictures, draw, nearest
from tests.support.paths import ROOT
from tests.support.serving import post
from tests.support.waiting import PATIENCE, wait_until

pytestmark = [pytest.mark.endurance, pytest.mark.short]

NAME = "pictures"
BAD = (3, 70, 195)
GOOD = [row for row in range(200) if row not in BAD]


@contextmanager
def chroma(folder: Path) -> Iterator[str]:
    """Start `chroma run` on a free port of loopback; yield its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(Path(sys.executable).parent / "chroma"), "run", "--path", str(folder), "--port", str(port)]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen([*command, "--host", "127.0.0.1"], stdout=log, stderr=log)

    def answers() -> bool:
        assert process.poll() is None, (folder / "log").read_text()
        with socket.socket() as caller:
            return caller.connect_ex(("127.0.0.1", port)) == 0

    try:
        wait_until(answers)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One server for the whole module; each test uses its own galleries."""
    with chroma(tmp_path_factory.mktemp("chroma")) as address:
        yield address


def flags(address: object, cache: Path, dataset: Path, *more: str) -> list[str]:
    where = ["--index", str(address), "--cache", str(cache), "--dataset", str(dataset), "--gallery", dataset.name]
    return [*where, "--model", "mini", *more]


def store_of(indexes: Indexes, index: GalleryIndex) -> Store:
    return indexes.location.begin(index.manifest.gallery, index.manifest.build, FEATURES, False)


def read_collections(collections: Collections) -> dict[Any, tuple[list[str], Any, Any]]:
    """Return the ids, vectors and metadata of every collection, sorted by id."""
    found = {}
    for key, collection in collections.by_key.items():
        all_of_it = collection.get(include=["embeddings", "metadatas"])
        order = np.argsort(all_of_it["ids"])
        ids, metadata = ([all_of_it[name][i] for i in order] for name in ("ids", "metadatas"))
        found[key] = ids, np.asarray(all_of_it["embeddings"], np.float32)[order], metadata
    return found


@pytest.fixture(scope="module")
def built(address: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    """The same gallery in a folder, and in the server, built by two workers of which one was killed and restarted."""
    folder = tmp_path_factory.mktemp("built")
    dataset = draw(folder / NAME, 200)  # four batches of 64 rows, the last one short
    corrupt_pictures(dataset, *BAD)
    program = [sys.executable, str(ROOT / "index_builder.py"), *flags(address, folder / "cache", dataset)]
    logs = {name: folder / f"{name}.log" for name in ("first", "second", "again")}

    def start(name: str, *more: str) -> subprocess.Popen[bytes]:
        with logs[name].open("w") as log:
            return subprocess.Popen([*program, *more], cwd=ROOT, stdout=log, stderr=log)

    client = connect(Server(address))

    def has_thumbnail(row: int) -> bool:
        found = [each for each in client.list_collections() if each.name.endswith("-thumbnails")]
        return any(each.get(ids=[f"{row:012d}"], include=[])["ids"] for each in found)

    server = Indexes(Server(address, folder / "cache"))
    workers = {"first": start("first", "--shard", "1/2"), "second": start("second", "--shard", "2/2")}
    try:
        # The first worker has begun its second batch: the thumbnails are there, the vectors are not.
        wait_until(lambda: has_thumbnail(128) or workers["first"].poll() is not None)
        workers["first"].send_signal(signal.SIGKILL)
        killed = workers["first"].wait()
        second = workers["second"].wait(PATIENCE)
        half = server.names()
        workers["again"] = start("again", "--shard", "1/2", "--streaming")
        again = workers["again"].wait(PATIENCE)
    finally:
        for worker in workers.values():
            worker.kill()
            worker.wait()
    assert index_builder.main(flags(folder / "index", folder / "cache", dataset)) == 0
    plain = Indexes(folder / "index")
    yield SimpleNamespace(
        codes=(killed, second, again),
        said={name: log.read_text() for name, log in logs.items()},
        half=half,
        server=server,
        folder=plain,
        dataset=dataset,
        cache=folder / "cache",
    )
    server.close()
    plain.close()


def test_killed_worker_loses_nothing_and_nothing_is_published_early(built: SimpleNamespace) -> None:
    assert built.codes == (-signal.SIGKILL, 0, 0), built.said
    assert built.half == []
    assert "(72 rows). " in built.said["second"]
    assert " of 4 batches are missing" in built.said["second"]
    assert "197 images indexed" in built.said["again"]
    assert "now, 63 before)" in built.said["again"]  # it resumed: one batch, with one bad picture, was already there
    assert "skipped:  3" in built.said["again"]


def test_two_workers_on_a_server_give_the_same_index_as_one_in_a_folder(built: SimpleNamespace) -> None:
    server, folder = built.server.get(NAME), built.folder.get(NAME)
    assert [server.entry(i) for i in range(197)] == [folder.entry(i) for i in range(197)]
    assert server.rows.tolist() == folder.rows.tolist() == GOOD
    for features in FEATURES:
        np.testing.assert_array_equal(server.vectors(features), folder.vectors(features), features)
        expected = folder.map(features, Method.PCA).coordinates
        np.testing.assert_array_equal(server.map(features, Method.PCA).coordinates, expected)
    for position in range(197):
        assert server.thumbnail(position).read_bytes() == folder.thumbnail(position).read_bytes()
    assert server.manifest.skipped_pictures == folder.manifest.skipped_pictures
    assert server.manifest.background == folder.manifest.background
    ours = ChromaFolder(folder.build, reading=True)
    theirs = store_of(built.server, server)
    assert isinstance(theirs, ServerStore)
    in_folder, on_server = read_collections(ours.open(FEATURES)), read_collections(theirs.collections)
    assert in_folder.keys() == on_server.keys()
    for (ids, vectors, metadata), (ids_there, vectors_there, metadata_there) in zip(
        in_folder.values(), on_server.values(), strict=True
    ):
        assert ids_there == ids == [f"{row:012d}" for row in GOOD]
        np.testing.assert_array_equal(vectors_there, vectors)  # bit for bit
        assert metadata_there == metadata
    ours.close()


def test_late_workers_do_not_change_a_finished_gallery(
    built: SimpleNamespace, address: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = built.server.location.version(NAME)
    assert index_builder.main(flags(address, tmp_path, built.dataset, "--shard", "2/3")) == 0
    assert "nothing to do, 197 images" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []  # nothing was downloaded
    assert Indexes(Server(address, tmp_path)).location.version(NAME) == before


@pytest.mark.parametrize("engine", list(ENGINES))
def test_server_and_folder_give_the_same_hits(built: SimpleNamespace, engine: str) -> None:
    ours, theirs = Searcher(built.folder), Searcher(built.server)
    picture = built.dataset / "011.png"
    for features, metric in product(FEATURES, Metric):
        query = Query(picture=picture, features=features, metric=metric, engine=engine, top_k=5)
        assert theirs.search(query).hits == ours.search(query).hits
    built.folder.close()


def test_page_searches_the_server_and_serves_thumbnails(
    built: SimpleNamespace, address: str, tmp_path: Path, queries: Path
) -> None:
    chosen = replace(settings_of(tmp_path), index=Server(address, tmp_path))
    searcher = Searcher(Indexes(chosen.index))
    index = searcher.indexes.get(NAME)
    with served(searcher, chosen, queries) as page:
        picture = handle_file(str(built.dataset / "020.png"))
        answer = Client(page, verbose=False).predict(picture, "pixels", "l2", "chroma", 3, NAME, api_name="/search")
        assert answer["hits"][0]["id"] == "020.png"
        found = post(page, "run", None, "red", "", 0.5, [], 1, None, NAME, "clip", "cosine", "exact", 1, None)
        [shown] = re.findall(r'"url": "([^"]+\.jpg)"', found)
        assert str(tmp_path) not in found
        with urllib.request.urlopen(shown) as response:
            thumbnail = index.thumbnails.joinpath(*shown.rsplit("/", 2)[1:])
            assert response.read() == thumbnail.read_bytes()
    searcher.indexes.close()


def test_readers_switch_to_a_new_build_once_it_is_copied(address: str, tmp_path: Path) -> None:
    dataset = draw(tmp_path / "six", 6)
    build = flags(address, tmp_path / "builder", dataset)
    assert index_builder.main(build) == 0
    indexes = Indexes(Server(address, tmp_path / "reader"))
    first = indexes.get("six")
    vector = first.vectors("clip")[0]
    assert sorted(nearest(first, "clip", Metric.COSINE, vector, 6)) == [0, 1, 2, 3, 4, 5]

    assert index_builder.main([*build, "--rebuild"]) == 0
    wait_until(lambda: indexes.get("six") is not first)  # until the copy is complete, readers get the old build
    assert len(nearest(first, "clip", Metric.COSINE, vector, 6)) == 6  # the previous build can still be searched
    second = indexes.get("six")
    assert second.build != first.build
    assert first.thumbnail(5).read_bytes() == second.thumbnail(5).read_bytes()

    assert index_builder.main([*build, "--rebuild", "--map", "tsne"]) == 0
    with pytest.raises(IndexingError, match="was rebuilt or deleted"):
        nearest(first, "clip", Metric.COSINE, vector, 6)
    wait_until(lambda: ("clip", Method.TSNE) in indexes.get("six").maps)
    assert indexes.get("six").map("clip", Method.TSNE).coordinates.shape == (6, 2)

    def copies() -> set[str]:
        return {path.name.rpartition("-")[0] for path in (tmp_path / "reader").glob("*/*build-*")}

    wait_until(lambda: len(copies()) == 2)  # the published build and the previous one
    names = [each.name for each in connect(Server(address)).list_collections()]
    assert all(any(name.startswith(f"{copy}-") for name in names) for copy in copies())
    gallery = next(iter(copies())).partition("-build-")[0]
    assert sum(name.startswith(gallery) and name.endswith("-ledger") for name in names) == 2
    indexes.close()


def test_two_workers_can_publish_simultaneously(address: str, tmp_path: Path) -> None:
    server = Server(address, tmp_path)
    locations = [location_of(replace(server, cache=tmp_path / each)) for each in "ab"]
    random = np.random.default_rng(0)
    vectors = {f: random.random((3, d), np.float32) for f, d in (("pixels", 12), ("clip", 4))}
    first = locations[0].begin("both", "build-00000000000000b0", FEATURES, False)
    items = tuple(Item(row, f"id-{row}", "", "", bytes, None) for row in range(3))
    thumbnails = tuple(bytes([row]) for row in range(3))
    first.write(Batch(0, 4, items, thumbnails, vectors, (Skipped(3, "id-3", "broken"),)))
    manifest = replace(Indexes(server).get(NAME).manifest, gallery="both", build="build-00000000000000b0", pictures=3)
    sizes = {"pixels": 12, "clip": 4}
    features = {name: replace(each, dimensions=sizes[name]) for name, each in manifest.features.items()}
    manifest = replace(manifest, features=features)
    together = threading.Barrier(2)

    def publish(place: int) -> None:
        store = locations[place].begin("both", "build-00000000000000b0", FEATURES, False)
        with locations[place].exported(store, store.rows()):
            together.wait(PATIENCE)
            locations[place].publish(replace(manifest, seconds=float(place)), store, store.rows())

    threads = [threading.Thread(target=publish, args=(place,)) for place in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    indexes = Indexes(replace(server, cache=tmp_path / "reader"))
    index = indexes.get("both")
    assert index.rows.tolist() == [0, 1, 2]
    for features in FEATURES:
        np.testing.assert_array_equal(index.vectors(features), vectors[features])
    assert [index.thumbnail(row).read_bytes() for row in range(3)] == [bytes([row]) for row in range(3)]
    assert sorted(nearest(index, "clip", Metric.L2, vectors["clip"][1], 3)) == [0, 1, 2]
    for each in (*locations, indexes):
        each.close()


def test_records_of_an_interrupted_batch_are_replaced_or_removed(address: str, tmp_path: Path) -> None:
    server = Server(address, tmp_path)
    store = ServerStore(server, connect(server), "lookalike-left-build-left", make=True)
    items = tuple(Item(row, f"id-{row}", "", "", bytes, None) for row in range(4))
    vectors = {"pixels": np.ones((4, 3), np.float32), "clip": np.ones((4, 2), np.float32)}
    store.write_thumbnails(Batch(0, 4, items, (b"old and longer" * 900,) * 4, vectors, ()))
    store.collections.insert(range(4), [{"id": item.id, "label": "", "caption": ""} for item in items], vectors)
    assert store.rows().tolist() == []  # the batch is not complete
    assert store.complete() == set()
    vectors = {features: matrix[[0, 1, 3]] * 2 for features, matrix in vectors.items()}
    good = tuple(items[row] for row in (0, 1, 3))
    store.write(Batch(0, 4, good, (b"new",) * 3, vectors, (Skipped(2, "id-2", "is broken now"),)))
    store.reconcile()
    assert store.rows().tolist() == [0, 1, 3]
    assert store.skipped() == [Skipped(2, "id-2", "is broken now")]
    assert {len(ids) for ids, _, _ in read_collections(store.collections).values()} == {3}
    assert list(store.thumbnails(np.arange(4))) == [{0: b"new", 1: b"new", 3: b"new"}]
    found, _ = next(store.read(store.rows(), "pixels"))
    np.testing.assert_array_equal(found, vectors["pixels"])


def test_records_stay_within_the_limits_of_chroma_cloud() -> None:
    noise = np.random.default_rng(0).bytes(60_000)  # the largest size of a thumbnail
    packed = pack(noise)
    assert unpack(packed) == noise
    assert len(packed) <= 31
    assert max(len(str(value)) for value in packed.values()) <= 4096
    assert max(map(len, packed)) <= 36


def test_unreachable_server_is_named_and_the_local_copy_still_works(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = draw(tmp_path / "six", 6)
    (tmp_path / "data").mkdir()
    with chroma(tmp_path / "data") as address:
        assert index_builder.main(flags(address, tmp_path / "cache", dataset)) == 0
        searcher = Searcher(Indexes(Server(address, tmp_path / "cache")))
        query = Query(picture=dataset / "004.png", features="pixels", engine="chroma", top_k=1)
        assert searcher.search(query).hits[0].id == "004.png"
        unfinished = searcher.indexes.location.begin("six", "build-unfinished", FEATURES, False)
    with pytest.raises(IndexingError, match="run the same command again"):
        item = Item(0, "id", "", "", bytes, None)
        unfinished.write_thumbnails(Batch(0, 1, (item,), (b"thumbnail",), {}, ()))
    with pytest.raises(IndexingError, match=f"`{address}` cannot be reached"):
        searcher.search(query)
    wait_until(lambda: searcher.indexes.names() and "cannot be reached" in caplog.text)
    assert searcher.search(replace(query, engine="exact")).hits[0].id == "004.png"
    capsys.readouterr()
    assert index_builder.main(flags(address, tmp_path / "cache", dataset)) == 2
    assert cli.main(["info", "--index", address, "--cache", str(tmp_path / "cache")]) == 2
    said = capsys.readouterr().err
    assert said.count(f"error: The ChromaDB server `{address}` cannot be reached") == 2
    assert "Traceback" not in said


class FakeServer(BaseHTTPRequestHandler):
    """An HTTP server that gives a fixed answer to every request."""

    status, body, asked, times = 200, b"", "", 0

    def do_GET(self) -> None:
        type(self).times += 1
        type(self).asked = self.headers.get("Authorization", "")
        self.send_response(self.status)
        self.send_header("Content-Length", str(len(self.body)))
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, *_: object) -> None:
        logging.getLogger("answers").debug("asked")


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (200, b'"0.6.3"', "has version 0.6.3"),
        (200, b"<html>", "is not a ChromaDB of version 1"),
        (404, b'{"detail":"Not Found"}', "is not a ChromaDB of version 1"),
        (401, b"", "Set the environment variable `RETRIEVAL_INDEX_TOKEN`"),
        (403, b"", "Set the environment variable `RETRIEVAL_INDEX_TOKEN`"),
    ],
)
def test_errors_of_unsuitable_servers_do_not_contain_the_token(
    status: int, body: bytes, said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = type("Answering", (FakeServer,), {"status": status, "body": body})
    with ThreadingHTTPServer(("127.0.0.1", 0), answers) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setitem(os.environ, "RETRIEVAL_INDEX_TOKEN", "a-secret")
        assert cli.main(["search", "x.png", "--index", f"http://127.0.0.1:{server.server_port}"]) == 2
        server.shutdown()
    captured = capsys.readouterr()
    assert said in captured.err
    assert "a-secret" not in captured.err + captured.out
    assert answers.asked == "Bearer a-secret"


def test_error_names_a_missing_database(address: str, tmp_path: Path) -> None:
    with pytest.raises(IndexingError, match=r"\[nowhere\] not found.*CHROMA_DATABASE"):
        Indexes(Server(address, tmp_path, database="nowhere")).names()


def test_opening_a_slow_gallery_does_not_block_others(built: SimpleNamespace, tmp_path: Path) -> None:
    for name in (NAME, "slow"):
        shutil.copytree(built.folder.root / NAME, tmp_path / name)
    begun, go_on = threading.Event(), threading.Event()

    class SlowLocation(FolderLocation):
        def published(self, name: str) -> Published | None:
            if name == "slow":
                begun.set()
                assert go_on.wait(PATIENCE)
            return super().published(name)

    indexes = Indexes(tmp_path)
    indexes.location = SlowLocation(tmp_path)
    threads = [threading.Thread(target=indexes.get, args=("slow",)) for _ in range(2)]
    for thread in threads:
        thread.start()
    assert begun.wait(PATIENCE)
    assert len(indexes.get(NAME)) == 197
    assert all(thread.is_alive() for thread in threads)  # it opened without waiting for the slow gallery
    go_on.set()
    for thread in threads:
        thread.join(PATIENCE)
    assert len(indexes.get("slow")) == 197
    indexes.close()


def test_failing_server_is_not_retried_immediately_and_known_versions_are_kept(
    built: SimpleNamespace, address: str, tmp_path: Path
) -> None:
    location = ServerLocation(Server(address, tmp_path))
    version = location.version(NAME)
    assert version
    location.close()
    answers = type("Failing", (FakeServer,), {"status": 502})
    with ThreadingHTTPServer(("127.0.0.1", 0), answers) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        location.server = Server(f"http://127.0.0.1:{server.server_port}", tmp_path)
        location.refresh()
        assert [location.version(NAME) for _ in range(3)] == [version] * 3
        assert answers.times == 1
        assert not location.is_local(NAME)
        with pytest.raises(IndexingError, match="not a ChromaDB"):
            ServerLocation(location.server).names()  # it has no known versions
        server.shutdown()


@pytest.mark.parametrize(
    "change",
    [
        {"build": "build-0123456789abcdef/../../x"},
        {"build": "build-0123456789abcdef-other"},
        {"version": "../x"},
        {"previous": 1},
        {"more": "text"},
    ],
)
def test_invalid_gallery_records_are_ignored(
    built: SimpleNamespace, address: str, tmp_path: Path, change: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    good = {"gallery": "evil", "build": "build-0123456789abcdef-again", "previous": "", "version": "0" * 32}
    assert Head.read(good) == Head(**good)
    location = ServerLocation(Server(address, tmp_path))
    location._galleries().upsert(ids=["evil"], embeddings=[[0.0]], metadatas=[good | change])
    try:
        names = location.names()
    finally:
        location._galleries().delete(ids=["evil"])
    assert NAME in names
    assert "evil" not in names
    assert "'evil' of a gallery" in caplog.text
    location.close()


def test_begin_resumes_unfinished_builds_and_restarts_published_ones(address: str, tmp_path: Path) -> None:
    location = ServerLocation(Server(address, tmp_path))
    head = Head("anew", "build-00000000000000ae", "", "0" * 32)
    location.begin(head.gallery, head.build, FEATURES, True).commit(Batch(0, 4, (), (), {}, ()))
    store = location.begin(head.gallery, head.build, FEATURES, False)
    assert store.complete() == {0}
    assert isinstance(store, ServerStore)
    store.put_file(f"publication-{head.version}", zlib.compress(b'{"manifest": {"format": 0}, "runs": [[0, 1]]}'))
    with pytest.raises(
        IndexingError, match=r"'anew' on `http.* has format 0, .*--gallery anew --dataset \.\.\. --rebuild"
    ):
        location._publication(head)
    assert location.begin(head.gallery, head.build, FEATURES, True).complete() == {0}  # an interrupted rebuild
    store.put_file(PUBLISHED, b"")
    assert location.begin(head.gallery, head.build, FEATURES, True).complete() == set()
    location.close()


def test_invalid_token_is_not_shown() -> None:
    for token in ("qq\nqq", "qq\u00e9"):
        server = Server("http://127.0.0.1:1", token=token)
        with pytest.raises(IndexingError, match=r"^The environment variable `RETRIEVAL_INDEX_TOKEN`") as caught:
            connect(server)
        assert "qq" not in str(caught.value)
        said = str(server_error(server, httpx.LocalProtocolError(f"Illegal header value {token.encode()!r}")))
        assert said == str(caught.value)


def test_shards_need_a_server_and_are_validated(
    address: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = draw(tmp_path / "two", 2)
    assert index_builder.main(flags(tmp_path / "index", tmp_path, dataset, "--shard", "1/2")) == 2
    assert "`--shard` needs a ChromaDB server" in capsys.readouterr().err
    assert not (tmp_path / "index").exists()
    assert index_builder.main(flags(address, tmp_path, dataset, "--shard", "1/2", "--rebuild")) == 2
    assert "`--rebuild` and `--shard` cannot be combined" in capsys.readouterr().err
    for text in ("0/2", "3/2", "1", "1/0", "a/b", "-1/2", "1/2/3"):
        with pytest.raises(SystemExit):
            index_builder.main([f"--shard={text}"])
        assert "such as 1/2 or 2/2" in capsys.readouterr().err


def test_address_is_parsed_and_secrets_come_only_from_the_environment(tmp_path: Path) -> None:
    assert read_address("index") == Path("index")
    assert read_address("https://example.com/chroma/") == Server("https://example.com/chroma")
    for text in ("ftp://x", "http://", "http://a:b@c", "http://x?token=1", "http://x:port", "hf://datasets/a/b"):
        with pytest.raises(ValueError, match=r"address|port"):
            read_address(text)
    environment = {"CHROMA_API_KEY": "key", "RETRIEVAL_INDEX_TOKEN": " token\n", "CHROMA_DATABASE": "mine"}
    environment |= {"RETRIEVAL_CACHE": str(tmp_path), "RETRIEVAL_INDEX": "http://x"}
    parser = index_builder.argparse.ArgumentParser()
    index_builder.settings.add_index_flag(parser)
    own = parse(parser, [], environment)[1].index
    assert own == Server("http://x", tmp_path, database="mine", token="token")
    assert "token='" not in repr(own)
    cloud = parse(parser, ["--index", "chroma-cloud"], environment)[1].index
    assert isinstance(cloud, Server)
    assert (cloud.cloud, cloud.token) == (True, "key")
    with pytest.raises(IndexingError, match="Set the environment variable `CHROMA_API_KEY`"):
        connect(replace(cloud, token=None))
