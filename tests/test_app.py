"""The app as a program and as a service: first start, HTTP API, invalid calls."""

import base64
import json
import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image

from retrieval.analysis.comparison import compare
from retrieval.cli import main as command_line
from retrieval.engines import ENGINES
from retrieval.engines.choice import resolve
from retrieval.features import FEATURES
from retrieval.gallery.source import BUNDLED_GALLERIES
from retrieval.indexing.jobs import Builds
from retrieval.metrics import Metric
from retrieval.pictures.loading import load_picture
from retrieval.search.query import Added, Query
from retrieval.search.searcher import Searcher
from retrieval.storage.catalog import Indexes
from tests.support.browsing import settings_of
from tests.support.builds import draw_classes
from tests.support.cache import copy_index
from tests.support.paths import ROOT
from tests.support.serving import post, running
from tests.support.waiting import PATIENCE, wait_until


@pytest.fixture(scope="module")
def address(icons: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running(tmp_path_factory.mktemp("log") / "app.log", "--index", str(icons)) as address:
        yield address


@pytest.fixture(scope="module")
def client(address: str) -> Client:
    return Client(address, verbose=False)


def search(client: Client, *arguments: Any, **named: Any) -> dict[str, Any]:
    return client.predict(*arguments, api_name="/search", **named)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("metric", Metric)
@pytest.mark.parametrize("features", ["pixels", "clip"])
def test_every_combination_answers(client: Client, queries: Path, features: str, metric: str, engine: str) -> None:
    answer = search(client, handle_file(str(queries / "pizza.png")), features, metric, engine, 4, "")
    keys = ["gallery", "features", "metric", "engine", "model", "notes", "hits", "timings_ms"]
    assert [key for key in answer if key != "engine_note"] == keys
    assert (answer["gallery"], answer["features"], answer["metric"], answer["engine"], answer["model"]) == (
        "icons",
        features,
        metric,
        engine,
        "mini",
    )
    assert [hit["rank"] for hit in answer["hits"]] == [1, 2, 3, 4]
    assert all(list(hit) == ["rank", "id", "label", "caption", "score"] for hit in answer["hits"])
    assert list(answer["timings_ms"]) == ["decode", "features", "search", "total"]
    if features == "clip":
        assert answer["hits"][0]["caption"] == "pizza"


def test_search_returns_the_same_as_the_command(
    client: Client, icons: Path, queries: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    query = str(queries / "cactus.png")
    answer = search(client, handle_file(query), "clip", "correlation", "exact", 7, "icons")
    flags = ["--metric", "correlation", "--top-k", "7", "--index", str(icons), "--json"]
    assert command_line(["search", query, *flags]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed | {"timings_ms": None} == answer | {"timings_ms": None}


def test_all_arguments_except_the_picture_have_defaults(client: Client, queries: Path, icons: Path) -> None:
    answer = search(client, image=handle_file(str(queries / "fox.png")))
    assert (answer["features"], answer["metric"], answer["engine"], len(answer["hits"])) == (
        "clip",
        "cosine",
        resolve("auto", Indexes(icons).get(), ("clip", Metric.COSINE), None).engine,
        10,
    )
    assert answer["engine_note"]


def query(client: Client, **named: Any) -> dict[str, Any]:
    return client.predict(api_name="/query", **({"text": "", "image": None} | named))


def test_text_query_with_a_label_filter(client: Client) -> None:
    asked = {"text": "red fruit", "without": "apple", "labels": ["food-fruit"], "engine": "chroma", "top_k": 5}
    answer = query(client, **asked)
    assert len(answer["hits"]) == 5
    assert {hit["label"] for hit in answer["hits"]} == {"food-fruit"}
    assert "apple" not in answer["hits"][0]["caption"]


def test_added_images_are_ids_files_or_base64(client: Client, queries: Path, icons: Path) -> None:
    searcher = Searcher(Indexes(icons))
    item = searcher.indexes.get().position("1f32f")
    fox = "data:image/png;base64," + base64.b64encode((queries / "fox.png").read_bytes()).decode()
    image, lion = (handle_file(str(queries / f"{name}.png")) for name in ("cat", "lion"))
    answer = query(client, image=image, more=[fox, "1f32f"], less=[lion], features="pixels")
    added = (Added(queries / "fox.png"), Added(position=item), Added(queries / "lion.png", more=False))
    wanted = searcher.search(Query(queries / "cat.png", added=added, features="pixels"))
    searcher.indexes.close()
    assert answer["hits"] == wanted.to_json()["hits"]
    assert answer["notes"] == []
    assert query(client, more=["1f32f"])["hits"] != answer["hits"]


def test_region_is_searched_like_the_cropped_picture(client: Client, queries: Path, tmp_path: Path) -> None:
    with Image.open(queries / "castle.png") as picture:
        whole = load_picture(picture)
    whole.crop((0, 0, whole.width // 2, whole.height)).save(tmp_path / "left.png")
    part = query(client, image=handle_file(str(queries / "castle.png")), region=[0, 0, 0.5, 1])
    alone = query(client, image=handle_file(str(tmp_path / "left.png")))
    assert part["hits"] == alone["hits"]
    assert part["hits"] != query(client, image=handle_file(str(queries / "castle.png")))["hits"]


def test_compare_returns_the_same_as_the_library(client: Client, icons: Path, queries: Path) -> None:
    asked: dict[str, Any] = {"text": "", "image": handle_file(str(queries / "fox.png")), "top_k": 4}
    answer = client.predict(api_name="/compare", **asked)
    query = Query(picture=queries / "fox.png", top_k=4)
    expected = compare(Searcher(Indexes(icons)), query, engines=["exact"]).to_json()  # the app uses ChromaDB
    exact = [cell for cell in answer["cells"] if cell["engine"] == "exact"]
    for cell in (*exact, *expected["cells"]):
        del cell["timings_ms"]
    assert len(answer["cells"]) == 2 * len(exact)
    assert exact == json.loads(json.dumps(expected["cells"]))
    with pytest.raises(AppError, match="at most 1,000"):
        client.predict(api_name="/compare", **(asked | {"top_k": 1001}))


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"features": "pixels", "text": "red"}, "Text search needs CLIP features"),
        ({"text": "red " * 500}, "Shorten it to 500 or fewer"),
        ({"text": "red", "balance": 2}, "balance must be a number from 0"),
        ({"text": "red", "labels": ["nothing"]}, "No image has the label 'nothing'."),
        ({"text": "red", "labels": "flags"}, "labels must be a list"),
        ({"text": "red", "region": [0.5, 0, 0.5, 1]}, "region must be four numbers from 0 to 1"),
        ({"text": "red", "region": "all"}, "region must be four numbers from 0 to 1"),
        ({"text": "red", "more": ["nothing"]}, "has no image 'nothing'"),
        ({"text": "red", "more": "1f32f"}, "more must be a list of images or of ids"),
        ({"text": "red", "less": [""]}, "less has an empty entry"),
        ({"text": "red", "less": [{"path": "/etc/passwd"}]}, "was not uploaded here"),
        ({"text": "red", "less": ["data:image/png;base64,x"]}, "not valid base64"),
        ({"text": "red", "less": ["1f32f"] * 17}, "16 added images, not 17"),
        ({"text": "- red"}, "only says what to exclude"),
        ({"less": ["1f32f"]}, "The argument image is missing."),
        ({"text": "red", "alike": -1}, "alike must be a number from 0"),
        ({}, "The argument image is missing."),
    ],
)
def test_errors_for_invalid_query_arguments(client: Client, changed: dict[str, Any], words: str) -> None:
    with pytest.raises(AppError) as caught:
        query(client, **changed)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"top_k": 0}, "top_k must be a whole number from 1 to 10,000, not 0."),
        ({"top_k": 10**9}, "top_k must be a whole number from 1 to 10,000, not 1000000000."),
        ({"top_k": 2.5}, "top_k must be a whole number"),
        ({"features": "<b>"}, f"Features '<b>' does not exist. Choose one of: {', '.join(FEATURES)}."),
        ({"features": "edges"}, "has no edges features; it has pixels, color, clip. Add them with"),
        ({"metric": "<b>"}, f"Metric '<b>' does not exist. Choose one of: {', '.join(Metric)}."),
        ({"engine": ""}, f"Engine '' does not exist. Choose one of: auto, {', '.join(ENGINES)}."),
        ({"gallery": "nowhere"}, "There is no gallery 'nowhere'. Available galleries: icons."),
        ({"image": None}, "The argument image is missing."),
    ],
)
def test_errors_for_invalid_search_arguments(
    client: Client, queries: Path, changed: dict[str, Any], words: str
) -> None:
    arguments = {"image": handle_file(str(queries / "fox.png")), "features": "clip", "metric": "l2"}
    with pytest.raises(AppError) as caught:
        search(client, **(arguments | changed))
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "words"), [("text", "not an image"), ("empty", "is empty"), ("cut", "damaged or cut off")]
)
def test_error_for_bad_pictures_and_the_server_keeps_running(
    client: Client, queries: Path, tmp_path: Path, kind: str, words: str
) -> None:
    whole = (queries / "fox.png").read_bytes()
    bad = tmp_path / "picture.png"
    bad.write_bytes({"text": b"no picture", "empty": b"", "cut": whole[: len(whole) // 2]}[kind])
    with pytest.raises(AppError, match=words):
        search(client, handle_file(str(bad)))
    assert search(client, handle_file(str(queries / "fox.png")))["hits"]


@pytest.mark.parametrize("meta", [{}, {"meta": {"_type": "gradio.FileData"}}, {"meta": {"_type": "x"}}])
@pytest.mark.parametrize("kind", ["picture", "missing", "/etc/hostname", "/dev/zero", "a\0b", "pipe"])
def test_server_files_are_not_readable_by_visitors(
    address: str, client: Client, queries: Path, tmp_path: Path, kind: str, meta: dict[str, Any]
) -> None:
    os.mkfifo(tmp_path / "pipe")
    named = {"picture": queries.parents[1] / "screens" / "search-clip.png", "pipe": tmp_path / "pipe"}
    image = {"path": str(named.get(kind, kind)), **meta}
    answer = post(address, "search", image, "clip", "cosine", "exact", 3, "")
    assert "event: error" in answer
    assert "hits" not in answer
    assert "No such file" not in answer, "reveals whether a file exists"
    assert search(client, handle_file(str(queries / "fox.png")))["hits"], "the server stopped working"


def test_lone_surrogates_in_a_text_are_handled(address: str) -> None:
    data = ["red \ud800", None, [], [], "", 0.5, [], [], 1, "clip", "cosine", "exact", 3, "", None]
    assert "hits" in post(address, "query", *data)


def test_oversized_bodies_are_refused_before_reading_them(address: str) -> None:
    request = urllib.request.Request(f"{address}/gradio_api/call/search", data=b"{}", method="POST")
    request.add_unredirected_header("Content-Length", str(10**12))
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request, timeout=PATIENCE)
    assert caught.value.code == 413


@pytest.mark.parametrize(("name", "value"), [("text", 5), ("without", ["red"]), ("gallery", 7)])
def test_error_for_arguments_that_are_not_text(client: Client, name: str, value: object) -> None:
    with pytest.raises(AppError, match=f"{name} must be a text"):
        query(client, **{"text": "red", name: value})


def test_index_files_are_not_served(address: str, icons: Path) -> None:
    for name in ("manifest.json", "chroma.sqlite3", "items.parquet"):
        secret = next(icons.rglob(name))
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(f"{address}/gradio_api/file={secret}", timeout=PATIENCE)


@pytest.mark.endurance
def test_first_start_builds_the_photos_and_then_the_icons(tmp_path: Path, queries: Path) -> None:
    """With nothing but the project: no cache, no index and no network."""
    nothing = {"HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1"}
    log = tmp_path / "app.log"
    with running(log, "--index", str(tmp_path / "index"), **nothing) as address:
        client = Client(address, verbose=False)
        first = search(client, handle_file(str(ROOT / "assets/photos/queries/scissors.jpg")))
        page = json.dumps(client.config)
        wait_until(lambda: "icons" in Indexes(tmp_path / "index").names(), log.read_text)
        second = search(client, handle_file(str(queries / "fox.png")), gallery="icons")
        default = search(client, handle_file(str(queries / "fox.png")))
    assert (first["gallery"], second["gallery"], default["gallery"]) == ("photos", "icons", "photos")
    assert first["model"] == second["model"] == "mini"
    assert len(first["hits"]) == len(second["hits"]) == 10
    for told in (log.read_text(), page):
        assert "is not cached and the Hub is unreachable" in told


@pytest.mark.parametrize("flags", [[], ["--limit", "16"], ["--dataset", "photos"], ["--gallery", "photos"]])
def test_icons_are_built_beside_the_photos_if_no_flag_selects_a_gallery(
    flags: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from retrieval import app

    monkeypatch.setitem(BUNDLED_GALLERIES, "icons", draw_classes(tmp_path / "few", 6))  # all of them take long
    index = copy_index(tmp_path / "index", "--model", "mini", "--dataset", "photos", "--limit", "16")
    searcher = Searcher(Indexes(index))
    builds = Builds(settings_of(index, *flags), searcher.embedder.loaded.load)
    app._build_icons(searcher, builds)
    builds.close()
    searcher.indexes.close()
    assert (builds.last.name if builds.last else None) == (None if flags else "icons")


def test_failure_to_build_the_icons_is_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from retrieval import app

    index = copy_index(tmp_path / "index", "--model", "mini", "--dataset", "photos", "--limit", "16")
    (tmp_path / "empty").mkdir()
    monkeypatch.setitem(BUNDLED_GALLERIES, "icons", tmp_path / "empty")
    searcher = Searcher(Indexes(index))
    builds = Builds(settings_of(index), searcher.embedder.loaded.load)
    app._build_icons(searcher, builds)
    assert builds.last
    builds.last.wait(PATIENCE)
    builds.close()
    searcher.indexes.close()
    assert "icons: The folder" in caplog.text
    assert "contains neither images nor Parquet files" in caplog.text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--dataset", "no/such/folder"], "was not found"),
        (["--dataset", "assets/mini-clip"], "contains neither images nor Parquet files"),
        (["--dataset", "assets/gallery", "--split", "nowhere"], "has no split 'nowhere'"),
        (["--dataset", "assets/gallery", "--image-column", "name"], "contains no images"),
        (["--model", "no/such/folder"], "There is no model folder"),
    ],
)
def test_impossible_start_ends_with_a_message(
    tmp_path: Path, arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from retrieval import app

    assert app.main(["--index", str(tmp_path / "index"), *arguments]) == 2
    printed = capsys.readouterr().err
    assert words in printed
    assert "Traceback" not in printed


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--port", "99999"], "must be a whole number from 0 to 65,535"),
        (["--gallery", "../../outside"], "cannot be the name of a folder"),
        (["--pixel-size", "abc"], "must be a whole number from 1 to 1,024"),
        (["--limit", "0"], "must be a whole number from 1"),
    ],
)
def test_errors_for_invalid_flags(
    flags: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from retrieval import app

    with pytest.raises(SystemExit) as ended:
        app.main(["--index", str(tmp_path), *flags])
    assert ended.value.code == 2
    assert words in capsys.readouterr().err


def test_app_refuses_an_index_of_another_model(icons: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from retrieval import app

    assert app.main(["--index", str(icons), "--model", str(ROOT / "assets" / "mini-clip")]) == 2
    assert "was built with model mini, not" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--gallery", "icons", "--dataset", "assets/screens"], "from the dataset"),
        (["--dataset", "icons", "--limit", "10"], "with limit None, not 10"),
        (["--pixel-size", "8"], "with pixel size 16, not 8"),
    ],
)
def test_app_refuses_an_index_with_other_settings(
    icons: Path, flags: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from retrieval import app

    assert app.main(["--index", str(icons), *flags]) == 2
    assert words in capsys.readouterr().err


@pytest.mark.endurance
@pytest.mark.short
def test_folder_is_indexed_and_served_without_a_writable_home(tmp_path: Path) -> None:
    (tmp_path / "file").touch()  # nobody can create a folder in it, not even root
    unwritable = {name: str(tmp_path / "file" / name) for name in ("HOME", "HF_HOME", "XDG_CACHE_HOME")}
    flags = ["--index", str(tmp_path / "index"), "--dataset", str(draw_classes(tmp_path / "pictures", 8)), "--model"]
    with running(tmp_path / "log", *flags, "mini", **unwritable) as address:
        found = post(
            address, "query", "stripes", None, [], [], "", 0.5, [], [], 1, "clip", "cosine", "chroma", 3, "", None
        )
    assert "event: complete" in found
    assert "Traceback" not in (tmp_path / "log").read_text()
