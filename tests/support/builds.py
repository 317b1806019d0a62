"""Helpers for tests of the builder: make galleries, and read and compare the contents of indexes."""

import random
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from retrieval.engines.chroma_folder import ChromaFolder, keys_of
from retrieval.features.models import BUNDLED
from retrieval.metrics import Metric
from retrieval.storage.catalog import Indexes
from retrieval.storage.manifest import read_manifest
from retrieval.storage.projection import Method
from retrieval.storage.reader import GalleryIndex

NAME = "pictures"
BUILT = ("pixels", "clip")  # feature types of the galleries, which are few to save time
PICTURES = 22  # six batches, the last one short
BAD = (3, 9, 21)
PER_RUN = ("snapshot", "created", "changes", "checksum")  # differ even between builds of the same gallery


def draw(folder: Path, count: int) -> Path:
    """Fill a folder with pictures of random stripes, the same ones on each call."""
    folder.mkdir(parents=True)
    for number in range(count):
        colours = random.Random(number).randbytes(5 * 4 * 3)
        Image.frombytes("RGB", (5, 4), colours).resize((50, 40)).save(folder / f"{number:03}.png")
    return folder


def draw_classes(folder: Path, count: int, seed: int = 0) -> Path:
    """Fill two class folders with pictures of random stripes, the same ones on each call with a seed."""
    for number in range(count):
        picture = folder / ("even", "odd")[number % 2] / f"{number:03}.png"
        picture.parent.mkdir(parents=True, exist_ok=True)
        Image.frombytes("RGB", (5, 4), random.Random(seed + number).randbytes(60)).resize((50, 40)).save(picture)
    return folder


def corrupt_pictures(folder: Path, *numbers: int) -> None:
    """Make three pictures of a folder unreadable: one empty, one truncated, one a text file."""
    empty, cut, text = (folder / f"{number:03}.png" for number in numbers)
    empty.write_bytes(b"")
    cut.write_bytes(cut.read_bytes()[:70])
    text.unlink()
    text.with_suffix(".jpg").write_text("no picture at all")


def arguments(index: Path | str, dataset: Path | str, *more: str) -> list[str]:
    """The builder's arguments, with the bundled model and without t-SNE maps, which take time."""
    features = [] if "--features" in more else ["--features", ",".join(BUILT)]
    return [
        "--index",
        str(index),
        "--dataset",
        str(dataset),
        "--gallery",
        NAME,
        "--model",
        BUNDLED,
        "--map",
        "pca",
        *features,
        *more,
    ]


def contents(index: Path) -> SimpleNamespace:
    """Everything that a build holds: items, skipped pictures, every collection, matrices and thumbnails."""
    manifest = read_manifest(index / NAME)
    build = index / NAME / manifest.snapshot
    chroma = ChromaFolder(build, reading=True)
    collections = {}
    for key, collection in chroma.open(keys_of(BUILT)).by_key.items():
        found = collection.get(include=["embeddings", "metadatas"])
        order = np.argsort(found["ids"])
        collections[key] = (
            [(found["ids"][i], found["metadatas"][i]) for i in order],
            np.asarray(found["embeddings"])[order],
        )
    chroma.close()
    return SimpleNamespace(
        items=pq.read_table(build / "items.parquet").to_pylist(),
        counts=(manifest.pictures, manifest.skipped, manifest.skipped_pictures),
        collections=collections,
        matrices={features: np.load(build / f"{features}.npy") for features in BUILT},
        thumbnails={path.name: path.read_bytes() for path in (build / "thumbnails").rglob("*.jpg")},
    )


def assert_same_contents(found: SimpleNamespace, expected: SimpleNamespace) -> None:
    """Assert that two builds have the same contents, with bit-identical vectors."""
    assert found.items == expected.items
    assert found.counts == expected.counts
    assert found.thumbnails == expected.thumbnails
    for key in keys_of(BUILT):
        assert found.collections[key][0] == expected.collections[key][0]
        np.testing.assert_array_equal(found.collections[key][1], expected.collections[key][1], str(key))
    for features in BUILT:
        np.testing.assert_array_equal(found.matrices[features], expected.matrices[features])


def file_names(index: Path, build: str) -> set[str]:
    """The files and folders of an index except ChromaDB's own, with the build's number removed from their names."""
    found = {path.relative_to(index).as_posix() for path in index.rglob("*")}
    # The parts of the store depend on when the builder was stopped.
    return {path.replace(build, "build") for path in found if "/chroma/" not in path and "embeddings/" not in path}


def take_snapshot(index: Path) -> SimpleNamespace:
    """Everything that an index holds."""
    manifest = read_manifest(index / NAME)
    assert manifest is not None
    maps = Indexes(index).get(NAME)
    return SimpleNamespace(
        manifest={key: value for key, value in asdict(manifest).items() if key not in PER_RUN},
        file_names=file_names(index, manifest.snapshot),
        maps={features: maps.map(features, Method.PCA).coordinates for features in BUILT},
        contents=contents(index),
    )


def assert_same(index: Path, expected: SimpleNamespace) -> None:
    """Assert that an index equals a snapshot."""
    found = take_snapshot(index)
    assert found.manifest == expected.manifest
    assert found.file_names == expected.file_names, "files are missing or left over"
    assert_same_contents(found.contents, expected.contents)
    for features in BUILT:
        np.testing.assert_array_equal(found.maps[features], expected.maps[features])


def search_published(index: Path) -> str:
    """Search the published build, and return its name, or an empty string if nothing is published."""
    indexes = Indexes(index)
    if not indexes.names():
        return ""
    found = indexes.get(NAME)
    for features in BUILT:
        vector = found.vectors(features)[5]
        assert nearest(found, features, Metric.L2, vector, 3)[0] == 5
    indexes.close()
    return str(found.manifest.snapshot)


def nearest(index: GalleryIndex, features: str, metric: Metric, vector: np.ndarray, count: int) -> np.ndarray:
    """Return the positions that ChromaDB finds."""
    [found] = index.engine("chroma").candidates(features, metric, vector[None], count)
    return found.positions
