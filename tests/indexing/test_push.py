"""Publish an index on a Hub on 127.0.0.1 and open it from there, with the real client."""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from retrieval import index_builder
from retrieval.features.base import FeatureIdentity
from retrieval.indexing.pushing import Target, write_repository
from retrieval.settings import PublishedIndex
from retrieval.storage.catalog import Indexes
from retrieval.storage.manifest import publish_manifest, read_manifest
from tests.support.builds import draw_classes
from tests.support.hub_client import RUNS, Client, parse_lines
from tests.support.loopback_hub import COMMIT, WRITE_TOKEN
from tests.support.paths import ROOT
from tests.support.serving import post, running
from tests.support.waiting import wait_until

ADDRESS = "hf://datasets/org/pictures"
PLACE, DRAFT, OWNER = "secret-place", "unfinished-draft", "named-in-a-note"
READS = """
import json, sys
from datasets import config, load_dataset
config.HF_UPDATE_DOWNLOAD_COUNTS = config.USE_PARQUET_EXPORT = False  # these servers are not part of this Hub
rows = load_dataset("org/pictures", split="train")
streamed = list(load_dataset("org/pictures", split="train", streaming=True))
first = rows[0]
assert first["image"].convert("RGB").tobytes() == streamed[0]["image"].convert("RGB").tobytes()
names = ["id", "label", "caption", "width", "height", "clip", "pixels"]
values = {name: list(rows[name]) for name in names}
print(json.dumps({"values": values, "size": first["image"].size, "streamed": len(streamed)}))
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """An index of ten pictures in a folder whose place, skipped file and note must stay private."""
    folder = tmp_path_factory.mktemp(PLACE)
    pictures = draw_classes(folder / "pictures", 10)
    (pictures / "even" / f"{DRAFT}.png").write_bytes(b"not a picture")
    (pictures / "metadata.csv").write_text(f"file_name,caption\neven/000.png,a first caption\n{OWNER}.png,gone\n")
    arguments = ["--dataset", str(pictures), "--model", "mini", "--dtype", "float32"]
    assert index_builder.main(["--index", str(folder / "index"), *arguments]) == 0
    manifest = read_manifest(folder / "index" / "pictures")
    assert DRAFT in manifest.skipped_pictures[0].id  # the control: the manifest knows what must stay private
    assert PLACE in manifest.source.dataset
    return folder / "index"


@pytest.fixture
def client(tmp_path):
    return Client(tmp_path, HF_TOKEN=WRITE_TOKEN, RETRIEVAL_INDEX="")


@pytest.fixture
def push(hub, client, built):
    """Run the builder with `--push`; return its result."""

    def push(*flags, index=built, name="org/pictures"):
        return client(hub.url, "index_builder.py", "--index", str(index), "--push", name, *flags)

    return push


@pytest.fixture
def run(hub, client):
    """Run commands one after the other in one process; return their results."""
    return lambda *commands: parse_lines(client(hub.url, "-c", RUNS, json.dumps(commands)))


def repository(hub, name="org/pictures"):
    return hub.root / "datasets" / name


def imported(found):
    """The one gallery of an opened published index."""
    assert found.error is None, found.error
    return Indexes(Path(found.folder)).get()


def test_published_index_is_read_by_datasets_and_answers_as_the_local_one(hub, client, push, run, built):
    pushed = push("--yes")
    assert pushed.code == 0, pushed.err
    assert pushed.lines[-1] == f"Published. Open it: python app.py --index {ADDRESS}"
    assert "org/pictures" in hub.private
    local = Indexes(built).get()

    [read] = parse_lines(client(hub.url, "-c", READS))
    assert read.streamed == 10
    assert tuple(read.size) == local.picture(0).size
    values = vars(read.values)
    for name in ("id", "label", "caption"):
        assert values[name] == [getattr(local.entry(position), name) for position in range(10)]
    assert "a first caption" in values["caption"]
    for features in ("pixels", "clip"):
        np.testing.assert_array_equal(np.float32(values[features]), local.vectors(features))

    opened, again = client.open(hub.url, ADDRESS, ADDRESS)
    index = imported(opened)
    assert not opened.torch, "no picture was embedded"
    assert [index.entry(i) for i in range(10)] == [local.entry(i) for i in range(10)]
    for position in range(10):
        assert index.thumbnail(position).read_bytes() == local.thumbnail(position).read_bytes()
    for features in ("pixels", "clip"):
        np.testing.assert_array_equal(index.vectors(features), local.vectors(features))
    assert index.manifest.background == local.manifest.background
    assert imported(again).snapshot == index.snapshot, "nothing was imported again"

    search = ["search", str(local.thumbnail(3)), "--json", "--index"]
    here, there, places = run([*search, str(built)], [*search, ADDRESS], ["map", "--index", ADDRESS])
    assert json.loads(there.out)["hits"] == json.loads(here.out)["hits"], there.err
    assert len(places.out.splitlines()) == 11, places.err


def test_only_the_shown_facts_are_published(hub, push):
    shown = push("--yes")
    assert shown.code == 0, shown.err
    text = "\n".join(shown.lines)
    for words in (f"{ADDRESS} will be private", "10 thumbnails", "even/000.png", "captions", "10 labels", "vectors"):
        assert words in text
    files = [path for path in repository(hub).rglob("*") if path.is_file()]
    assert {path.name for path in files} == {"README.md", "manifest.json", "train-00000.parquet"}
    for path in files:
        content = path.read_bytes()
        for private in (PLACE, DRAFT, OWNER, str(ROOT), "/tmp", "tests"):
            assert private.encode() not in content, (path.name, private)


def test_change_is_published_in_one_commit_and_imported_as_a_new_snapshot(hub, client, push, built, tmp_path):
    assert push("--yes").code == 0
    [first] = client.open(hub.url, ADDRESS)
    before, asked = imported(first), len(hub.requests)
    shutil.copytree(built, tmp_path / "index")
    changed = replace(read_manifest(built / "pictures"), gallery="renamed", created="2026-01-01T00:00:00+00:00")
    publish_manifest((tmp_path / "index" / "pictures").rename(tmp_path / "index" / "renamed"), changed)
    (repository(hub) / "data" / "train-00001.parquet").write_bytes(b"of a larger gallery")
    again = push("--yes", index=tmp_path / "index")
    assert again.code == 0, again.err
    assert sum("/commit/main" in request for request in hub.requests[asked:]) == 1
    assert not (repository(hub) / "data" / "train-00001.parquet").exists()
    second, old = client.open(hub.url, ADDRESS, f"{ADDRESS}@{COMMIT}")
    after = imported(second)
    assert after.manifest.created == changed.created
    assert Indexes(Path(second.folder)).names() == ["renamed"]
    assert not before.snapshot.exists(), "the import before is deleted"
    assert COMMIT in old.error


def test_import_is_used_when_the_hub_is_unreachable_and_made_again_when_damaged(hub, client, push):
    assert push("--yes").code == 0
    [opened] = client.open(hub.url, ADDRESS)
    index = imported(opened)
    (index.snapshot / "clip.npy").write_bytes(b"damaged")
    [repaired] = client.open(hub.url, ADDRESS)
    assert imported(repaired).vectors("clip").shape == (10, 512)
    hub.close()
    offline, unknown = client.open(hub.url, ADDRESS, "hf://datasets/org/unknown")
    assert imported(offline).snapshot == imported(repaired).snapshot
    assert "'org/unknown'" in unknown.error
    assert "unreachable" in unknown.error


def test_mounted_copy_is_opened_without_the_hub(hub, client, push, tmp_path):
    assert push("--yes").code == 0
    mounted = shutil.copytree(repository(hub), tmp_path / "mounted")
    hub.close()
    opened, again = client.open(hub.url, str(mounted), f"file://{mounted}")
    assert len(imported(opened)) == 10
    assert imported(again).snapshot == imported(opened).snapshot
    assert sorted(path.name for path in mounted.iterdir()) == ["README.md", "data", "manifest.json"]


@pytest.mark.endurance
@pytest.mark.short
def test_page_answers_while_chromadb_is_filled_and_offers_no_builds(hub, push, tmp_path):
    assert push("--yes").code == 0
    environment = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HF_TOKEN": WRITE_TOKEN}
    log, asked = tmp_path / "log", ("odd", None, [], [], "", 0.5, [], [], 1, "clip", "cosine", "exact", 5, "", None)
    with running(log, "--index", ADDRESS, HF_HUB_OFFLINE="0", **environment) as address:
        answer = post(address, "query", *asked)
        assert len(json.loads(re.findall(r"^data: (.*)$", answer, re.M)[-1])[0]["hits"]) == 5
        wait_until(lambda: "maps of clip, pixels, color by pca are ready" in log.read_text(), log.read_text)
        requests = len(hub.requests)
        assert "complete" in post(address, "query", *asked[:-4], "chroma", 5, "", None)
        assert len(hub.requests) == requests, "a page on which nobody can build asks the Hub for nothing"
    text = log.read_text()
    assert "importing hf://datasets/org/pictures, 10 images" in text
    assert "To build galleries" not in text
    assert (Indexes(tmp_path / "home" / "lookalike" / "org--pictures").get().snapshot / "chroma").is_dir()


def test_published_index_is_read_only(hub, client, push, run):
    assert push("--yes").code == 0
    flags = ["--index", ADDRESS]
    commands = [flags, [*flags, "--prune"], [*flags, "--push", "org/copy", "--yes"], ["info", *flags]]
    *refused, info = run(*commands)
    for each in refused:
        assert each.code == 2
        assert f"`{ADDRESS}`" in each.err
        assert "--index" in each.err
    assert "10" in info.out, info.err
    app = client(hub.url, "app.py", "--index", ADDRESS, "--dataset", "icons")
    assert app.code == 2
    assert "only read" in app.err


def test_public_only_if_asked_for(hub, run, built):
    base, public = ["--index", str(built), "--yes", "--push"], "--public"
    names = [["org/a", public], ["org/a"], ["org/b"], ["org/b", public], ["org/a", public]]
    first, unasked, private, refused, again = run(*([*base, *name] for name in names))
    assert [each.code for each in (first, private, again)] == [0, 0, 0]
    assert hub.private == {"org/b"}
    assert "exists and is public" in unasked.err
    assert "exists and is private" in refused.err
    assert "PUBLIC: everyone can read" in again.out


def test_nothing_is_sent_without_consent(hub, push):
    unasked = push()  # its stdin is not a terminal
    assert unasked.code == 2
    assert "--yes" in unasked.err
    assert not any(request.startswith("POST") for request in hub.requests)


@pytest.mark.skipif(sys.platform == "win32", reason="there are no pseudo-terminals")
@pytest.mark.parametrize(("answer", "sent"), [("n", False), ("", False), ("y", True)])
def test_question_is_asked_at_a_terminal(hub, built, tmp_path, answer, sent):
    terminal, inside = os.openpty()
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HF_TOKEN": WRITE_TOKEN}
    environment.pop("HF_HUB_OFFLINE")
    command = [sys.executable, "index_builder.py", "--index", str(built), "--push", "org/pictures"]
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdin=inside, stdout=subprocess.PIPE, text=True)
    os.write(terminal, f"{answer}\n".encode())
    output, _ = process.communicate(timeout=120)
    os.close(terminal)
    os.close(inside)
    assert "Publish? [y/N]" in output
    assert process.returncode == (0 if sent else 2)
    assert repository(hub).exists() == sent


def test_errors_say_what_to_do(hub, client, push, run, built, tmp_path):
    (repository(hub, "org/other") / "data").mkdir(parents=True)
    (repository(hub, "org/other") / "data" / "train-00000.parquet").write_bytes(b"rows of somebody's dataset")
    base = ["--index", str(built), "--yes", "--push"]
    cases = [
        ([*base, "somebody/pictures"], ["'somebody/pictures'", "hf auth login", "another name"]),
        ([*base, "org/other"], ["'org/other'", "data/train-00000.parquet", "another name"]),
        ([*base, "no id"], ["--push", "'no id'"]),
        ([*base, "org/pictures", "--gallery", "unknown"], ["'unknown'", "pictures"]),
        ([*base, "org/pictures", "--index", str(tmp_path / "nothing")], ["no finished index", "index_builder.py"]),
    ]
    for result, (_, words) in zip(run(*(command for command, _ in cases)), cases, strict=True):
        assert result.code == 2
        for word in words:
            assert word in result.err, result.err
    client.environment.pop("HF_TOKEN")
    assert "hf auth login" in push("--yes").err
    hub.close()
    client.environment["HF_TOKEN"] = WRITE_TOKEN
    assert "unreachable" in push("--yes").err


def test_gallery_of_a_local_model_is_not_published(built, hub, push, tmp_path):
    index = shutil.copytree(built, tmp_path / "index")
    manifest = read_manifest(index / "pictures")
    clip = replace(manifest.features["clip"], name=str(tmp_path / "my-model"))
    publish_manifest(index / "pictures", replace(manifest, features={**manifest.features, "clip": clip}))
    refused = push("--yes", index=index)
    assert refused.code == 2
    assert "'my-model'" in refused.err
    assert "--model mini" in refused.err
    assert str(tmp_path) not in refused.err


@pytest.mark.parametrize(
    ("licences", "flag", "expected"),
    [
        (["MIT", "MIT"], None, "mit"),
        (["CC BY 4.0", "CC BY 4.0"], None, "cc-by-4.0"),
        (["MIT", ""], None, "other"),
        (["Mine", "Mine"], None, "other"),
        (["MIT", "MIT"], "cc0-1.0", "cc0-1.0"),
    ],
)
def test_card_names_the_licence(built, tmp_path, licences, flag, expected):
    index = Indexes(built).get()
    snapshot = shutil.copytree(index.snapshot, tmp_path / "snapshot")
    items = pq.read_table(snapshot / "items.parquet")
    column = pa.array([licences[row % 2] for row in range(len(items))])
    pq.write_table(
        items.set_column(items.schema.get_field_index("license"), "license", column), snapshot / "items.parquet"
    )
    index.snapshot = snapshot
    write_repository(index, Target("org/pictures", license=flag), tmp_path)
    assert re.findall(r"^license: (.*)$", (tmp_path / "README.md").read_text(), re.M) == [expected]


def test_index_flag_takes_addresses():
    from retrieval.settings import _index

    assert _index("hf://datasets/org/name@v1/x") == PublishedIndex("org/name", "v1/x")
    assert _index("some/folder") == Path("some/folder")
    for text in (
        "hf://models/org/name",
        "hf://datasets/name",
        "hf://datasets/../x",
        "hf://datasets/a/b@../c",
        "s3://x",
    ):
        with pytest.raises(Exception, match="must be a folder, hf://datasets/org/name"):
            _index(text)


def test_model_of_an_index_is_not_looked_for_in_local_folders(tmp_path, monkeypatch):
    from retrieval.errors import ModelError
    from retrieval.features import FEATURES

    shutil.copytree(ROOT / "assets" / "mini-clip", tmp_path / "org" / "name", ignore=shutil.ignore_patterns("training"))
    monkeypatch.chdir(tmp_path)
    identity = FeatureIdentity("org/name", COMMIT, "0" * 16, "float32", 512)
    assert FEATURES["clip"].is_portable(identity)
    with pytest.raises(ModelError, match="'org/name' is not on this machine"):
        FEATURES["clip"].restore(identity)
