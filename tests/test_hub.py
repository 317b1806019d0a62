"""Models and datasets from a Hub on 127.0.0.1 with the real client: downloads, cache, errors and timeouts."""

import io
import json
import re
import shutil

import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from retrieval.features.encoder import ClipEncoder
from retrieval.features.models import AUTO_MODEL, choose_model
from retrieval.storage.catalog import Indexes
from tests.support.hub_client import CHOICES, RUNS, make_clip, make_pictures, parse_lines
from tests.support.loopback_hub import COMMIT, LoopbackHub, commit_of

CONFIGS = """---
configs:
- config_name: one
  data_files: some/train-*
- config_name: two
  data_files: some/test-*
---
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """The folder that the Hub serves."""
    root = tmp_path_factory.mktemp("hub")
    make_clip(root / "models" / "org" / "clip")
    old = root / "models" / "org" / "old-clip"
    torch.save(make_clip(old).state_dict(), old / "pytorch_model.bin")
    (old / "model.safetensors").unlink()
    make_pictures(root / "datasets" / "org" / "pictures" / "data")
    make_pictures(root / "datasets" / "org" / "configured" / "some")
    (root / "datasets" / "org" / "configured" / "README.md").write_text(CONFIGS)
    for label in ("cat", "dog"):
        (root / "datasets" / "org" / "folder" / label).mkdir(parents=True)
        colour = "red" if label == "cat" else "blue"
        Image.new("RGB", (20, 20), colour).save(root / "datasets" / "org" / "folder" / label / "1.png")
    for kind in ("models", "datasets"):
        (root / kind / "org" / "empty").mkdir()
        (root / kind / "org" / "empty" / "README.md").write_text("nothing here")
    return root


@pytest.fixture
def hub(root):
    with LoopbackHub(root) as hub:
        yield hub


def test_model_and_dataset_are_downloaded_once_and_then_work_offline(hub, client, tmp_path):
    def flags(index, model, dataset, *more):
        return ["--index", str(tmp_path / index), "--model", model, "--dataset", dataset, *more]

    first = flags("train", "org/clip", "org/pictures")
    second = ["org/old-clip", "org/pictures", "--split", "test"]
    configured = ["org/clip", "org/configured", "--config", "two"]
    runs = [first, flags("test", *second, "--streaming"), flags("configured", *configured)]
    for run in parse_lines(client(hub.url, "-c", RUNS, json.dumps(runs))):
        assert run.code == 0, run.err
        assert "HTTP" not in run.err
    assert f"GET /org/clip/resolve/{COMMIT}/model.safetensors" in hub.requests
    assert f"GET /org/old-clip/resolve/{COMMIT}/pytorch_model.bin" in hub.requests
    assert not any("discussions" in request for request in hub.requests)  # no request to convert the weights
    train, test = (Indexes(tmp_path / name).get() for name in ("train", "test"))
    assert train.manifest.gallery == "org--pictures"
    assert (train.manifest.model.name, train.manifest.model.revision) == ("org/clip", COMMIT)
    assert (len(train), train.labels[:2]) == (12, ["dark", "light"])
    assert [train.entry(i).caption for i in (0, 11)] == ["train-0-0", "train-2-3"]
    assert [test.entry(i).caption for i in (0, 7)] == ["test-0-0", "test-1-3"]
    assert test.vectors("clip").shape == (8, 8)

    hub.close()  # from here on, connections are refused
    search = ["search", str(train.thumbnail(5)), "--index", str(tmp_path / "train"), "--json"]
    runs = [first, flags("test again", *second), flags("configured again", *configured), search]
    again, other, configured, search = parse_lines(client(hub.url, "-c", RUNS, json.dumps(runs)))
    assert "nothing to do, 12 images" in again.out, again.err
    assert "8 images indexed" in other.out, other.err
    assert "because it is in the local cache" in other.err
    assert "Using the cached copy of org/pictures" in again.err
    assert "8 images indexed" in configured.out, configured.err
    assert json.loads(search.out)["model"] == "org/clip"
    for choice in parse_lines(client(hub.url, "-c", CHOICES, json.dumps(["org/clip", "org/old-clip"]))):
        assert choice.revision == COMMIT
        print(f"{choice.name} found in the cache in {choice.seconds:.2f} s")
        encoder = ClipEncoder(choose_model(choice.folder))
        assert encoder.embed_texts(["a cat", "dogs"]).shape == (2, 8)  # the tokenizer was downloaded, too


@pytest.mark.endurance
def test_image_folder_on_the_hub_mapped_and_streamed(hub, client, tmp_path):
    flags = ["--model", "mini", "--dataset", "org/folder", "--pixel-size", "1"]
    runs = [
        ["--index", str(tmp_path / "mapped"), *flags],
        ["--index", str(tmp_path / "streamed"), *flags, "--streaming"],
    ]
    for run, name in zip(
        parse_lines(client(hub.url, "-c", RUNS, json.dumps(runs))), ("mapped", "streamed"), strict=True
    ):
        assert run.code == 0, run.err
        index = Indexes(tmp_path / name).get()
        assert index.vectors("pixels").tolist() == [[1, 0, 0], [0, 0, 1]]


def test_errors_of_the_hub_say_what_to_do(hub, client, tmp_path):
    hub.refusals = {"org/broken": 503}
    hub.gated = {"org/gated": "hf_secret"}
    common = ["--index", str(tmp_path / "index"), "--limit", "4"]
    pictures = [*common, "--dataset", "org/pictures", "--model"]
    cases = [
        ([*common, "--model", "mini", "--dataset", "org/nothing"], ["'org/nothing'", "spelling", "hf auth login"]),
        ([*common, "--model", "mini", "--dataset", "org/gated"], ["'org/gated'", "accept its terms", "hf auth login"]),
        ([*common, "--model", "mini", "--dataset", "org/broken"], ["'org/broken'", "503", "Try again later"]),
        ([*common, "--model", "mini", "--dataset", "org/empty"], ["'org/empty'"]),
        ([*common, "--model", "mini", "--dataset", "not an id"], ["'not an id'", "spelling"]),
        ([*pictures, "mini", "--revision", "v9"], ["'org/pictures'", "'v9'", "--revision"]),
        ([*pictures, "org/nothing"], ["'org/nothing'", "spelling", "--model mini"]),
        ([*pictures, "org/gated"], ["'org/gated'", "accept its terms", "hf auth login", "--model mini"]),
        ([*pictures, "org/broken"], ["'org/broken'", "503", "Try again later", "--model mini"]),
        ([*pictures, "org/empty"], ["'org/empty'", "no weights", "--model mini"]),
        ([*pictures, "org/clip", "--model-revision", "v9"], ["'org/clip'", "'v9'", "--model-revision"]),
    ]
    results = parse_lines(client(hub.url, "-c", RUNS, json.dumps([arguments for arguments, _ in cases])))
    for (arguments, expected), result in zip(cases, results, strict=True):
        assert result.code == 2, arguments
        assert "Traceback" not in result.err
        message = [line for line in result.err.splitlines() if line.startswith("error: ")]
        assert len(message) == 1, result.err
        for word in expected:
            assert word in message[0]
    assert not Indexes(tmp_path / "index").names()


@pytest.mark.parametrize("fault", ["silent", "refusing", "failing"])
def test_only_auto_falls_back_to_the_bundled_model_within_the_timeout(hub, client, fault):
    hub.silent = fault == "silent"
    hub.refusals = {AUTO_MODEL: 503, "org/clip": 503} if fault == "failing" else {}
    if fault == "refusing":
        hub.close()
    auto, named = parse_lines(client(hub.url, "-c", CHOICES, json.dumps(["auto", "org/clip"])))
    assert auto.name == "mini"
    assert AUTO_MODEL in auto.why
    assert named.name is None
    assert "'org/clip'" in named.why
    assert "--model mini" in named.why
    assert len(hub.requests) <= 2, "each model is requested once, with a timeout of `hub.WAIT` seconds"
    assert max(auto.seconds, named.seconds) < 60
    print(f"Hub {fault}: auto chose in {auto.seconds:.2f} s, the named model was refused in {named.seconds:.2f} s")


@pytest.mark.endurance
def test_folder_is_built_offline_with_the_bundled_model(hub, client, tmp_path):
    hub.close()
    (tmp_path / "pictures").mkdir()
    for shade in range(3):
        Image.new("RGB", (30, 30), (80 * shade, 0, 0)).save(tmp_path / "pictures" / f"{shade}.png")
    command = ["index_builder.py", "--index", str(tmp_path / "index"), "--dataset", str(tmp_path / "pictures")]
    built = client(hub.url, *command)
    assert built.code == 0, built.err
    assert f"model: mini, because {AUTO_MODEL} is not cached and" in built.err
    assert "3 images indexed" in built.lines[0]
    refused = client(hub.url, *command, "--model", "org/clip")
    assert refused.code == 2
    assert "error: Model 'org/clip'" in refused.err
    assert Indexes(tmp_path / "index").get().manifest.model.name == "mini"


def png_of_one_colour(colour):
    file = io.BytesIO()
    Image.new("RGB", (20, 20), colour).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def unusual_datasets(root):
    """Datasets that the library `datasets` misreads, or reports with unclear errors; return their folder."""
    folder = root / "datasets" / "org"
    for number, label in enumerate(["cat", "bullet_train", "test_tube"]):
        for picture in range(2):
            for name in (f"classes/{label}", f"splits/train/{label}", f"splits/test/{label}"):
                (folder / name).mkdir(parents=True, exist_ok=True)
                (folder / name / f"{picture}.png").write_bytes(png_of_one_colour((number * 50, picture * 50, 9)))
    shutil.rmtree(folder / "splits" / "test" / "cat")
    shutil.make_archive(str(folder / "zipped" / "pictures"), "zip", folder / "classes")
    shards = root / "datasets" / "org" / "pictures" / "data"
    rows = pq.read_table(shards / "train-00000-of-00003.parquet")
    (folder / "no-rows").mkdir()
    pq.write_table(rows.slice(0, 0), folder / "no-rows" / "train.parquet")
    (folder / "script").mkdir()
    (folder / "script" / "script.py").write_text("raise SystemExit('ran')")
    return folder


def test_unusual_datasets_are_read_completely_or_refused_with_a_message(unusual_datasets, hub, client):
    labels = ["bullet_train", "cat", "test_tube"]
    cases = [  # name, other arguments, number of pictures, and the labels or the message
        ("classes", {}, 6, labels),
        ("classes", {"streaming": True}, 6, labels),
        ("splits", {}, 6, labels),
        ("splits", {"split": "test"}, 4, ["bullet_train", "test_tube"]),
        ("splits", {"split": "test", "streaming": True}, 4, ["bullet_train", "test_tube"]),
        ("zipped", {}, None, "archive.*unpack the archive, and name the folder"),
        ("no-rows", {}, None, "no rows.*Choose another `--split`"),
        ("no-rows", {"streaming": True}, None, "no rows.*Choose another `--split`"),
        ("script", {}, None, "never run.*--revision"),
    ]
    wanted = [{"dataset": f"org/{name}", **more} for name, more, *_ in cases]
    for (name, _, count, said), found in zip(cases, client.fetch(hub.url, *wanted), strict=True):
        if count is None:
            assert f"'org/{name}'" in found.error or f"org/{name} " in found.error
            assert re.search(said, found.error)
        else:
            assert (found.error, found.pictures, found.labels) == (None, count, said)
    hub.close()
    alone = client.fetch(hub.url, *wanted[:1], {"dataset": "org/splits", "revision": "main", "split": "test"})
    assert [(found.pictures, found.commit) for found in alone] == [(6, COMMIT), (4, COMMIT)]


def test_cached_revisions_stay_the_same_offline(root, hub, client, tmp_path):
    model, pictures = tmp_path / "model-v1", tmp_path / "pictures-v1"
    shutil.copytree(root / "models" / "org" / "clip", model)
    (pictures / "data").mkdir(parents=True)
    shutil.copy(root / "datasets" / "org" / "pictures" / "data" / "train-00001-of-00003.parquet", pictures / "data")
    hub.revisions = {("org/clip", "v1"): model, ("org/pictures", "v1"): pictures}
    for folder, name in ((model, "org/clip"), (pictures, "org/pictures")):
        hub.revisions[name, commit_of(folder)] = folder
    older = [
        {"model": "org/clip", "revision": "v1"},
        {"dataset": "org/pictures", "revision": "v1"},
    ]
    newer = [{"model": "org/clip"}, {"dataset": "org/pictures", "revision": "main"}]
    unknown = [{"model": "org/clip", "revision": "v9"}, {"dataset": "org/pictures", "revision": "v9"}]
    *found, refused_model, refused_pictures = client.fetch(hub.url, *older, *newer, *unknown)
    assert [each.commit for each in found] == [commit_of(model), commit_of(pictures), COMMIT, COMMIT]
    assert [each.pictures for each in found[1::2]] == [4, 12]
    for refused, words in ((refused_model, "'org/clip'.*'v9'.*--model-rev"), (refused_pictures, "'v9'.*--revision")):
        assert re.search(words, refused.error)

    hub.close()
    exactly = [{"dataset": "org/pictures", "revision": COMMIT}]
    *alone, no_model, no_pictures = client.fetch(hub.url, *older[:1], *newer, *exactly, *unknown)
    assert [each.error for each in alone] == [None] * 4
    assert [each.commit for each in alone] == [commit_of(model), COMMIT, COMMIT, COMMIT]
    assert [each.pictures for each in alone[2:]] == [12, 12]
    for refused, name in ((no_model, "org/clip"), (no_pictures, "org/pictures")):
        assert f"'{name}' is not on this machine" in refused.error
