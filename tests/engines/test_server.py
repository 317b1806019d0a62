"""Searches in a gallery whose vectors are on a real ChromaDB server."""

import json
import shutil
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from retrieval import cli, index_builder, settings
from retrieval.engines.chroma_server import ChromaServer
from retrieval.engines.item_ids import ID_BYTES, id_array, id_of
from retrieval.errors import IndexingError, QueryError
from retrieval.features import DEFAULT_SET
from retrieval.features.base import FeatureIdentity
from retrieval.metrics import Metric
from retrieval.search.query import MAX_TOP_K, Query
from retrieval.search.searcher import Searcher
from retrieval.storage.catalog import Indexes
from tests.support.builds import NAME, draw_classes
from tests.support.chroma_server import chroma_server
from tests.support.on_server import assert_correct, collections, flags, where

COUNT = 24
TWICE = ("even/000.png", "odd/900.png", "even/901.png")  # three files with the same content


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = draw_classes(tmp_path_factory.mktemp("dataset") / NAME, COUNT)
    for name in TWICE[1:]:
        shutil.copy(folder / TWICE[0], folder / name)
    return folder


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with chroma_server(tmp_path_factory.mktemp("server")) as url:
        yield url


@pytest.fixture(scope="module")
def files(server, dataset, tmp_path_factory):
    """The shared folder of a gallery on the server."""
    files = tmp_path_factory.mktemp("files")
    assert index_builder.main(flags(server, files, dataset)) == 0
    return files


@pytest.fixture(scope="module")
def searcher(server, files):
    return Searcher(Indexes(files, server=server))


@pytest.fixture(scope="module")
def in_folder(dataset, tmp_path_factory):
    """A searcher over the same gallery in a folder."""
    index = tmp_path_factory.mktemp("folder")
    arguments = ["--index", str(index), "--dataset", str(dataset), "--gallery", NAME, "--model", "mini"]
    assert index_builder.main(arguments) == 0
    searcher = Searcher(Indexes(index))
    yield searcher
    searcher.indexes.close()


def test_server_holds_only_vectors_ids_and_labels(server, files):
    assert_correct(server, files)


def test_files_hold_no_vectors_outside_the_store(files, searcher):
    snapshot = searcher.indexes.get().snapshot
    assert {path.name for path in snapshot.iterdir()} == {"items.parquet", "ids.npy", "positions.npy", "lock"}


@pytest.mark.parametrize(("features", "metric"), list(product(DEFAULT_SET, Metric)))
def test_results_are_those_of_the_exact_scan(searcher, in_folder, dataset, features, metric):
    query = Query(picture=dataset / TWICE[0], features=features, metric=metric, top_k=10, engine="chroma")
    for each in (query, replace(query, picture=None, position=4), replace(query, labels=("odd",), top_k=5)):
        found, expected = searcher.search(each).hits, in_folder.search(replace(each, engine="exact")).hits
        assert [(hit.id, hit.label, hit.caption) for hit in found] == [
            (hit.id, hit.label, hit.caption) for hit in expected
        ]
        np.testing.assert_allclose([hit.score for hit in found], [hit.score for hit in expected], atol=2e-6)


@pytest.mark.parametrize(("features", "metric"), list(product(DEFAULT_SET, Metric)))
def test_all_items_are_found_if_all_are_requested(searcher, features, metric):
    query = Query(position=0, features=features, metric=metric, engine="chroma", top_k=MAX_TOP_K)
    index = searcher.indexes.get()
    assert sorted(hit.position for hit in searcher.search(query).hits) == list(range(1, len(index)))
    odd = [position for position in index.with_labels(["odd"]).tolist() if position]
    assert sorted(hit.position for hit in searcher.search(replace(query, labels=("odd",))).hits) == odd


def test_engine_can_be_left_open(server, files, searcher, dataset, capsys):
    ranking = searcher.search(Query(picture=dataset / TWICE[0], engine="auto"))
    assert (ranking.engine, ranking.engine_note) == ("chroma", "Only ChromaDB can search this gallery.")
    assert cli.main(["search", str(dataset / TWICE[0]), *where(server, files), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["engine"] == "chroma"
    assert cli.main(["info", *where(server, files)]) == 0
    assert "ChromaDB: not measured" in capsys.readouterr().out


def test_graphs_survive_a_restart_of_the_server_and_damaged_ones_are_made_again(tmp_path):
    """The server writes a graph to disk from 1,000 entries on (chroma issue 7090)."""
    features = {"edges": FeatureIdentity("edges", "1", "", "float32", 8)}
    vectors = np.random.default_rng(0).random((1200, 8), np.float32)
    ids = id_array(number.to_bytes(ID_BYTES) for number in range(len(vectors)))

    def found(server):
        nearest = (server.nearest(key, vector, 1, None)[0] for vector in vectors[::100])
        return [ids.tolist()[::100] == [each.tolist()[0] for each in nearest] for key in server.names]

    with chroma_server(tmp_path) as url:
        first = ChromaServer(url, "gallery-1", features)
        first.create()
        for key in first.names:
            first.upsert(key, ids, ["label"] * len(ids), vectors)
        everything = found(first)
    with chroma_server(tmp_path) as url:
        again = ChromaServer(url, "gallery-1", features)
        again.create()
        assert [again.count(key) for key in again.names] == [len(ids)] * len(again.names)
        assert found(again) == everything
    for graph in (tmp_path / "data").rglob("header.bin"):
        graph.write_bytes(b"")
    with chroma_server(tmp_path) as url:
        damaged = ChromaServer(url, "gallery-1", features)
        with pytest.raises(IndexingError, match=r"run `python index_builder\.py`"):
            found(damaged)
        damaged.create()
        assert [damaged.count(key) for key in damaged.names] == [0] * len(damaged.names)


def test_near_duplicates_are_hidden(searcher, dataset):
    hits = searcher.search(Query(picture=dataset / TWICE[0], alike=0.999, top_k=3, engine="chroma")).hits
    assert (hits[0].id, hits[0].duplicates) == (TWICE[0], 2)


def test_thumbnails_are_those_of_the_store(searcher, in_folder):
    index, other = searcher.indexes.get(), in_folder.indexes.get()
    for position in range(len(index)):
        path = index.thumbnail(position)
        assert path.read_bytes() == other.thumbnail(position).read_bytes()
        assert path.is_relative_to(index.thumbnails)
        first = index.at_thumbnail(path)
        assert first is not None and index.thumbnail(first) == path
    assert index.at_thumbnail(index.thumbnails / "00" / f"{'0' * 32}.jpg") is None


def test_ids_of_other_snapshots_are_ignored(server, searcher, dataset):
    index = searcher.indexes.get()
    query = Query(picture=dataset / "odd" / "001.png", features="pixels", engine="chroma", top_k=6)
    expected = searcher.search(query).hits
    vector = index.vectors_at("pixels", np.array([index.position("odd/001.png")]))
    others = [id_of(bytes([number]) * 16, "odd").hex() for number in range(40)] + ["not an id"]
    for (features, _), collection in collections(server, index.snapshot.parent.parent).items():
        if features == "pixels":
            vectors = np.repeat(vector / np.linalg.norm(vector), len(others), axis=0)
            collection.upsert(ids=others, embeddings=vectors, metadatas=[{"label": "odd"}] * len(others))
    try:
        assert searcher.search(query).hits == expected
        assert searcher.search(replace(query, labels=("odd",))).hits[0] == expected[0]
    finally:
        for (features, _), collection in collections(server, index.snapshot.parent.parent).items():
            if features == "pixels":
                collection.delete(ids=others)


def test_more_vectors_than_come_with_an_answer_are_refused(searcher, dataset, monkeypatch):
    query = Query(picture=dataset / TWICE[0], engine="chroma")
    monkeypatch.setattr(searcher.indexes.get().engine("chroma")._server, "most", 8)
    for top_k in (9, 2001):
        with pytest.raises(QueryError, match="at most 8 at once"):
            searcher.search(replace(query, top_k=top_k))
    with pytest.raises(QueryError, match="at most 8 at once"):
        searcher.search(replace(query, top_k=3, alike=0.1))


def test_what_needs_vectors_in_a_folder_says_so(server, files, dataset, capsys):
    picture = str(dataset / TWICE[0])
    for command in (
        ["search", picture, "--engine", "exact"],
        ["compare", picture, "--exact-only"],
        ["evaluate"],
        ["map"],
    ):
        assert cli.main([*command, *where(server, files)]) == 2
        assert "are on a ChromaDB server" in capsys.readouterr().err
    assert index_builder.main([*where(server, files), "--gallery", NAME, "--push", "org/name", "--yes"]) == 2
    assert "are on a ChromaDB server" in capsys.readouterr().err


def test_command_line_searches_with_chromadb_by_default(server, files, dataset, capsys):
    picture = str(dataset / TWICE[0])
    assert cli.main(["search", picture, "--json", *where(server, files)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["engine"], found["hits"][0]["id"]) == ("chroma", TWICE[0])
    assert cli.main(["compare", picture, "--json", *where(server, files)]) == 0
    assert {cell["engine"] for cell in json.loads(capsys.readouterr().out)["cells"]} == {"chroma"}
    assert cli.main(["robustness", picture, "--blur", "0.02", *where(server, files)]) == 0


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--index", "http://host:8000"], "also needs --files"),
        (["--index", "index", "--files", "files"], "belongs to the address of a ChromaDB server"),
        (["--index", "http://host:8000/path", "--files", "files"], "must be http://host:port"),
        (["--index", "http://user@host", "--files", "files"], "must be http://host:port"),
        (["--index", "http://host:port", "--files", "files"], "must be http://host:port"),
    ],
)
def test_flags_that_do_not_fit_are_refused(arguments, expected, capsys):
    with pytest.raises(SystemExit):
        cli.main(["info", *arguments])
    assert expected in capsys.readouterr().err


def test_server_is_in_the_settings(tmp_path):
    _, chosen = settings.parse(cli._parser(), ["info", "--index", "https://host/", "--files", str(tmp_path)], {})
    assert (chosen.server, chosen.index) == ("https://host", tmp_path)


def test_server_that_is_gone_is_reported(files, dataset):
    query = Query(picture=dataset / TWICE[0], engine="chroma")
    with pytest.raises(IndexingError, match=r"`http://127\.0\.0\.1:9` cannot be used"):
        Searcher(Indexes(files, server="http://127.0.0.1:9")).search(query)
    with pytest.raises(IndexingError, match="Name its address and this folder"):
        Searcher(Indexes(files)).search(query)


def test_server_without_the_gallery_is_reported(files, dataset, tmp_path):
    with chroma_server(tmp_path) as other, pytest.raises(IndexingError, match="Check that it runs and has this"):
        Searcher(Indexes(files, server=other)).search(Query(picture=dataset / TWICE[0], engine="chroma"))


@pytest.mark.parametrize("vectors", [[[float("nan")] * 768], [[0.0] * 3], [], None])
def test_answers_that_are_not_vectors_are_refused(server, searcher, vectors):
    manifest = searcher.indexes.get().manifest
    chroma = ChromaServer(server, manifest.collections, manifest.features)
    with pytest.raises(IndexingError, match="cannot be used"), chroma._errors():
        chroma._checked("pixels", ["0" * 40], vectors)


def test_damaged_items_are_reported(server, files, tmp_path):
    copy = Path(shutil.copytree(files, tmp_path / "copy"))
    [items] = copy.glob(f"{NAME}/*/items.parquet")
    content = items.read_bytes()
    items.write_bytes(content.replace(b"even/000.png", b"even/XXX.png"))
    assert items.read_bytes() != content
    index = Indexes(copy, server=server).get()
    with pytest.raises(IndexingError, match="is damaged"):
        index.entry(0)


def test_damaged_ids_are_reported(server, files, tmp_path):
    copy = Path(shutil.copytree(files, tmp_path / "copy"))
    [ids] = copy.glob(f"{NAME}/*/ids.npy")
    ids.write_bytes(ids.read_bytes()[:-1] + b"\0")
    with pytest.raises(IndexingError, match=r"ids\.npy has changed since it was written"):
        Indexes(copy, server=server).get()
