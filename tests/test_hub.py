"""Models and data sets from a Hub on 127.0.0.1, by the real client: fetched, cached, refused, in silence."""

import io
import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT
from datasets import ClassLabel, Dataset
from datasets import Features as Columns
from datasets import Image as Picture
from loopback_hub import COMMIT, LoopbackHub
from PIL import Image
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

from retrieval.features import Features
from retrieval.features.choice import AUTO_MODEL, choose_model
from retrieval.features.clip import ClipEncoder
from retrieval.indexes import Indexes

# Placed in the way of every connection of the processes below.
GUARD = """
import os, sys
def only_loopback(event, arguments):
    host = arguments[0] if event == "socket.getaddrinfo" else None
    if event == "socket.connect" and isinstance(arguments[1], tuple):
        host = arguments[1][0]
    if host not in (None, "127.0.0.1", "localhost"):
        with open(os.environ["FOREIGN_HOSTS"], "a") as file:
            print(host, file=file)
        raise PermissionError(host)
sys.addaudithook(only_loopback)
"""
RUNS = """
import contextlib, io, json, sys, index_builder
from retrieval import cli
for arguments in json.loads(sys.argv[1]):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = (cli if arguments[0] == "search" else index_builder).main(arguments)
    print(json.dumps({"code": code, "out": out.getvalue(), "err": err.getvalue()}))
"""
CHOICES = """
import json, sys, time
from retrieval import errors, hub
from retrieval.features.choice import choose_model
hub.bound_access()
for name in json.loads(sys.argv[1]):
    started = time.perf_counter()
    try:
        choice = choose_model(name)
        answer = {"name": choice.name, "revision": choice.revision, "why": choice.reason, "folder": str(choice.folder)}
    except errors.ModelError as error:
        answer = {"name": None, "why": str(error)}
    print(json.dumps({**answer, "seconds": time.perf_counter() - started}))
"""

CONFIGS = """---
configs:
- config_name: one
  data_files: some/train-*
- config_name: two
  data_files: some/test-*
---
"""


def make_clip(folder):
    """Save a tiny CLIP with a byte-pair tokenizer that knows the word cat."""
    letters = [chr(code) for code in range(33, 127)]
    words = [*letters, *(f"{letter}</w>" for letter in letters), "ca", "cat</w>", "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {word: number for number, word in enumerate(words)}
    side = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    ends = {"bos_token_id": len(words) - 2, "eos_token_id": len(words) - 1, "pad_token_id": len(words) - 1}
    config = CLIPConfig(
        text_config={**side, **ends, "vocab_size": len(words), "max_position_embeddings": 16},
        vision_config={**side, "image_size": 32, "patch_size": 16},
        projection_dim=8,
    )
    torch.manual_seed(0)
    model = CLIPModel(config)
    model.save_pretrained(folder)
    CLIPTokenizer(vocab=vocabulary, merges=[("c", "a"), ("ca", "t</w>")]).save_pretrained(folder)
    sizes = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    CLIPImageProcessorPil(**sizes).save_pretrained(folder)
    return model


def make_pictures(folder):
    """Save a data set of parquet shards: 12 pictures in `train`, 8 in `test`."""
    folder.mkdir(parents=True)
    columns = Columns({"image": Picture(), "label": ClassLabel(names=["dark", "light"])})
    for split, shards in (("train", 3), ("test", 2)):
        for shard in range(shards):
            rows = {"image": [], "label": [0, 1, 0, 1]}
            for number in range(4):
                file = io.BytesIO()
                Image.new("RGB", (20, 20), (60 * number, 50 * shard, 9)).save(file, "PNG")
                rows["image"].append({"bytes": file.getvalue(), "path": f"{split}-{shard}-{number}.png"})
            name = f"{split}-{shard:05}-of-{shards:05}.parquet"
            Dataset.from_dict(rows, features=columns).to_parquet(folder / name)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """What the Hub serves."""
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


@pytest.fixture
def client(tmp_path):
    """Start a process that takes an address for the Hub; give its exit code, lines and errors."""
    (tmp_path / "guard").mkdir()
    (tmp_path / "guard" / "sitecustomize.py").write_text(GUARD)

    def client(address, *command):
        foreign = tmp_path / "foreign-hosts"
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "RETRIEVAL_"))}
        done = subprocess.run(
            [sys.executable, *command],
            cwd=ROOT,
            env={
                **inherited,
                "HF_ENDPOINT": address,
                "HF_HOME": str(tmp_path / "home"),
                "PYTHONPATH": os.pathsep.join([str(tmp_path / "guard"), str(ROOT)]),
                "FOREIGN_HOSTS": str(foreign),
            },
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert not foreign.exists(), foreign.read_text()
        return SimpleNamespace(code=done.returncode, lines=done.stdout.splitlines(), err=done.stderr)

    return client


def answers(result):
    """What a process printed, one JSON value a line."""
    assert result.code == 0, result.err
    return [json.loads(line, object_hook=lambda value: SimpleNamespace(**value)) for line in result.lines]


def test_model_and_data_set_are_fetched_once_and_then_need_no_hub(hub, client, tmp_path):
    def flags(index, model, dataset, *more):
        return ["--index", str(tmp_path / index), "--model", model, "--dataset", dataset, *more]

    first = flags("train", "org/clip", "org/pictures")
    second = ["org/old-clip", "org/pictures", "--split", "test"]
    configured = ["org/clip", "org/configured", "--config", "two"]
    runs = [first, flags("test", *second, "--streaming"), flags("configured", *configured)]
    for run in answers(client(hub.url, "-c", RUNS, json.dumps(runs))):
        assert run.code == 0, run.err
        assert "HTTP" not in run.err
    assert f"GET /org/clip/resolve/{COMMIT}/model.safetensors" in hub.requests
    assert f"GET /org/old-clip/resolve/{COMMIT}/pytorch_model.bin" in hub.requests
    assert not any("discussions" in request for request in hub.requests)  # nobody asked for a conversion
    train, test = (Indexes(tmp_path / name).get() for name in ("train", "test"))
    assert train.manifest.gallery == "org--pictures"
    assert (train.manifest.model.name, train.manifest.model.revision) == ("org/clip", COMMIT)
    assert (len(train), train.labels[:2]) == (12, ["dark", "light"])
    assert [train.entry(i).caption for i in (0, 11)] == ["train-0-0", "train-2-3"]
    assert [test.entry(i).caption for i in (0, 7)] == ["test-0-0", "test-1-3"]
    assert test.vectors(Features.CLIP).shape == (8, 8)

    hub.close()  # from here on the port refuses
    search = ["search", str(train.thumbnail(5)), "--index", str(tmp_path / "train"), "--json"]
    runs = [first, flags("test again", *second), flags("configured again", *configured), search]
    again, other, configured, search = answers(client(hub.url, "-c", RUNS, json.dumps(runs)))
    assert "nothing to do, 12 pictures" in again.out, again.err
    assert "8 pictures indexed" in other.out, other.err
    assert "because it is in the local cache" in other.out
    assert "taking org/pictures from the cache" in again.err
    assert "8 pictures indexed" in configured.out, configured.err
    assert json.loads(search.out)["model"] == "org/clip"
    for choice in answers(client(hub.url, "-c", CHOICES, json.dumps(["org/clip", "org/old-clip"]))):
        assert choice.revision == COMMIT
        assert choice.seconds < 5
        print(f"{choice.name} found in the cache in {choice.seconds:.2f} s")
        encoder = ClipEncoder(choose_model(choice.folder))
        assert encoder.embed_texts(["a cat", "dogs"]).shape == (2, 8)  # its tokenizer came along


def test_a_folder_of_pictures_on_the_hub_mapped_and_streamed(hub, client, tmp_path):
    flags = ["--model", "mini", "--dataset", "org/folder", "--pixel-size", "1"]
    runs = [
        ["--index", str(tmp_path / "mapped"), *flags],
        ["--index", str(tmp_path / "streamed"), *flags, "--streaming"],
    ]
    for run, name in zip(answers(client(hub.url, "-c", RUNS, json.dumps(runs))), ("mapped", "streamed"), strict=True):
        assert run.code == 0, run.err
        index = Indexes(tmp_path / name).get()
        assert index.vectors(Features.PIXELS).tolist() == [[1, 0, 0], [0, 0, 1]]


def test_what_the_hub_refuses_is_told_with_the_remedy(hub, client, tmp_path):
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
    results = answers(client(hub.url, "-c", RUNS, json.dumps([arguments for arguments, _ in cases])))
    for (arguments, words), result in zip(cases, results, strict=True):
        assert result.code == 2, arguments
        assert "Traceback" not in result.err
        message = [line for line in result.err.splitlines() if line.startswith("error: ")]
        assert len(message) == 1, result.err
        for word in words:
            assert word in message[0]
    assert not Indexes(tmp_path / "index").names()


@pytest.mark.parametrize("fault", ["silent", "refusing", "failing"])
def test_auto_falls_back_in_bounded_time_and_a_named_model_never(hub, client, fault):
    hub.silent = fault == "silent"
    hub.refusals = {AUTO_MODEL: 503, "org/clip": 503} if fault == "failing" else {}
    if fault == "refusing":
        hub.close()
    auto, named = answers(client(hub.url, "-c", CHOICES, json.dumps(["auto", "org/clip"])))
    assert auto.name == "mini"
    assert AUTO_MODEL in auto.why
    assert named.name is None
    assert "'org/clip'" in named.why
    assert "--model mini" in named.why
    assert max(auto.seconds, named.seconds) < 10
    print(f"Hub {fault}: auto chose in {auto.seconds:.2f} s, the named model was refused in {named.seconds:.2f} s")


def test_without_a_hub_a_folder_is_built_with_the_bundled_model(hub, client, tmp_path):
    hub.close()
    (tmp_path / "pictures").mkdir()
    for shade in range(3):
        Image.new("RGB", (30, 30), (80 * shade, 0, 0)).save(tmp_path / "pictures" / f"{shade}.png")
    command = ["index_builder.py", "--index", str(tmp_path / "index"), "--dataset", str(tmp_path / "pictures")]
    built = client(hub.url, *command)
    assert built.code == 0, built.err
    assert built.lines[0].startswith(f"model: mini, because {AUTO_MODEL} is neither cached nor")
    assert "3 pictures indexed" in built.lines[1]
    refused = client(hub.url, *command, "--model", "org/clip")
    assert refused.code == 2
    assert "error: Model 'org/clip'" in refused.err
    assert Indexes(tmp_path / "index").get().manifest.model.name == "mini"
