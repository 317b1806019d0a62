"""ChromaDB's collections are brought up to date from those of an earlier state, or built anew."""

import os
import random
import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from retrieval.engines import chroma_fill
from retrieval.engines.base import Earlier
from retrieval.engines.chroma import ChromaEngine
from retrieval.engines.chroma_digests import DATABASE, RECALL, chroma_is_unchanged, write_chroma_digests
from retrieval.engines.chroma_folder import GRAPH, ChromaFolder, keys_of
from retrieval.engines.item_ids import Ids, ids_of, numbered_keys
from retrieval.engines.recall import FLOOR, write_recall
from retrieval.features import Vectors
from retrieval.metrics import Metric, closest

COUNT = 60
LABELS = ("", "cat", "dog")
LENGTHS = {"pixels": 12, "clip": 6}


def vectors_of(features: str, number: int) -> Vectors:
    """The vector of a picture, the same one on each call."""
    found = np.random.default_rng([number, len(features)]).standard_normal(LENGTHS[features])
    return (found / np.linalg.norm(found) if features == "clip" else found).astype(np.float32)


@dataclass
class State:
    """A gallery of pictures, given by number and label."""

    pictures: list[tuple[int, int]]
    features: tuple[str, ...] = ("pixels", "clip")
    _vectors: dict[str, Vectors] = field(init=False)

    def __post_init__(self) -> None:
        numbers = [number for number, _ in self.pictures]
        self._vectors = {name: np.stack([vectors_of(name, number) for number in numbers]) for name in self.features}

    def __len__(self) -> int:
        return len(self.pictures)

    @property
    def ids(self) -> Ids:
        numbers, codes = np.array(self.pictures).T
        return ids_of(numbered_keys(numbers), codes.astype(np.int32), LABELS)

    @property
    def labels(self) -> list[str]:
        return [LABELS[code] for _, code in self.pictures]

    def vectors(self, features: str) -> Vectors:
        return self._vectors[features]

    def check_open(self) -> None:
        """Do nothing."""


FIRST = State([(number, number % 3) for number in range(COUNT)])
CHANGED = State([(99, 1), (0, 2), *FIRST.pictures[1:20], *FIRST.pictures[21:]])  # added, moved to a class, deleted


def entries(folder: Path, features: tuple[str, ...] = FIRST.features) -> dict[Any, Any]:
    """The ids, labels and vectors of each collection."""
    chroma, found = ChromaFolder(folder, reading=True), dict[Any, Any]()
    for key, collection in chroma.open(keys_of(features)).by_key.items():
        each: Any = collection.get(include=["embeddings", "metadatas"])
        order = np.argsort(each["ids"])
        found[key] = [(each["ids"][at], each["metadatas"][at], each["embeddings"][at].tolist()) for at in order]
    chroma.close()
    return found


def fill(state: State, folder: Path, floor: float, earlier: Earlier | None) -> None:
    chroma_fill.fill(state, folder, keys_of(state.features), floor, earlier)


def changed(folder: Path) -> int:
    measured = ChromaEngine().recall(folder)
    assert measured
    return measured.changed


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("first")
    fill(FIRST, folder, FLOOR, None)
    return folder


def test_updated_collections_are_those_of_a_build(filled: Path, tmp_path: Path) -> None:
    reader = ChromaEngine().open(FIRST, filled)  # a page that still searches in the earlier state
    (tmp_path / "updated").mkdir()
    fill(CHANGED, tmp_path / "updated", FLOOR, Earlier(FIRST, filled))
    assert reader.candidates("pixels", Metric.L2, FIRST.vectors("pixels")[:1], 1)[0].positions[0] == 0
    reader.close()
    fill(CHANGED, tmp_path / "built", FLOOR, None)
    assert entries(tmp_path / "updated") == entries(tmp_path / "built")
    assert (changed(tmp_path / "updated"), changed(tmp_path / "built")) == (4, 0)
    assert chroma_is_unchanged(filled)
    assert chroma_is_unchanged(tmp_path / "updated")


def test_any_series_of_updates_finds_the_closest(tmp_path: Path) -> None:
    chance, state, folder = random.Random(3), FIRST, tmp_path / "0"
    fill(state, folder, FLOOR, None)
    counts = []
    for step in range(1, 7):
        pictures = [each for each in state.pictures if chance.random() > 0.05]
        pictures += [(chance.randrange(1000), chance.randrange(3)) for _ in range(chance.randrange(4))]
        chance.shuffle(pictures)
        after, earlier, folder = State(pictures), Earlier(state, folder), tmp_path / str(step)
        fill(after, folder, FLOOR, earlier)
        counts.append(changed(folder))
        engine = ChromaEngine().open(after, folder)
        for metric in Metric:
            vectors = after.vectors("pixels")
            [found] = engine.candidates("pixels", metric, vectors[:1], 5)
            expected, _ = closest(metric, vectors[0], vectors, np.arange(len(after)), 5)
            assert set(expected) <= set(found.positions.tolist())
        engine.close()
        state = after
    assert 0 in counts, "built anew when much had changed"
    assert max(counts) > 0


def test_feature_types_that_are_not_the_same_are_filled_anew(filled: Path, tmp_path: Path) -> None:
    fewer = State(FIRST.pictures, ("pixels",))
    fill(CHANGED, tmp_path / "more", FLOOR, Earlier(fewer, filled))  # as if there were another model
    fill(CHANGED, tmp_path / "built", FLOOR, None)
    assert entries(tmp_path / "more") == entries(tmp_path / "built")
    fill(fewer, tmp_path / "fewer", FLOOR, Earlier(FIRST, filled))
    chroma = ChromaFolder(tmp_path / "fewer", reading=True)
    chroma.open(keys_of(fewer.features))
    names = {each.name for each in chroma._client.chroma.list_collections()}
    chroma.close()
    assert names == {"pixels-plain", "pixels-unit", "pixels-centred"}


@pytest.mark.parametrize("file", [DATABASE, "chroma/*/data_level0.bin", "chroma/digests.json"])
def test_damaged_files_are_not_taken_over(tmp_path: Path, file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(GRAPH, "sync_threshold", 8)  # so that graphs are written
    monkeypatch.setitem(GRAPH, "batch_size", 4)
    fill(FIRST, tmp_path / "first", FLOOR, None)
    path = next((tmp_path / "first").glob(file))
    os.truncate(path, path.stat().st_size // 2)
    fill(CHANGED, tmp_path / "second", FLOOR, Earlier(FIRST, tmp_path / "first"))
    assert changed(tmp_path / "second") == 0
    assert chroma_is_unchanged(tmp_path / "second")


def test_order_of_images_changes_nothing(filled: Path, tmp_path: Path) -> None:
    fill(State(FIRST.pictures[::-1]), tmp_path, FLOOR, Earlier(FIRST, filled))
    assert entries(tmp_path) == entries(filled)
    assert ChromaEngine().recall(tmp_path) == ChromaEngine().recall(filled)


@pytest.mark.parametrize(("before", "changes"), [(0.999, 0), (0.5, 4)])
def test_recall_that_falls_below_the_floor_leads_to_a_new_graph(
    filled: Path, tmp_path: Path, before: float, changes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A graph that did not reach it when it was built is not built again at each change."""
    measured = ChromaEngine().recall(filled)
    assert measured
    shutil.copytree(filled, tmp_path / "first")
    curve = tuple(replace(each, recall=before) for each in measured.curve)
    write_recall(tmp_path / "first" / RECALL, replace(measured, curve=curve))
    write_chroma_digests(tmp_path / "first")
    found = replace(measured, curve=tuple(replace(each, recall=0.9) for each in measured.curve))
    monkeypatch.setattr(chroma_fill, "tuned", lambda *given: found)
    fill(CHANGED, tmp_path / "second", FLOOR, Earlier(FIRST, tmp_path / "first"))
    assert changed(tmp_path / "second") == changes


def test_images_with_the_same_content_and_label_share_an_entry_and_are_all_found(tmp_path: Path) -> None:
    same = State([(5, 1), *FIRST.pictures[:30], (5, 1), (5, 2), (5, 1)])
    fill(same, tmp_path, FLOOR, None)
    assert {len(each) for each in entries(tmp_path).values()} == {31}
    engine = ChromaEngine().open(same, tmp_path)
    [found] = engine.candidates("clip", Metric.COSINE, same.vectors("clip")[:1], 5)
    assert {0, 6, 31, 32, 33} <= set(found.positions.tolist())
    [found] = engine.candidates("clip", Metric.COSINE, same.vectors("clip")[:1], 2, np.arange(31, 34))
    assert set(found.positions.tolist()) <= {31, 32, 33}
    engine.close()
