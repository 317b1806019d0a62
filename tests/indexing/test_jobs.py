"""Builds from the page: permissions, one build at a time, stop and resume, and error messages."""

import argparse
import json
import os
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from retrieval import index_builder, settings
from retrieval.errors import GalleryError, IndexingError, ModelError, RetrievalError
from retrieval.features.base import FeatureOptions, FeatureSet, ModelChoice
from retrieval.features.encoder import CONVOLVED
from retrieval.gallery.opening import check_dataset
from retrieval.gallery.source import GallerySource
from retrieval.indexing.jobs import BuildRunning, Builds, BuildStopped, Phase, Stage
from retrieval.search.searcher import Searcher
from retrieval.settings import Settings, with_flags
from retrieval.storage.catalog import Indexes
from retrieval.ui.page import build_page, launch
from retrieval.ui.serving.health import Health
from retrieval.ui.serving.own_page import COOKIE, TOKEN, WRONG_HOST, address_with_token
from retrieval.ui.tabs.build_form import MODEL_SHOWN, building, on_page
from tests.support.builds import draw_classes
from tests.support.held import PausableModel
from tests.support.serving import post, running
from tests.support.waiting import PATIENCE


def parse_flags(*arguments: str) -> Settings:
    parser = argparse.ArgumentParser()
    settings.add_index_flag(parser)
    settings.add_gallery_flag(parser, "")
    settings.add_build_flags(parser)
    settings.add_serve_flags(parser)
    return settings.parse(parser, list(arguments), {})[1]


def build_settings(index: Path, dataset: Path | str, *more: str) -> Settings:
    return parse_flags("--index", str(index), "--dataset", str(dataset), "--model", "mini", *more)


ELSEWHERE = ("SPACE_ID", "SYSTEM", "GRADIO_SERVER_NAME", "GRADIO_SHARE", "GRADIO_ROOT_PATH")


@pytest.fixture(autouse=True)
def without_space_or_share(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ELSEWHERE:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("flags", "environment", "own"),
    [
        ([], {}, True),
        (["--host", "127.0.0.1"], {}, True),
        (["--host", "localhost"], {}, True),
        (["--host", "::1"], {}, True),
        (["--host", "127.0.0.1"], {"GRADIO_SERVER_NAME": "0.0.0.0"}, True),  # gradio takes the flag
        ([], {"GRADIO_SERVER_NAME": "localhost", "GRADIO_SHARE": "False", "SYSTEM": "linux"}, True),
        (["--host", "0.0.0.0"], {}, False),
        (["--host", "::"], {}, False),
        (["--host", ""], {}, False),
        (["--host", "192.168.0.2"], {}, False),
        (["--host", "localhost.example.com"], {}, False),
        ([], {"GRADIO_SERVER_NAME": "0.0.0.0"}, False),
        ([], {"GRADIO_SERVER_NAME": ""}, False),  # for gradio this means all interfaces
        (["--share"], {}, False),
        ([], {"GRADIO_SHARE": "True"}, False),
        ([], {"GRADIO_ROOT_PATH": "/lookalike"}, False),
        ([], {"SPACE_ID": "somebody/lookalike"}, False),
        ([], {"SPACE_ID": ""}, False),
        (["--host", "127.0.0.1"], {"SYSTEM": "spaces"}, False),
    ],
)
def test_own_machine_means_loopback_without_share_link_space_or_proxy(
    monkeypatch: pytest.MonkeyPatch, flags: list[str], environment: dict[str, str], own: bool
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert parse_flags(*flags).own_machine is own


def test_nobody_builds_into_a_published_index() -> None:
    published = parse_flags("--index", "hf://datasets/org/name")
    assert published.own_machine
    assert not published.may_build
    assert parse_flags("--index", "somewhere").may_build


def test_fields_are_parsed_like_flags() -> None:
    base = parse_flags("--index", "somewhere", "--pixel-size", "16")
    given = {"dataset": "~/pictures", "limit": "20", "image_column": "-x", "gallery": "mine", "model": "mini"}
    flags = [f"--{name.replace('_', '-')}={text}" for name, text in given.items()]
    assert with_flags(base, given) == parse_flags("--index", "somewhere", "--pixel-size", "16", *flags)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("limit", "0", "“Limit”: must be a whole number from 1 to 1,000,000,000,000, not '0'."),
        ("limit", "1.5", "must be a whole number"),
        ("limit", "many", "must be a whole number"),
        ("gallery", "../outside", "“Gallery name”: '../outside' cannot be the name of a folder"),
        ("gallery", ".hidden", "cannot be the name of a folder"),
    ],
)
def test_errors_of_fields_name_the_field(name: str, text: str, said: str) -> None:
    with pytest.raises(RetrievalError) as error:
        with_flags(parse_flags(), {name: text})
    assert said in on_page(str(error.value))


def test_commands_in_errors_are_not_translated() -> None:
    command = "Build it again: python index_builder.py --gallery x --rebuild"
    assert on_page(command) == command
    assert on_page("Choose another name with --gallery.") == "Choose another name with “Gallery name”."


@pytest.mark.parametrize(
    ("dataset", "said"),
    [
        ("http://127.0.0.1/pictures.parquet", "is a URL"),
        ("https://example.com/x/y", "is a URL"),
        ("hf://datasets/a/b", "is a URL"),
        ("file:///etc", "is a URL"),
        ("/no/such/folder", "no such file or folder"),
        ("~nobody-of-this-name/x", "no such file or folder"),
        ("/" + "x" * 5000, "no such file or folder"),
        ("/half \ud800 a character", "no such file or folder"),
        (__file__, "is not a Parquet file"),
        ("EMPTY", "contains neither images nor Parquet files"),
    ],
)
def test_invalid_datasets_are_reported_immediately(tmp_path: Path, dataset: str, said: str) -> None:
    with pytest.raises(GalleryError, match=said):
        check_dataset(GallerySource(str(tmp_path) if dataset == "EMPTY" else dataset))


def test_code_of_a_dataset_is_not_run(tmp_path: Path) -> None:
    folder = tmp_path / "scripted"
    folder.mkdir()
    (folder / "scripted.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    (folder / "x.parquet").write_bytes(b"no parquet")
    builds = Builds(parse_flags("--index", str(tmp_path / "index")))
    with pytest.raises(GalleryError):
        builds.start(build_settings(tmp_path / "index", folder)).outcome(PATIENCE)
    assert not (tmp_path / "ran").exists()


def test_rate_and_time_left_count_only_this_run() -> None:
    stage = Stage(Phase.PICTURES, since=100.0, before=64, done=128, total=256, at=104.0)
    assert (stage.rate, stage.left) == (16.0, 8.0)
    assert building("x", stage, 106.0, False) == (
        "x: 128 of 256 images · 64 from an earlier run · 16.0 images/s · 6 s left"
    )
    unknown = Stage(Phase.PICTURES, since=100.0, done=128, at=104.0)
    assert unknown.left is None
    assert building("x", unknown, 106.0, False) == "x: 128 images · 32.0 images/s"
    assert building("x", Stage(Phase.OPENING, since=100.0), 175.0, False).endswith("1 min 15 s")
    assert "stopping" in building("x", stage, 106.0, True)


def test_build_stops_after_the_current_batch_and_resumes(tmp_path: Path) -> None:
    dataset, index = draw_classes(tmp_path / "pictures", 200), tmp_path / "index"
    threads = set(threading.enumerate())
    held = PausableModel(free_passes=64 // CONVOLVED)
    builds = Builds(parse_flags("--index", str(index)), held.load)
    # With one thread, since several could take the batches in another order, and pause an earlier one.
    build = builds.start(build_settings(index, dataset, "--workers", "1"))
    assert held.reached.wait(PATIENCE)
    while build.stage.done < 64 and build.running:  # counted by a thread that is not paused
        time.sleep(0.01)  # polling another thread
    assert (build.stage.done, build.stage.total) == (64, 200)
    assert builds.running is build

    with pytest.raises(BuildRunning, match=r"'pictures' is being built, and only one is built at a time"):
        builds.start(build_settings(index, dataset, "--gallery", "another"))
    build.stop()
    assert build.stopping
    held.resume.set()
    with pytest.raises(BuildStopped):
        build.outcome(PATIENCE)
    assert builds.running is None
    assert build.stage.done < 200, "it did not stop at the next batch"
    assert not Indexes(index).names()
    left = {thread for thread in threading.enumerate() if thread.name.startswith(("embed", "build"))}
    assert left <= threads, "threads of the stopped build still run"

    outcome = builds.start(build_settings(index, dataset)).outcome(PATIENCE)
    assert outcome.manifest.pictures == 200
    assert outcome.manifest.changes.embedded + outcome.manifest.changes.reused == 200
    assert outcome.manifest.changes.reused >= 64
    assert Indexes(index).get("pictures").classes == ["even", "odd"]

    assert index_builder.main(["--index", str(index), "--dataset", str(dataset), "--model", "mini"]) == 0
    assert builds.start(build_settings(index, dataset)).outcome(PATIENCE).already_done


def test_closing_stops_a_build(tmp_path: Path) -> None:
    held = PausableModel(free_passes=1)
    builds = Builds(parse_flags("--index", str(tmp_path)), held.load)
    build = builds.start(build_settings(tmp_path / "index", draw_classes(tmp_path / "pictures", 70)))
    assert held.reached.wait(PATIENCE)
    held.resume.set()
    builds.close()
    assert not build.running
    with pytest.raises(BuildStopped):
        build.outcome()


def test_failures_are_raised_and_do_not_block_the_next_build(tmp_path: Path) -> None:
    dataset, index = draw_classes(tmp_path / "pictures", 4), tmp_path / "index"
    builds = Builds(parse_flags("--index", str(index)))
    with pytest.raises(GalleryError, match="no column 'nowhere'"):
        builds.start(build_settings(index, dataset, "--image-column", "nowhere")).outcome(PATIENCE)
    with pytest.raises(ModelError, match="There is no model folder"):
        builds.start(build_settings(index, dataset, "--model", "/no/model")).outcome(PATIENCE)
    assert builds.start(build_settings(index, dataset)).outcome(PATIENCE).manifest.pictures == 4
    other = draw_classes(tmp_path / "other", 2)
    with pytest.raises(IndexingError, match="`--gallery`, or replace the gallery with `--rebuild`"):
        builds.start(build_settings(index, other, "--gallery", "pictures")).outcome(PATIENCE)
    replaced = builds.start(build_settings(index, other, "--gallery", "pictures"), rebuild=True).outcome(PATIENCE)
    assert replaced.manifest.pictures == 2


def test_unexpected_errors_are_logged_but_not_shown(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def fail(name: str, options: FeatureOptions, choice: ModelChoice | None) -> FeatureSet:
        raise ZeroDivisionError("secret")

    build = Builds(parse_flags(), fail).start(
        build_settings(tmp_path / "index", draw_classes(tmp_path / "pictures", 1))
    )
    with pytest.raises(RetrievalError, match="Something went wrong") as error:
        build.outcome(PATIENCE)
    assert "secret" not in str(error.value)
    assert "ZeroDivisionError" in caplog.text


def test_model_in_use_is_not_loaded_again(tmp_path: Path) -> None:
    index = tmp_path / "index"
    searcher = Searcher(Indexes(index))
    loaded = searcher.embedder.loaded
    builds = Builds(parse_flags("--index", str(index)), loaded.load)
    manifest = builds.start(build_settings(index, draw_classes(tmp_path / "one", 2))).outcome(PATIENCE).manifest
    built_with = loaded.get("clip", manifest.model)
    builds.start(build_settings(index, draw_classes(tmp_path / "two", 3))).outcome(PATIENCE)
    assert loaded.get("clip", Indexes(index).get("two").manifest.model) is built_with


@pytest.fixture
def served_builds(small: Path, without_space_or_share: None) -> Iterator[tuple[str, Builds]]:
    """The address of a served page that can build, and its builds."""
    with serving_builds(small) as served:
        yield served


@pytest.fixture(scope="module")
def guarded(small: Path) -> Iterator[tuple[str, Builds]]:
    """The same for tests whose calls are all refused."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ELSEWHERE:
            patch.delenv(name, raising=False)
        with serving_builds(small) as served:
            yield served


@contextmanager
def serving_builds(small: Path) -> Iterator[tuple[str, Builds]]:
    chosen = parse_flags("--index", str(small), "--host", "127.0.0.1")
    assert chosen.own_machine
    searcher = Searcher(Indexes(small))
    builds = Builds(chosen, searcher.embedder.loaded.load)
    page = build_page(searcher, "about", builds)
    launch(page, chosen, Health(searcher))
    yield str(page.local_url).rstrip("/"), builds
    builds.close()
    page.close()
    searcher.indexes.close()


def dependencies(address: str) -> list[dict[str, Any]]:
    with urllib.request.urlopen(f"{address}/config", timeout=PATIENCE) as reply:
        return list(json.load(reply)["dependencies"])


def call(address: str, name: str, data: list[Any], **headers: str) -> str:
    """Call an endpoint with the given headers; return the text of its events, or "refused"."""
    url = f"{address}/gradio_api/call/{name}"
    asking = {"Content-Type": "application/json", "Cookie": f"{COOKIE}={TOKEN}"}
    asking |= {key.replace("_", "-"): value for key, value in headers.items()}
    try:
        with urllib.request.urlopen(
            urllib.request.Request(url, json.dumps({"data": data}).encode(), asking), timeout=PATIENCE
        ) as reply:
            event = json.load(reply)["event_id"]
    except urllib.error.HTTPError as error:
        return f"refused: {error.code}"
    with urllib.request.urlopen(f"{url}/{event}", timeout=PATIENCE) as reply:
        return str(reply.read().decode())


def fields(dataset: Path, gallery: str) -> list[Any]:
    return ["first", False, False, str(dataset), gallery, "", MODEL_SHOWN, *[""] * 6, "folder"]


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "http://evil.example", "Content_Type": "text/plain"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},  # another program's page on this machine
        {"Origin": "http://["},
        {"Host": "evil.example", "Origin": "http://evil.example"},  # DNS rebinding: the name resolves to this machine
        {"Host": "evil.example"},
        {"Host": "127.0.0.1.evil.example:7860"},
        {"Host": "["},
        {"X_Forwarded_For": "203.0.113.5"},
        {"Forwarded": "for=203.0.113.5"},
        {"Via": "1.1 proxy"},
        {"CF_Connecting_IP": "203.0.113.5"},
        {"X_Forwarded_Proto": "https"},
        {"True_Client_IP": "203.0.113.5"},
        {"Cookie": ""},  # a forwarder that sends no other header
        {"Cookie": f"{COOKIE}=guessed"},
    ],
)
def test_another_website_cannot_build(
    guarded: tuple[str, Builds], tmp_path: Path, small: Path, headers: dict[str, str]
) -> None:
    address, builds = guarded
    answer = call(address, "start", fields(draw_classes(tmp_path / "pictures", 2), "stolen"), **headers)
    assert any(refusal in answer for refusal in ("changed from this page", "address with a token", "refused"))
    asked = {"cancel": [], "check": [str(tmp_path)], "arrive": [], "show_galleries": ["first"], "open": ["first"]}
    changes = {"rename": ["first", "stolen", "first"], "ask": ["first"], "delete": ["first", "first"]}
    for name, data in (asked | changes).items():
        answer = call(address, name, data, **headers)
        assert str(tmp_path) not in answer
        assert str(small.parent) not in answer
    assert builds.last is None
    assert Indexes(small).names() == ["first"]


@pytest.mark.parametrize("host", ["evil.example", "evil.example:7860", "127.0.0.1.evil.example", "[", "192.168.0.7"])
@pytest.mark.parametrize("path", ["/", "/config", "/gradio_api/info", "/health", "/gradio_api/call/query/x"])
def test_websites_with_a_name_that_points_here_read_nothing(guarded: tuple[str, Builds], host: str, path: str) -> None:
    answer = httpx.get(guarded[0] + path, headers={"Host": host}, timeout=PATIENCE)
    assert (answer.status_code, answer.text) == (403, WRONG_HOST)


def test_token_is_exchanged_for_a_cookie(served_builds: tuple[str, Builds]) -> None:
    address = address_with_token(f"{served_builds[0]}/?metric=l1")
    answer = httpx.get(address, timeout=PATIENCE)
    assert (answer.status_code, answer.headers["location"]) == (303, f"{served_builds[0]}/?metric=l1")
    assert answer.cookies[COOKIE] == TOKEN
    assert {"HttpOnly", "SameSite=strict"} <= set(answer.headers["set-cookie"].split("; "))
    assert COOKIE not in httpx.get(f"{served_builds[0]}/?token=guessed", timeout=PATIENCE).cookies


@pytest.mark.parametrize("named", [True, False])
def test_page_can_build(served_builds: tuple[str, Builds], tmp_path: Path, small: Path, named: bool) -> None:
    """The control for the refusals above: the same call succeeds from the page."""
    address, builds = served_builds
    headers = {"Origin": address} if named else {}
    answer = call(address, "start", fields(draw_classes(tmp_path / "pictures", 3), f"mine-{named}"), **headers)
    assert "event: complete" in answer
    build = builds.last
    assert build is not None
    assert build.outcome(PATIENCE).manifest.pictures == 3
    assert build.outcome().manifest.model == Indexes(small).get("first").manifest.model
    assert str(tmp_path / "pictures") in call(address, "show_galleries", ["first"], **headers)


@pytest.mark.parametrize("junk", [None, 5, ["x"], {"path": "/etc"}, "\ud800", "a\0b", "<img src=x>"])
def test_invalid_field_values_build_nothing(served_builds: tuple[str, Builds], small: Path, junk: Any) -> None:
    address, builds = served_builds
    call(address, "start", ["first", False, False, junk, junk, junk, MODEL_SHOWN, *[junk] * 6, "top"])
    if builds.last:
        with pytest.raises(RetrievalError):
            builds.last.outcome(PATIENCE)
    assert "first" in Indexes(small).names()
    assert "event: complete" in call(address, "show_galleries", ["first"])


@pytest.mark.parametrize(
    "environment",
    [
        {"SPACE_ID": "somebody/lookalike"},
        pytest.param({"SYSTEM": "spaces"}, marks=[pytest.mark.endurance, pytest.mark.short]),
    ],
)
def test_builds_are_impossible_on_a_space(small: Path, tmp_path: Path, environment: dict[str, str]) -> None:
    dataset = draw_classes(tmp_path / "pictures", 2)
    before = Indexes(small).names()
    with running(tmp_path / "app.log", "--index", str(small), **environment) as address:
        with urllib.request.urlopen(f"{address}/config", timeout=PATIENCE) as reply:
            components = json.load(reply)["components"]
        names = [str(each["props"].get("elem_id")) for each in components]
        assert "query" in names
        assert not [name for name in names if name.startswith("build_")]
        found = dependencies(address)
        assert not {each["api_name"] for each in found} & {"start", "check", "tick", "arrive", "show_galleries"}
        for each in found:
            if each["api_name"]:
                post(address, each["api_name"], *[str(dataset)] * len(each["inputs"]))
        assert "refused" in call(address, "start", fields(dataset, "stolen"))
    assert Indexes(small).names() == before
    assert not os.path.lexists(small / "pictures")
