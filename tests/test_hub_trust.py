"""Untrusted repositories on the Hub: their code is never run, and the token is sent only to the Hub."""

import json
import pickle
import re
import shutil
from itertools import repeat
from pathlib import Path

import pytest
import torch

from tests.support.hub_client import Client, make_clip, make_pictures, parse_lines
from tests.support.loopback_hub import COMMIT, LoopbackHub

TOKEN = "hf_secret"
LOADS = """
import json, sys
from retrieval import errors
from retrieval.features.models import choose_model
from retrieval.features.encoder import ClipEncoder
for name in json.loads(sys.argv[1]):
    error = None
    try:
        ClipEncoder(choose_model(name), "float32", "cpu")
    except errors.ModelError as refused:
        error = str(refused)
    print(json.dumps({"error": error}))
"""


@pytest.fixture
def hub(tmp_path):
    make_clip(tmp_path / "hub" / "models" / "org" / "clip")
    make_pictures(tmp_path / "hub" / "datasets" / "org" / "pictures" / "data")
    with LoopbackHub(tmp_path / "hub") as hub:
        yield hub


class Touch:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (Path(self.path),)


def test_code_of_a_model_is_never_run(hub, tmp_path):
    canary = tmp_path / "canary"
    clip = hub.root / "models" / "org" / "clip"
    code = f"open({str(canary)!r}, 'w')\nfrom transformers import CLIPConfig as C, CLIPModel as M, CLIPTokenizer as T\n"
    mapped = {"AutoConfig": "code.C", "AutoModel": "code.M"}
    written = [  # the config file that refers to the code, and whether the model works without it
        ("mapped", "config.json", {"auto_map": mapped}, True),
        ("unknown", "config.json", {"auto_map": mapped, "model_type": "of-its-own"}, False),
        ("processor", "preprocessor_config.json", {"auto_map": {"AutoImageProcessor": "code.P"}}, True),
        ("tokenizer", "tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["code.T", "code.T"]}}, True),
    ]
    for name, file, change, _ in written:
        folder = shutil.copytree(clip, clip.with_name(name))
        (folder / "code.py").write_text(code)
        (folder / file).write_text(json.dumps({**json.loads((folder / file).read_text()), **change}))
    saves = {"pickled": torch.save, "bare-pickle": lambda value, path: path.write_bytes(pickle.dumps(value))}
    for name, save in saves.items():
        folder = shutil.copytree(clip, clip.with_name(name))
        (folder / "model.safetensors").unlink()
        save({"logit_scale": Touch(canary)}, folder / "pytorch_model.bin")
    works = [(name, works) for name, *_, works in written] + [(name, False) for name in saves]
    results = parse_lines(Client(tmp_path)(hub.url, "-c", LOADS, json.dumps([f"org/{name}" for name, _ in works])))
    for (name, loaded), result in zip(works, results, strict=True):
        assert (result.error is None) == loaded, (name, result.error)
        assert loaded or re.search(f"odel org/{name}.*never run.*--model", result.error)
    assert not canary.exists()
    pickle.loads(pickle.dumps(Touch(canary)))
    assert canary.exists()  # the control: unpickling creates the file


def test_token_is_sent_only_to_the_hub(hub, tmp_path):
    datasets = hub.root / "datasets" / "org"
    for kind, name in (("models", "clip"), ("datasets", "pictures")):
        shutil.copytree(hub.root / kind / "org" / name, hub.root / kind / "org" / "gated")
    (datasets / "addressed").mkdir()
    hub.gated = {"org/gated": TOKEN}
    shard = "data/train-00000-of-00003.parquet"
    with LoopbackHub(hub.root) as elsewhere:
        stored = f"{elsewhere.url}/datasets/org/pictures/resolve/main/{shard}"
        hub.faults = {
            "org/clip/model.safetensors": repeat(f"{elsewhere.url}/org/clip/resolve/main/model.safetensors"),
            f"org/pictures/{shard}": repeat(stored),
        }
        (datasets / "addressed" / "README.md").write_text(
            f"---\nconfigs:\n- config_name: default\n  data_files: {stored}\n---\n"
        )
        wanted = [
            {"model": "org/gated"},
            {"dataset": "org/gated"},
            {"model": "org/clip"},
            {"dataset": "org/pictures"},
            {"dataset": "org/pictures", "streaming": True},
            {"dataset": "org/addressed"},
        ]
        *found, addressed = Client(tmp_path, HF_TOKEN=TOKEN).fetch(hub.url, *wanted)
        assert [(each.error, each.commit) for each in found] == [(None, COMMIT)] * 5
        assert "'org/addressed'" in addressed.error
        assert f"Bearer {TOKEN}" in hub.tokens
        assert len(elsewhere.requests) >= 3
        assert set(elsewhere.tokens) == {None}


@pytest.mark.parametrize("environment", [{}, {"HF_TOKEN": "hf_of_somebody_else"}], ids=["none", "wrong"])
def test_error_for_a_gated_repository_says_what_to_do(hub, tmp_path, environment):
    hub.gated = {"org/clip": TOKEN, "org/pictures": TOKEN}
    for refused in Client(tmp_path, **environment).fetch(
        hub.url, {"model": "org/clip"}, {"dataset": "org/pictures"}, {"dataset": "org/pictures", "streaming": True}
    ):
        assert re.search(r"'org/(clip|pictures)' is gated: accept its terms.*`hf auth login`", refused.error)
