"""Processes that use the real client with a Hub on 127.0.0.1 and can reach nothing else, and data for that Hub."""

import io
import json
import os
import subprocess
import sys
from types import SimpleNamespace

import torch
from datasets import ClassLabel, Dataset
from datasets import Features as Columns
from datasets import Image as Picture
from PIL import Image
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

from tests.support.paths import ROOT

# Loaded by the processes below; refuses every connection that is not loopback, and records it.
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
import contextlib, io, json, sys
from retrieval import cli, index_builder
for arguments in json.loads(sys.argv[1]):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = (cli if arguments[0] in ("search", "info", "map") else index_builder).main(arguments)
    print(json.dumps({"code": code, "out": out.getvalue(), "err": err.getvalue()}))
"""
CHOICES = """
import json, sys, time
from retrieval import errors
from retrieval.features.models import choose_model
for name in json.loads(sys.argv[1]):
    started = time.perf_counter()
    try:
        choice = choose_model(name)
        answer = {"name": choice.name, "revision": choice.revision, "why": choice.reason, "folder": str(choice.folder)}
    except errors.ModelError as error:
        answer = {"name": None, "why": str(error)}
    print(json.dumps({**answer, "seconds": time.perf_counter() - started}))
"""
# Opens published indexes by their address, and says whether a model could have been loaded.
OPENS = """
import json, sys
from retrieval import errors, settings
from retrieval.indexing.pulling import open_published
for address in json.loads(sys.argv[1]):
    index, error = settings._index(address), None
    try:
        open_published(index)
    except errors.RetrievalError as refused:
        error = str(refused)
    print(json.dumps({"error": error, "folder": str(index.folder), "torch": "torch" in sys.modules}), flush=True)
"""
# Fetches models and datasets: {"model": id} or {"dataset": id}, each with its other arguments.
FETCHES = """
import json, sys, time
from retrieval import errors
from retrieval.features.models import choose_model
from retrieval.gallery.rows import Gallery
from retrieval.gallery.source import GallerySource
def readable(item):
    try:
        return bool(item.read())
    except errors.PictureError:
        return False
for wanted in json.loads(sys.argv[1]):
    started, answer = time.perf_counter(), {"error": None}
    try:
        if "model" in wanted:
            choice = choose_model(wanted["model"], wanted.get("revision"))
            answer |= {"commit": choice.revision, "folder": str(choice.folder)}
        else:
            gallery = Gallery(GallerySource(**wanted))
            items = list(gallery.items())
            pictures = sum(map(readable, items))
            labels = sorted({item.label for item in items})
            answer |= {"commit": gallery.version, "pictures": pictures, "labels": labels}
    except errors.RetrievalError as error:
        answer["error"] = str(error)
    print(json.dumps({**answer, "seconds": time.perf_counter() - started}), flush=True)
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
    """Save a dataset of parquet shards: 12 pictures in `train`, 8 in `test`."""
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


class Client:
    """Starts processes that use a given address as the Hub and share one cache, empty at first."""

    def __init__(self, folder, **environment):
        self.folder, self.environment = folder, environment
        (folder / "guard").mkdir()
        (folder / "guard" / "sitecustomize.py").write_text(GUARD)

    def __call__(self, address, *command):
        """Run Python with these arguments; return its exit code, output lines and errors."""
        foreign = self.folder / "foreign-hosts"
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "RETRIEVAL_"))}
        done = subprocess.run(
            [sys.executable, *command],
            cwd=ROOT,
            env={
                **inherited,
                "HF_ENDPOINT": address,
                "HF_HOME": str(self.folder / "home"),
                "PYTHONPATH": os.pathsep.join([str(self.folder / "guard"), str(ROOT)]),
                "FOREIGN_HOSTS": str(foreign),
                **self.environment,
            },
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert not foreign.exists(), foreign.read_text()
        return SimpleNamespace(code=done.returncode, lines=done.stdout.splitlines(), err=done.stderr)

    def fetch(self, address, *wanted, before=""):
        """Run the code `before`, fetch models and datasets, and return the result of each."""
        return parse_lines(self(address, "-c", before + FETCHES, json.dumps(wanted)))

    def open(self, address, *indexes):
        """Open published indexes, and return the result of each."""
        return parse_lines(self(address, "-c", OPENS, json.dumps(indexes)))


def parse_lines(result):
    """Parse the output of a process, one JSON value per line."""
    assert result.code == 0, result.err
    return [json.loads(line, object_hook=lambda value: SimpleNamespace(**value)) for line in result.lines]
