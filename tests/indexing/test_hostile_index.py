"""Published indexes from hostile repositories: refused with one message, and nothing that was imported is lost."""

import io
import json
import re
import shutil
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from retrieval.features.base import FeatureIdentity
from retrieval.features.pixels import Pixels
from retrieval.indexing.pushing import Target, write_repository
from retrieval.storage.catalog import Indexes
from tests.support.loopback_hub import COMMIT

SHARD = "data/train-00000.parquet"
CLIP = ("features", "clip")
NAMED = FeatureIdentity("org/dino", "0" * 40, "0" * 16 + " cls", "float32", 32)
HUGE_TEXT = 2**27  # characters; 64 of them are more than the memory of the process that reads them


@pytest.fixture(scope="module")
def honest(few_icons, tmp_path_factory):
    """The files of a published index of 64 icons."""
    folder = tmp_path_factory.mktemp("honest")
    write_repository(Indexes(few_icons).get(), Target("org/honest"), folder)
    return folder


def change(*path, to):
    """Return a change of one field of the manifest."""

    def apply(folder):
        values = json.loads((folder / "manifest.json").read_text())
        place = values
        for name in path[:-1]:
            place = place[name]
        place[path[-1]] = to
        (folder / "manifest.json").write_text(json.dumps(values))

    return apply


def text(content):
    """Return a change of the whole manifest."""
    return lambda folder: (folder / "manifest.json").write_bytes(content)


def seal(folder, rows=None):
    """Let the manifest name the shard as it is now."""
    path, values = folder / SHARD, json.loads((folder / "manifest.json").read_text())
    digest = sha256(path.read_bytes()).hexdigest()
    values["shards"][0] |= {"bytes": path.stat().st_size, "sha256": digest}
    if rows is not None:
        values["pictures"] = values["shards"][0]["rows"] = rows
    (folder / "manifest.json").write_text(json.dumps(values))


def raw(change):
    """Return a change of the bytes of the shard, which the manifest then names."""

    def apply(folder):
        (folder / SHARD).write_bytes(change((folder / SHARD).read_bytes()))
        seal(folder)

    return apply


def table(change, rows=None, **options):
    """Return a change of the table in the shard, which the manifest then names."""

    def apply(folder):
        pq.write_table(change(pq.read_table(folder / SHARD)), folder / SHARD, **options)
        seal(folder, rows)

    return apply


def column(name, change):
    """Return a change of one column, given as a Python list."""

    def apply(table):
        values = change(table[name].to_pylist())
        array = values if isinstance(values, pa.Array) else pa.array(values, table.schema.field(name).type)
        return table.set_column(table.schema.get_field_index(name), name, array)

    return apply


def first(value):
    """Return a change of the first value of a list."""
    return lambda values: [value, *values[1:]]


def picture(content):
    return column("image", first({"bytes": content, "path": "0.jpg"}))


def vector(number):
    """Return a change of the first vector of CLIP features, to equal numbers."""
    return column("clip", first([number] * 512))


def jpeg(width, height, more=b""):
    """Return a small JPEG file that claims a size."""
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "JPEG")
    content = file.getvalue()
    at = content.index(b"\xff\xc0") + 5
    return content[:at] + height.to_bytes(2, "big") + width.to_bytes(2, "big") + content[at + 4 :] + more


def png():
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "PNG")
    return file.getvalue()


def variable_lengths(values):
    return pa.array(values, pa.list_(pa.float32()))


def stored_schema(schema, size=None):
    """Return an Arrow schema as Parquet files store it, filled up to a size."""
    for fill in range(0, 4000, 3):
        file = io.BytesIO()
        pq.write_table(schema.with_metadata({"fill": "x" * fill}).empty_table(), file)
        stored = pq.read_metadata(file).metadata[b"ARROW:schema"]
        if size in (None, len(stored)):
            return stored
    raise AssertionError(size)


def bomb(folder):
    """Write 8 GB of text as a dictionary with one entry, which takes less than a megabyte."""
    honest = pq.read_table(folder / SHARD)
    ids = pa.DictionaryArray.from_arrays(pa.array([0] * len(honest), pa.int32()), ["a" * HUGE_TEXT])
    rows = honest.set_column(honest.schema.get_field_index("id"), "id", ids)
    rows = rows.replace_schema_metadata({"fill": "x" * 999})
    pq.write_table(rows, folder / SHARD, compression="zstd")
    content, stored = (folder / SHARD).read_bytes(), pq.read_metadata(folder / SHARD).metadata[b"ARROW:schema"]
    # The columns that the file claims are those of an honest one.
    (folder / SHARD).write_bytes(content.replace(stored, stored_schema(honest.schema, len(stored))))
    assert pq.read_schema(folder / SHARD).types == honest.schema.types
    assert len(content) < 2 * 10**6
    seal(folder)


MANIFESTS = {
    "missing": (lambda folder: (folder / "manifest.json").unlink(), "no `manifest.json`"),
    "huge": (text(b" " * (2**21 + 1)), "more than 2 MB"),
    "not JSON": (text(b"\x80\x02cposix\nsystem\n"), "not valid JSON"),
    "nested": (text(b"[" * 10**6), "not valid JSON"),
    "list": (text(b"[]"), "not a JSON object"),
    "other format": (change("format", to=99), "format 99.*reads format 1"),
    "format of another type": (change("format", to={"a": "\x1b[2J" * 99}), "format"),
    "number as text": (change("pictures", to="64"), "no usable `pictures`"),
    "number as bool": (change("pictures", to=True), "no usable `pictures`"),
    "negative": (change("pictures", to=-1), "from 1 to"),
    "too many": (change("pictures", to=10**9), "from 1 to"),
    "more than the shards": (change("pictures", to=65), "another number of rows"),
    "gallery above": (change("gallery", to="../x"), "name of a folder"),
    "gallery absolute": (change("gallery", to="/etc"), "name of a folder"),
    "gallery hidden": (change("gallery", to=".ssh"), "name of a folder"),
    "gallery of the store": (change("gallery", to="Embeddings"), "name of a folder"),
    "gallery with controls": (change("gallery", to="a\x1b[2Jb"), "name of a folder"),
    "gallery too long": (change("gallery", to="ü" * 190), "name of a folder"),
    "gallery not text": (change("gallery", to=7), "no usable `gallery`"),
    "half a surrogate": (change("gallery", to="\ud800"), "name of a folder"),
    "no features": (change("features", to={}), "no feature type"),
    "unknown features": (change("features", "../x", to={}), "does not know"),
    "name of a column": (change("features", "image", to={}), "does not know"),
    "many feature types": (
        change("features", to={f"dino{i}": vars(NAMED) for i in range(33)}),
        "names 33 feature types",
    ),
    "named model that is a path": (change("features", "dino", to=vars(NAMED) | {"name": "/etc"}), "the model '/etc'"),
    "identity not an object": (change("features", "clip", to=[]), "no usable `name`"),
    "no dimensions": (change(*CLIP, "dimensions", to=0), "from 1 to"),
    "absurd dimensions": (change(*CLIP, "dimensions", to=10**12), "from 1 to"),
    "dimensions of no square": (change("features", "pixels", "dimensions", to=767), "neither the bundled model"),
    "no date": (change("created", to="<b>now"), "not a date"),
    "shards not a list": (change("shards", to={}), "no usable `shards`"),
    "shard above": (change("shards", 0, "name", to="../../home/x"), "names the file"),
    "shard of another number": (change("shards", 0, "name", to="data/train-00001.parquet"), "names the file"),
    "shard without a digest": (change("shards", 0, "sha256", to="0"), "digest"),
    "shard with another digest": (change("shards", 0, "sha256", to="0" * 64), "not the file that the manifest names"),
    "shard with another size": (change("shards", 0, "bytes", to=1), "lacks `data/train-00000.parquet`"),
    "shard missing": (lambda folder: (folder / SHARD).unlink(), "lacks `data/train-00000.parquet`"),
    "absurd dtype": (change(*CLIP, "dtype", to="object"), "neither the bundled model"),
    "absurd preprocessing": (change(*CLIP, "preprocessing", to="../x"), "neither the bundled model"),
}
MODELS = ["/etc", "../model", "~/model", "./a/b", "auto", "a/b/c", "model.pkl", "org/name\n", "org/..", "file:///x", ""]
SHARDS = {
    "not Parquet": (raw(lambda content: b"PK\x03\x04" + b"\0" * 999), "Parquet"),
    "empty": (raw(lambda content: b"PAR1"), "Parquet"),
    "cut": (raw(lambda content: content[: len(content) // 2]), "Parquet"),
    "changed": (raw(lambda content: content[:5000] + b"\xff" * 200 + content[5200:]), "damaged"),
    "changed footer": (raw(lambda content: content[:-300] + b"\xff" * 280 + content[-20:]), "."),
    "fewer rows": (table(lambda rows: rows[:63]), "does not have the 64 rows"),
    "more rows": (table(lambda rows: pa.concat_tables([rows, rows])), "does not have the 64 rows"),
    "missing column": (table(lambda rows: rows.drop_columns(["caption"])), "other columns"),
    "one more column": (table(lambda rows: rows.append_column("path", rows["id"])), "other columns"),
    "other type": (table(column("clip", variable_lengths)), "other columns"),
    "other length": (change(*CLIP, "dimensions", to=511), "other columns"),
    "not finite": (table(vector(float("nan"))), "clip has a number that is not finite"),
    "infinite": (table(vector(float("inf"))), "clip has a number that is not finite"),
    "too large": (table(column("pixels", first([1e30] * 768))), "pixels has a number"),
    "not of unit length": (table(vector(1.0)), "clip does not have length 1"),
    "no vector": (table(column("clip", first(None))), "vector of clip is missing"),
    "part of a vector": (table(column("clip", first([None] * 512))), "vector of clip is missing"),
    "no thumbnail": (table(column("image", first(None))), "image 0 is not a JPEG"),
    "PNG": (table(picture(png())), "image 0 is not a JPEG"),
    "HTML": (table(picture(b"<script>alert(1)</script>")), "image 0 is not a JPEG"),
    "large file": (table(picture(jpeg(8, 8, b"\0" * 2**21))), "image 0 is not a JPEG"),
    "large picture": (table(picture(jpeg(60_000, 60_000))), "image 0"),
    "only the first bytes": (table(picture(b"\xff\xd8\xff" + b"\0" * 50)), "image 0 is damaged"),
    "negative width": (table(column("width", first(-5))), "impossible width or height"),
    "no height": (table(column("height", first(None))), "impossible width or height"),
    "dictionary bomb": (bomb, "too much memory|crash|overflow|exceed"),
}


def opened(hub, client, honest, cases):
    """Open a repository for each change of the honest one; return the errors and folders by its name."""
    names = {name: f"org/case-{number}" for number, name in enumerate(cases)}
    for name, repo in names.items():
        folder = shutil.copytree(honest, hub.root / "datasets" / repo)
        for file in (folder, *folder.rglob("*")):
            file.chmod(0o755)
        cases[name](folder)
    results = client.open(hub.url, *(f"hf://datasets/{repo}" for repo in names.values()))
    return {name: SimpleNamespace(repo=names[name], **vars(each)) for name, each in zip(cases, results, strict=True)}


def is_refused(found, expected):
    """Assert that an index was refused with one line of printable text; nothing of it is left."""
    assert found.error, "it was opened"
    assert f"`hf://datasets/{found.repo}` is not used: " in found.error
    assert "Ask its publisher" in found.error
    assert re.search(expected, found.error), found.error
    assert found.error.isprintable()
    assert len(found.error) < 700
    assert not [path for path in Path(found.folder).rglob("*") if path.is_file() and path.name != "lock"]
    return True


def test_hostile_manifests_are_refused(hub, client, honest):
    results = opened(hub, client, honest, {name: apply for name, (apply, _) in MANIFESTS.items()})
    assert all(is_refused(results[name], expected) for name, (_, expected) in MANIFESTS.items())
    assert sum("/resolve/" in each and "manifest.json" not in each for each in hub.requests) <= 4  # HEAD and GET


def test_models_that_are_paths_or_not_fixed_are_refused(hub, client, honest):
    cases = {name: change(*CLIP, "name", to=name) for name in MODELS}
    cases["branch"] = lambda folder: [
        change(*CLIP, "name", to="org/m")(folder),
        change(*CLIP, "revision", to="main")(folder),
    ]
    cases["path as commit"] = change(*CLIP, "revision", to="../../x")
    for found in opened(hub, client, honest, cases).values():
        assert is_refused(found, "names the model|neither")


def test_hostile_shards_are_refused(hub, client, honest):
    results = opened(hub, client, honest, {name: apply for name, (apply, _) in SHARDS.items()})
    assert all(is_refused(results[name], expected) for name, (_, expected) in SHARDS.items())


def test_texts_are_cleaned_and_other_files_not_downloaded(hub, client, honest):
    def hostile(rows):
        for name in ("id", "label", "caption", "author", "license"):
            rows = column(name, lambda values: ["a\x1b[2J\n\u202eb" + "c" * 10**6, *values[1:]])(rows)
        return rows

    def more_files(folder):
        table(hostile)(folder)
        for name in ("run.py", "data/train-00001.parquet", "data/model.pkl", "embeddings/x", "icons/manifest.json"):
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(b"x")

    def published_model(folder):
        for name, value in (("name", "org/model"), ("revision", COMMIT)):
            change(*CLIP, name, to=value)(folder)

    cases = {"honest": lambda folder: None, "texts": more_files, "model": published_model}
    found = opened(hub, client, honest, cases)
    assert [each.error for each in found.values()] == [None] * 3
    index = Indexes(Path(found["texts"].folder)).get()
    entry = index.entry(0)
    for value in (entry.id, entry.label, entry.caption):
        assert value.startswith("a\\x1b[2J")
        assert value.isprintable()
        assert len(value) <= 1_100
    assert Indexes(Path(found["model"].folder)).get().manifest.model.commit == COMMIT
    fetched = {request.rsplit("/", 1)[1] for request in hub.requests if "/resolve/" in request}
    assert fetched == {"manifest.json", "train-00000.parquet"}


def test_index_without_space_on_the_disk_is_not_downloaded(hub, client, honest):
    def claim_much(folder):
        seal(folder, rows=5_000_000)
        change("features", "pixels", to=vars(Pixels(1024).identity))(folder)

    [found] = opened(hub, client, honest, {"large": claim_much}).values()
    assert "needs 62,9" in found.error
    assert "Free some space" in found.error
    assert not any("train-00000" in request for request in hub.requests)


@pytest.mark.parametrize("damage", [MANIFESTS["gallery above"][0], SHARDS["not finite"][0]], ids=["manifest", "shard"])
def test_earlier_import_stays_when_the_next_is_hostile(hub, client, honest, damage):
    folder = shutil.copytree(honest, hub.root / "datasets" / "org" / "icons")
    [good] = client.open(hub.url, "hf://datasets/org/icons")
    before = Indexes(Path(good.folder)).get()
    damage(folder)
    hub.commits["org/icons"] = "1" * 40
    [bad] = client.open(hub.url, "hf://datasets/org/icons")
    assert "is not used" in bad.error
    after = Indexes(Path(good.folder)).get()
    assert after.snapshot == before.snapshot
    assert np.isfinite(after.vectors("clip")).all()
    assert [path.name for path in after.snapshot.parent.glob("snapshot-*")] == [after.snapshot.name]
