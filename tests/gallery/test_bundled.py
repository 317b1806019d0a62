"""The bundled photos: rows, attribution and query images agree with the selection, and the recipe reads its sources."""

import csv
import shutil
import struct
import sys
import zlib
from importlib import util
from pathlib import Path
from types import ModuleType

import datasets
import pyarrow.parquet as pq
import pytest

from retrieval.gallery.rows import Gallery
from retrieval.gallery.source import BUNDLED_GALLERIES, GallerySource
from retrieval.ui.widgets.thumbnails import Thumbnails

PHOTOS = BUNDLED_GALLERIES["photos"]
LICENSES = {
    *("Public Domain", "CC0-1.0", "CC-BY-2.0", "CC-BY-3.0", "CC-BY-4.0"),
    *("CC-BY-SA-3.0", "CC-BY-SA-4.0"),
}
README = """
Copyright: 2010 NASA Copyright 2018 Timothée Giet
License: Public domain
Source: https://example.org/File:Sun.jpg
Files:
sun.webp
earth.webp

Files: windmill.webp
Copyright: 2000, 2008 Bruno Coudoin and others
License: CC-BY-SA 4.0
Comment: based on a photo by Cnyborg, license CC-BY-SA 3.0,
         source at https://example.org/File:Windmill.jpg
"""


@pytest.fixture(scope="module")
def splits() -> datasets.DatasetDict:
    return datasets.load_dataset(str(PHOTOS)).cast_column("image", datasets.Image(decode=False))


@pytest.fixture(scope="module")
def recipe() -> ModuleType:
    spec = util.spec_from_file_location("recipe", PHOTOS / "recipe.py")
    assert spec
    assert spec.loader
    module = util.module_from_spec(spec)
    sys.modules["recipe"] = module  # dataclasses look it up
    spec.loader.exec_module(module)
    return module


def test_rows_are_those_of_the_selection(splits: datasets.DatasetDict) -> None:
    with (PHOTOS / "selection.csv").open(encoding="utf-8", newline="") as file:
        selected = {(row["split"], row["id"], row["label"], row["title"]) for row in csv.DictReader(file)}
    names = splits["train"].features["label"].names
    rows = {(split, row["id"], names[row["label"]], row["title"]) for split in splits for row in splits[split]}
    assert rows == selected
    assert len({row[1] for row in rows}) == 310


def test_every_photo_names_author_licence_and_source(splits: datasets.DatasetDict) -> None:
    for split in splits.values():
        assert set(split["license"]) <= LICENSES
        assert all(split["author"])
        assert all(split["source"])
    named = (PHOTOS / "LICENSE.md").read_text()
    assert all(f"| {each} |" in named for each in LICENSES)


def test_query_images_are_test_photos_that_the_card_attributes(splits: datasets.DatasetDict) -> None:
    rows = {row["image"]["bytes"]: row for row in splits["test"]}
    card = (PHOTOS / "README.md").read_text()
    files = sorted((PHOTOS / "queries").glob("*.jpg"))
    assert len(files) == 16
    with (PHOTOS / "queries" / "metadata.csv").open(encoding="utf-8", newline="") as file:
        listed = {each["file_name"]: each for each in csv.DictReader(file)}
    assert set(listed) == {file.name for file in files}
    labels = splits["test"].features["label"]
    for file in files:
        row = rows[file.read_bytes()]
        about = listed[file.name]
        assert (about["title"], about["label"]) == (row["title"], labels.int2str(row["label"]))
        line = next(line for line in card.splitlines() if line.startswith(f"| `{file.name}` |"))
        assert line.endswith(f" {row['license']} |")


def test_page_serves_the_query_images() -> None:
    thumbnails = Thumbnails()
    thumbnails.serve_folder(PHOTOS / "queries", "examples")
    for file in (PHOTOS / "queries").glob("*.jpg"):
        assert thumbnails.file(thumbnails.name(str(file))) == file


def test_recipe_reads_attributions(recipe: ModuleType) -> None:
    found = {name: recipe.rights(fields) for name, fields in recipe.attributions(README)}
    sun = ("2010 NASA; 2018 Timothée Giet", "Public Domain", "https://example.org/File:Sun.jpg")
    author = "Cnyborg (photo, CC-BY-SA 3.0); 2000, 2008 Bruno Coudoin and others (adaptation)"
    windmill = (author, "CC-BY-SA-4.0", "https://example.org/File:Windmill.jpg")
    assert found == {"sun.webp": sun, "earth.webp": sun, "windmill.webp": windmill}


def test_recipe_reads_resource_archives(recipe: ModuleType, tmp_path: Path) -> None:
    """An archive of the root folder with a plain and a compressed file, written by the description of the format."""
    names, contents = b"", b""
    entries = [struct.pack(">IHII", 0, 2, 2, 1)]
    for name, content, flags in (("a", b"plain", 0), ("b", b"compressed" * 9, 1)):
        stored = struct.pack(">I", len(content)) + zlib.compress(content) if flags else content
        entries.append(struct.pack(">IHHHI", len(names), flags, 0, 0, len(contents)))
        contents += struct.pack(">I", len(stored)) + stored
        names += struct.pack(">HI", len(name), 0) + name.encode("utf-16-be")
    tree = b"".join(entries)
    header = struct.pack(">4sIIII", b"qres", 1, 20, 20 + len(tree), 20 + len(tree) + len(contents))
    (tmp_path / "x.rcc").write_bytes(header + tree + contents + names)
    assert recipe.resources(tmp_path / "x.rcc") == {"a": b"plain", "b": b"compressed" * 9}


def test_changed_parquet_file_of_a_configured_folder_is_noticed(tmp_path):
    shutil.copytree(BUNDLED_GALLERIES["photos"], tmp_path / "photos")
    source = GallerySource(str(tmp_path / "photos"))
    first = Gallery(source)
    [path] = (tmp_path / "photos").rglob("train*.parquet")
    pq.write_table(pq.read_table(path).slice(0, 7), path)
    assert (first.total, Gallery(source).total) == (276, 7)
