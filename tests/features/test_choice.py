"""Which feature types a gallery has: chosen, kept, added and dropped; and models under names of one's own."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from retrieval import cli, index_builder
from retrieval.errors import QueryError
from retrieval.features import DEFAULT_SET, FEATURES, default_first, is_known
from retrieval.features.base import FeatureIdentity, FeatureOptions
from retrieval.features.color import Colors
from retrieval.features.pixels import Pixels
from retrieval.indexing.embeddings import _folder_name
from retrieval.indexing.portable import PublishedManifest, Shard, from_json, shard_name, to_json
from retrieval.search.query import Query
from retrieval.search.searcher import Searcher
from retrieval.storage.catalog import Indexes
from retrieval.storage.manifest import STORE
from tests.features.test_vision import make
from tests.support.builds import NAME, arguments, draw

COMMIT = "0123456789abcdef" * 2 + "01234567"
DINO = FeatureIdentity("org/dino", COMMIT, "0123456789abcdef cls", "float32", 32)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for family in ("dinov2", "clip"):
        make(family, folder / family)
    return folder


def build(folder: Path, *more: str) -> int:
    """Build a gallery of six pictures without the flags that the tests of builds have."""
    if not (folder / NAME).exists():
        draw(folder / NAME, 6)
    flags = ["--index", str(folder / "index"), "--dataset", str(folder / NAME), "--gallery", NAME]
    return index_builder.main([*flags, *more])


def test_gallery_holds_several_models_that_are_added_and_dropped_on_their_own(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    named = [
        f"--features=pixels,dino={models / 'dinov2'}",
        "--features",
        f"tiny={models / 'clip'}",
        "--dtype",
        "float32",
    ]
    assert build(tmp_path, *named) == 0
    searcher = Searcher(Indexes(tmp_path / "index"))
    index = searcher.indexes.get()
    assert index.features == ("pixels", "dino", "tiny")
    assert index.default_features == "pixels"
    for features, engine in (("dino", "exact"), ("dino", "chroma"), ("tiny", "chroma")):
        ranking = searcher.search(Query(position=3, features=features, engine=engine, top_k=5))
        assert {hit.position for hit in ranking.hits} == {0, 1, 2, 4, 5}
        assert ranking.model == index.manifest.features[features]
    assert len(searcher.search(Query(text="red", features="tiny")).hits) == 6
    with pytest.raises(QueryError, match=r"Text search needs tiny features\. Choose other features"):
        searcher.search(Query(text="red", features="dino"))
    vectors = {name: np.array(index.vectors(name)) for name in index.features}
    searcher.indexes.close()

    capsys.readouterr()
    assert cli.main(["info", "--index", str(tmp_path / "index"), "--json"]) == 0
    about = json.loads(capsys.readouterr().out)["galleries"][0]["features"]
    assert about["dino"] == "dinov2 (float32), CLS token, 32 numbers"
    assert about["tiny"] == "clip (float32), projected features, 512 numbers"

    def now(*flags: str) -> dict[str, Any]:
        assert build(tmp_path, *flags, "--json") == 0
        return json.loads(capsys.readouterr().out)

    assert now("--drop-features", "dino")["embedded"] == 0
    assert Indexes(tmp_path / "index").get().features == ("pixels", "tiny")
    assert list((tmp_path / "index" / STORE).glob("dino-*")), "its vectors stay until the next --prune"
    assert now(*named)["embedded"] == 0, "it was embedded again"
    assert now("--drop-features", "dino,pixels")["embedded"] == 0
    assert build(tmp_path, "--prune") == 0
    capsys.readouterr()
    assert {path.name.partition("-")[0] for path in (tmp_path / "index" / STORE).glob("*-*")} == {"tiny"}
    assert now("--features", f"tiny,edges,dino={models / 'dinov2'}", "--dtype", "float32")["embedded"] == 6
    again = Indexes(tmp_path / "index").get()
    assert again.features == ("edges", "tiny", "dino")
    for name in ("dino", "tiny"):
        np.testing.assert_array_equal(again.vectors(name), vectors[name])
    assert build(tmp_path, "--drop-features", "cnn") == 2
    assert "has no cnn features to drop; it has edges, tiny, dino" in capsys.readouterr().err
    assert build(tmp_path, "--drop-features", "edges,tiny,dino") == 2
    assert "needs at least one feature type" in capsys.readouterr().err


def test_new_gallery_has_the_default_types_and_an_existing_one_keeps_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draw(tmp_path / NAME, 6)
    assert index_builder.main(arguments(tmp_path / "index", tmp_path / NAME)) == 0
    capsys.readouterr()
    assert build(tmp_path, "--map", "pca") == 0
    assert "nothing to do" in capsys.readouterr().out
    assert build(tmp_path, "--rebuild", "--model", "mini") == 0
    assert Indexes(tmp_path / "index").get().features == ("pixels", "clip")
    assert build(tmp_path, "--gallery", "other", "--model", "mini") == 0
    assert Indexes(tmp_path / "index").get("other").features == DEFAULT_SET
    assert Indexes(tmp_path / "index").features() == ["clip", "pixels", "color"]


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ("Dino=org/dino", "cannot be the name of a feature type"),
        ("../x=org/dino", "cannot be the name of a feature type"),
        ("image=org/dino", "cannot be the name of a feature type"),
        ("pixels,", "cannot be the name of a feature type"),
        ("dino=", "lacks the name of a model"),
        ("pixels=org/dino", "pixels has no choice of models; give 'org/dino' another name"),
        ("pixels,pixels", "a name is given twice"),
    ],
)
def test_errors_for_names_of_feature_types(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], names: str, said: str
) -> None:
    with pytest.raises(SystemExit):
        build(tmp_path, "--features", names)
    assert said in capsys.readouterr().err


def test_a_name_without_a_model_is_refused_in_a_new_gallery(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert build(tmp_path, "--features", "pixels,dino") == 2
    assert "The features 'dino' need a model: `--features dino=ORG/NAME`." in capsys.readouterr().err


def test_identities_that_existing_embeddings_are_stored_by_have_not_changed() -> None:
    assert _folder_name("pixels", Pixels(16).identity) == "pixels-bac2c3f37ebb"
    model = FeatureIdentity("mini", "b02c08040592510f", "0123456789abcdef", "float32", 512)
    assert _folder_name("clip", model) == "clip-5ad2e0637d3a"


def test_order_is_the_default_one_then_built_in_types_then_named_models() -> None:
    assert default_first(["dino", "cnn", "pixels", "clip"]) == ["clip", "pixels", "cnn", "dino"]


def test_only_vectors_of_models_are_known_under_other_names() -> None:
    assert is_known("dino", DINO)
    assert not is_known("../dino", DINO)
    assert not is_known("label", DINO)
    assert not is_known("hash", FeatureIdentity("hash", "1", "64 bits", "float32", 64))
    assert not is_known("dino", replace(DINO, preprocessing="0123456789abcdef tower"))


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("dino", {}, ""),
        ("../dino", {}, "names the feature type '../dino'"),
        ("image", {}, "names the feature type 'image'"),
        ("dino", {"name": "/etc"}, "names the model '/etc'"),
        ("dino", {"revision": "main"}, "at 'main' for dino"),
        ("dino", {"preprocessing": "0123456789abcdef ../x"}, "names the model"),
        ("cnn", {"preprocessing": "0123456789abcdef tower"}, "names the model 'org/dino'"),
        ("clip", {}, "names the model"),
        ("color", {"name": "color"}, "names the model 'color'"),
    ],
)
def test_manifests_from_elsewhere_are_checked_for_every_name(name: str, change: dict[str, Any], said: str) -> None:
    shards = (Shard(shard_name(0), 3, 100, "0" * 64),)
    manifest = PublishedManifest("g", {name: replace(DINO, **change)}, 3, "2026-01-01T00:00:00", shards)
    text = to_json(manifest).encode()
    if said:
        with pytest.raises(ValueError, match=said):
            from_json(text)
    else:
        assert from_json(text) == manifest
    many = replace(manifest, features={f"dino{i}": DINO for i in range(33)})
    with pytest.raises(ValueError, match="names 33 feature types"):
        from_json(to_json(many).encode())


def test_colours_ignore_the_shape_and_see_which_quarter_has_which_colour() -> None:
    red, blue = Image.new("RGB", (64, 48), "#c02020"), Image.new("RGB", (64, 48), "#2020c0")
    left = red.copy()
    left.paste(blue, (32, 0))
    right = left.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    vectors = Colors().embed([red, red.resize((10, 90)), blue, left, right])
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-3)
    assert vectors[0] @ vectors[2] < 0.5
    np.testing.assert_allclose(vectors[3][:36], vectors[4][:36], atol=0.02)
    assert vectors[3] @ vectors[4] < 0.9
    assert FEATURES["color"].is_portable(Colors.identity)


def test_edges_ignore_colours_and_see_directions() -> None:
    stripes = np.zeros((128, 128), np.uint8)
    stripes[:, ::8] = stripes[:, 1::8] = 255
    across = Image.fromarray(stripes).convert("RGB")
    red = Image.fromarray(np.dstack([stripes, stripes * 0, stripes * 0]))
    encoder = FEATURES["edges"].load(FeatureOptions(), None)
    vectors = encoder.embed([across, red, across.transpose(Image.Transpose.ROTATE_90)])
    assert vectors.dtype == np.float32
    assert vectors.shape == (3, encoder.identity.dimensions)
    cosines = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)) @ vectors[0] / np.linalg.norm(vectors[0])
    assert cosines[1] > 0.99
    assert cosines[2] < 0.5
