"""Maps: the projection, its files in the index, the marked pictures, and requests from visitors."""

import csv
import json
import logging
import shutil
from dataclasses import replace
from io import StringIO
from itertools import combinations
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import pytest
from PIL import Image

from retrieval import cli, index_builder, settings
from retrieval.analysis.gallery_map import DARK, DRAWN, HITS, LIGHT, OTHER, Plane, group_names, marks, points
from retrieval.analysis.why import Explainer
from retrieval.engines import separate
from retrieval.engines.lock import held
from retrieval.errors import IndexingError, QueryError
from retrieval.features import DEFAULT_SET, Vectors
from retrieval.indexing import fit_projection as projection
from retrieval.indexing.fit_projection import add_maps, project, write_projections
from retrieval.indexing.jobs import Builds
from retrieval.search.query import Query
from retrieval.search.searcher import Searcher
from retrieval.storage.catalog import Indexes
from retrieval.storage.manifest import FILE
from retrieval.storage.projection import Method, projection_path
from retrieval.ui.query_panel import Asked, QueryPanel, gallery_choice
from retrieval.ui.serving.limits import OWN
from retrieval.ui.tabs.map import MapTab, about_map, about_marks
from retrieval.ui.tabs.tab import TabContext
from retrieval.ui.viewer import Viewer
from retrieval.ui.widgets.added_input import AddedImages
from retrieval.ui.widgets.thumbnails import Thumbnails
from tests.support.published import publish_gallery
from tests.support.waiting import wait_until


def some_vectors(count: int, dimensions: int, seed: int = 0) -> Vectors:
    """Vectors that spread differently in every direction, so that the principal axes are well defined."""
    random = np.random.default_rng(seed)
    spread = np.linspace(3, 0.2, dimensions)
    return (random.normal(size=(count, dimensions)) * spread + random.normal(size=dimensions)).astype(np.float32)


@pytest.mark.parametrize(("count", "dimensions"), [(300, 40), (30, 200), (3, 5), (2, 3)])
def test_pca_matches_a_singular_value_decomposition(count: int, dimensions: int) -> None:
    vectors = some_vectors(count, dimensions)
    found = project(vectors, Method.PCA)
    centred = vectors.astype(np.float64) - vectors.mean(axis=0, dtype=np.float64)
    left, values, _ = np.linalg.svd(centred, full_matrices=False)
    expected = (left * values)[:, :2]
    signs = np.sign((expected * found.coordinates).sum(axis=0))
    np.testing.assert_allclose(found.coordinates * signs, expected, atol=1e-4 * values[0])
    assert found.kept == pytest.approx((values[:2] ** 2).sum() / (values**2).sum(), abs=1e-5)
    assert found.computed_from == count


def test_a_query_vector_is_projected_like_the_gallery() -> None:
    vectors = some_vectors(100, 12)
    found = project(vectors, Method.PCA)
    for row in (0, 57):
        np.testing.assert_allclose(found.place(vectors[row]), found.coordinates[row], atol=1e-5)
    assert project(vectors, Method.TSNE).place(vectors[0]) is None


@pytest.mark.parametrize("method", Method)
def test_maps_are_deterministic(method: Method) -> None:
    vectors = some_vectors(120, 20)
    first, second = project(vectors, method), project(vectors.copy(), method)
    np.testing.assert_array_equal(first.coordinates, second.coordinates)


@pytest.mark.parametrize("method", Method)
@pytest.mark.parametrize("count", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("same", [False, True])
def test_tiny_galleries_and_identical_vectors_have_maps(method: Method, count: int, same: bool) -> None:
    vectors = np.ones((count, 12), np.float32) if same else some_vectors(count, 12)
    found = project(vectors, method).coordinates
    assert found.shape == (count, 2)
    assert found.dtype == np.float32
    assert np.isfinite(found).all()


def test_large_galleries_are_projected_from_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(1)
    centres = random.normal(size=(4, 10)) * 20
    group = random.integers(4, size=400)
    vectors = (centres[group] + random.normal(size=(400, 10))).astype(np.float32)
    whole = project(vectors, Method.PCA)
    monkeypatch.setattr(projection, "FIT_NUMBERS", 200 * 10)
    monkeypatch.setattr(projection, "TSNE_PICTURES", 150)
    sampled = project(vectors, Method.PCA)
    assert sampled.computed_from == 200
    assert len(sampled.coordinates) == 400
    assert sampled.kept == pytest.approx(whole.kept, abs=0.05)
    tsne = project(vectors, Method.TSNE)
    assert tsne.computed_from == 150
    # Pictures outside the sample are placed with their group, too.
    middle = np.array([tsne.coordinates[group == each].mean(axis=0) for each in range(4)])
    nearest = np.linalg.norm(tsne.coordinates[:, None] - middle, axis=2).argmin(axis=1)
    assert (nearest == group).mean() > 0.95


@pytest.fixture
def gallery(tmp_path: Path) -> Path:
    """A folder of 12 small pictures in two classes."""
    folder = tmp_path / "pictures"
    for number in range(12):
        path = folder / ("warm" if number % 2 else "cold") / f"picture {number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        hue = (200 + 3 * number, 40, 10 * number) if number % 2 else (10 * number, 60, 200 + 3 * number)
        Image.new("RGB", (40, 40), hue).save(path)
    return folder


def build(root: Path, gallery: Path, *flags: str) -> int:
    flags = flags or ("--map", "pca")
    return index_builder.main(["--index", str(root), "--dataset", str(gallery), "--model", "mini", *flags])


def test_builder_adds_a_tsne_map_without_rebuilding(
    tmp_path: Path, gallery: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "index"
    assert build(root, gallery) == 0
    assert "maps:     pixels by pca, color by pca, clip by pca" in capsys.readouterr().out
    index = Indexes(root).get()
    assert index.maps == [(each, Method.PCA) for each in ("clip", "pixels", "color")]
    published = (root / "pictures" / FILE).read_bytes()
    matrix = (index.snapshot / "clip.npy").stat().st_mtime_ns

    assert build(root, gallery, "--map", "tsne") == 0
    out = capsys.readouterr().out
    assert "maps added in" in out
    assert "maps:     pixels by tsne, color by tsne, clip by tsne" in out
    assert len(index.maps) == 6, "an open index sees maps that are added later"
    assert index.map("clip", Method.TSNE).coordinates.shape == (12, 2)
    assert (root / "pictures" / FILE).read_bytes() == published
    assert (index.snapshot / "clip.npy").stat().st_mtime_ns == matrix

    assert build(root, gallery, "--map", "tsne") == 0
    assert "nothing to do" in capsys.readouterr().out
    assert not list(index.snapshot.glob("*.tmp"))


def test_missing_and_damaged_maps_are_rebuilt(
    tmp_path: Path, gallery: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "index"
    assert build(root, gallery) == 0
    first = Indexes(root).get()
    whole = {each: projection_path(first.snapshot, *each).read_bytes() for each in first.maps}
    for each in first.maps:
        projection_path(first.snapshot, *each).unlink()
    assert Indexes(root).get().maps == []
    with pytest.raises(QueryError, match=r"no map of clip by pca.*index_builder\.py --map pca"):
        Indexes(root).get().map("clip", Method.PCA)
    capsys.readouterr()
    assert build(root, gallery) == 0
    assert "maps added" in capsys.readouterr().out
    assert {each: projection_path(first.snapshot, *each).read_bytes() for each in first.maps} == whole

    path = projection_path(first.snapshot, "pixels", Method.PCA)
    for damaged in (b"", b"no map", whole["pixels", Method.PCA][:400], whole["clip", Method.PCA]):
        path.write_bytes(damaged)
        with pytest.raises(IndexingError, match="damaged"):
            Indexes(root).get().map("pixels", Method.PCA)
        assert build(root, gallery) == 0
        assert path.read_bytes() == whole["pixels", Method.PCA]


def test_builder_needs_the_lock_to_add_a_map(tmp_path: Path, gallery: Path) -> None:
    from retrieval.engines.lock import acquire_lock

    root = tmp_path / "index"
    assert build(root, gallery) == 0
    lock = acquire_lock(root / "pictures")
    try:
        assert build(root, gallery, "--map", "tsne") == 2
    finally:
        lock.release()
    assert len(Indexes(root).get().maps) == 3


def test_default_is_both_kinds_of_maps(tmp_path: Path, gallery: Path) -> None:
    flags = ["--dataset", str(gallery), "--model", "mini", "--features", "pixels"]
    assert index_builder.main(["--index", str(tmp_path / "index"), *flags]) == 0
    assert Indexes(tmp_path / "index").get().maps == [("pixels", Method.PCA), ("pixels", Method.TSNE)]


def test_missing_tsne_maps_are_added_in_the_background(
    tmp_path: Path, gallery: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "index"
    assert build(root, gallery) == 0
    index = Indexes(root).get()

    def stop() -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(separate, "POLL", 1e-3)  # so that it is stopped before the first map
        add_maps(root / "pictures", Method.TSNE, stop)
    assert len(index.maps) == 3
    with held(index.snapshot, "maps.lock"):
        assert add_maps(root / "pictures", Method.TSNE) == [], "another process computes them"
    assert add_maps(root / "pictures", Method.TSNE) == ["clip", "pixels", "color"]
    assert len(index.maps) == 6
    np.testing.assert_array_equal(
        index.map("clip", Method.TSNE).coordinates, project(index.vectors("clip"), Method.TSNE).coordinates
    )
    assert add_maps(root / "pictures", Method.TSNE) == []
    assert add_maps(root / "missing", Method.TSNE) == []


def test_build_of_the_page_is_ready_before_its_tsne_maps(tmp_path: Path, gallery: Path) -> None:
    chosen = settings.with_flags(settings.Settings(tmp_path / "index"), {"dataset": str(gallery), "model": "mini"})
    builds = Builds(chosen)
    build = builds.start(chosen)
    assert build.outcome().maps == ("pixels by pca", "color by pca", "clip by pca")
    assert builds.running is None
    index = Indexes(tmp_path / "index").get()
    wait_until(lambda: len(index.maps) == 6)
    builds.close()


def test_labels_are_named_only_where_they_form_groups() -> None:
    random = np.random.default_rng(0)
    places = np.concatenate(
        [random.normal((20, 20), 2, (30, 2)), random.normal((80, 80), 2, (30, 2)), random.uniform(1, 99, (30, 2))]
    )
    label_of = np.concatenate([np.repeat([0, 1], 30), np.arange(30) % 6 + 2])
    labels = (("one", 30), ("two", 30), *((f"scattered {number}", 5) for number in range(6)))
    names = list(group_names(places.astype(np.float32), label_of, labels))
    assert [each.label for each in names] == [0, 1]
    for each in names:
        assert abs(each.x - (20, 80)[each.label]) < 6 and abs(each.y - (20, 80)[each.label]) < 6
    assert not list(group_names(places[:2].astype(np.float32), label_of[:2], labels))
    assert not list(group_names(places[:30].astype(np.float32), label_of[:30], (("", 30),))), "no label has no name"


@pytest.mark.parametrize("method", Method)
def test_plane_has_all_points_inside_and_equal_scales_for_pca(method: Method) -> None:
    coordinates = some_vectors(50, 2) * [1, 7]
    placed = Plane(coordinates.astype(np.float32), method).place(coordinates)
    assert placed.min() > 1 and placed.max() < 99
    spread = np.ptp(placed, axis=0)
    assert spread.max() == pytest.approx(96, abs=0.01)
    expected = np.ptp(coordinates, axis=0)[0] / np.ptp(coordinates, axis=0)[1] if method is Method.PCA else 1
    assert spread[0] / spread[1] == pytest.approx(expected, rel=1e-3)
    assert placed[coordinates[:, 1].argmax(), 1] == placed[:, 1].min(), "y points upwards"
    far = Plane(coordinates.astype(np.float32), method).place(np.array([[1e9, -1e9]]))
    assert far.tolist() == [[99, 99]]


def test_tsne_is_announced_in_the_log(tmp_path: Path, gallery: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = tmp_path / "index"
    with caplog.at_level(logging.INFO, "retrieval.indexing.fit_projection"):
        assert build(root, gallery, "--map", "tsne") == 0
    assert "t-SNE" in caplog.text


def searcher_of(root: Path, pixels: Vectors, clip: Vectors, labels: list[str], methods: list[Method]) -> Searcher:
    indexes = publish_gallery(root, pixels, clip, labels)
    maps = [(name, method) for name in ("pixels", "clip") for method in methods]
    assert list(write_projections(indexes.get().snapshot, maps)) == maps
    return Searcher(indexes)


def test_large_galleries_draw_a_sample_but_count_all_labels(tmp_path: Path) -> None:
    count = DRAWN + 300
    labels = ["common" if row % 3 else "rare" if row % 2 else "" for row in range(count)]
    searcher = searcher_of(tmp_path, some_vectors(count, 3), some_vectors(count, 4, 1), labels, [Method.PCA])
    index = searcher.indexes.get()
    found = points(index, "clip", Method.PCA)
    assert len(found.entries) == DRAWN
    np.testing.assert_array_equal(points(index, "clip", Method.PCA).coordinates, found.coordinates)
    assert [name for name, _ in found.labels] == ["common", "rare", ""]
    assert sum(number for _, number in found.labels) == count
    plane = index.map("clip", Method.PCA).coordinates
    everywhere = Plane(plane, Method.PCA).place(plane)
    for entry, place, label in list(zip(found.entries, found.coordinates, found.label_of, strict=True))[::500]:
        np.testing.assert_array_equal(place, everywhere[entry.position])
        assert found.labels[label][0] == entry.label
    outside = next(each for each in range(count) if each not in {entry.position for entry in found.entries})
    marked = marks(searcher, searcher.indexes.get(), Query(position=outside, features="clip"), Method.PCA)
    np.testing.assert_array_equal(marked.query, plane[outside])
    assert outside not in {hit.position for hit in marked.hits}


def test_marks_show_the_closest_by_l2_and_the_exact_pca_position_of_the_query(
    icons_searcher: Searcher, queries: Path
) -> None:
    index = icons_searcher.indexes.get()
    for features in DEFAULT_SET:
        query = Query(picture=queries / "cat.png", features=features)
        found = marks(icons_searcher, icons_searcher.indexes.get(), query, Method.PCA)
        vector = icons_searcher.embedder.embed(index, query).vector
        distances = np.linalg.norm(index.vectors(features) - vector, axis=1)
        assert [hit.position for hit in found.hits] == np.argsort(distances, kind="stable")[:HITS].tolist()
        plane = index.map(features, Method.PCA)
        assert plane.axes is not None
        np.testing.assert_allclose(found.query, (vector - plane.mean) @ plane.axes.T, atol=1e-5)
        assert not found.estimated


def test_position_of_a_query_comes_only_from_its_picture(icons_searcher: Searcher, queries: Path) -> None:
    alone = marks(icons_searcher, icons_searcher.indexes.get(), Query(text="red fruit"), Method.PCA)
    assert alone.query is None
    assert len(alone.hits) == HITS
    assert "A text has no place" in about_marks(alone, Query(text="red fruit"))
    picture = Query(picture=queries / "cat.png")
    both = marks(icons_searcher, icons_searcher.indexes.get(), replace(picture, text="red fruit"), Method.PCA)
    plain = marks(icons_searcher, icons_searcher.indexes.get(), picture, Method.PCA)
    np.testing.assert_array_equal(both.query, plain.query)
    assert both.hits != plain.hits
    assert "without what was added" in about_marks(both, replace(picture, text="red fruit"))


def test_tsne_places_an_uploaded_picture_between_its_three_nearest(
    tmp_path: Path, gallery: Path, queries: Path
) -> None:
    root = tmp_path / "index"
    assert build(root, gallery, "--map", "tsne") == 0
    searcher = Searcher(Indexes(root))
    index = searcher.indexes.get()
    query = Query(picture=queries / "pizza.png", features="pixels")
    found = marks(searcher, searcher.indexes.get(), query, Method.TSNE)
    nearest = [hit.position for hit in found.hits[:3]]
    placed = index.map("pixels", Method.TSNE).coordinates
    np.testing.assert_allclose(found.query, placed[nearest].mean(axis=0), rtol=1e-6)
    assert found.estimated
    assert "between its 3 nearest" in about_marks(found, query)


def make_tab(searcher: Searcher) -> MapTab:
    with gr.Blocks() as page:
        panel = QueryPanel(searcher, thumbnails := Thumbnails(), gallery_choice(searcher))
        with gr.Tab("Map") as tab:
            viewer = Viewer(Explainer(searcher), panel, thumbnails, OWN)
            return MapTab(TabContext(page, searcher, panel, thumbnails, viewer), tab)


def run_tab(tab: MapTab, gallery: str) -> dict[Any, Any]:
    """Return what the tab shows for an empty query."""
    return tab.run("clip", "pca", **vars(Asked(None, AddedImages(), "", "", 0.5, [], 1, None, gallery)))


def test_region_of_a_gallery_picture_is_placed_like_the_cropped_picture(icons_searcher):
    index = icons_searcher.indexes.get()
    region = (0.0, 0.0, 0.3, 0.3)
    part = marks(icons_searcher, index, Query(position=700, region=region), Method.PCA)
    alone = marks(icons_searcher, index, Query(index.thumbnail(700), region=region), Method.PCA)
    assert part.position is None
    np.testing.assert_array_equal(part.query, alone.query)
    assert not np.allclose(part.query, index.map("clip", Method.PCA).coordinates[700])


def test_page_receives_json_without_html_tags(tmp_path: Path) -> None:
    hostile = '</script><img src=x onerror=alert(1)>${alert(2)}{{alert}}`"\u2028'
    labels = [hostile, "tame", hostile, "tame"]
    searcher = searcher_of(tmp_path, some_vectors(4, 3), some_vectors(4, 4, 1), labels, [Method.PCA])
    tab = make_tab(searcher)
    text = run_tab(tab, "given")[tab.map].value
    assert "<" not in text
    sent = json.loads(text)
    assert sorted(row[5] for row in sent["points"]) == sorted(labels)
    assert sent["thumbnails"].endswith("/shown/given/snapshot-given")
    assert str(tmp_path) not in text, "no path of this machine"
    assert sent["labels"] == [[hostile, 2], ["tame", 2]]
    assert sent["query"] is None
    assert sent["hits"] == []


def test_tab_without_maps_names_the_command_that_adds_them(tmp_path: Path) -> None:
    searcher = Searcher(publish_gallery(tmp_path, some_vectors(4, 3), some_vectors(4, 4, 1), ["a", "b", "a", "b"]))
    tab = make_tab(searcher)
    shown = run_tab(tab, "given")
    note, drawing = shown[tab.note], shown[tab.map]
    assert "python index_builder.py" in note
    assert str(tmp_path) not in note
    assert drawing.value == ""


def test_map_command(icons: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    index = Indexes(icons).get()
    plot = tmp_path / "map.png"
    assert cli.main(["map", "--index", str(icons), "--features", "pixels", "--plot", str(plot)]) == 0
    captured = capsys.readouterr()
    rows = list(csv.DictReader(StringIO(captured.out)))
    assert len(rows) == len(index)
    placed = index.map("pixels", Method.PCA).coordinates
    np.testing.assert_allclose([[float(row["x"]), float(row["y"])] for row in rows], placed, rtol=1e-5)
    assert (rows[5]["id"], rows[5]["label"]) == (index.entry(5).id, index.entry(5).label)
    assert "of the variance" in captured.err
    with Image.open(plot) as drawn:
        colours = {colour for _, colour in drawn.convert("RGB").getcolors(1 << 20) or []}
    assert {tuple(bytes.fromhex(colour[1:])) for colour in LIGHT} <= colours

    assert cli.main(["map", "--index", str(icons), "--json"]) == 0
    sent = json.loads(capsys.readouterr().out)
    assert (sent["features"], sent["method"], len(sent["pictures"])) == ("clip", "pca", len(index))
    assert sent["variance_kept"] == pytest.approx(index.map("clip", Method.PCA).kept)

    assert cli.main(["map", "--index", str(icons), "--method", "tsne", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["variance_kept"] is None
    assert cli.main(["map", "--index", str(icons), "--method", "umap"]) == 2
    assert "Choose one of: pca, tsne" in capsys.readouterr().err


def test_note_states_the_variance_that_the_map_keeps(icons: Path) -> None:
    index = Indexes(icons).get()
    note = about_map(index, "clip", Method.PCA, len(index))
    centred = index.vectors("clip") - index.vectors("clip").mean(axis=0)
    values = np.linalg.svd(centred, compute_uv=False) ** 2
    assert f"{values[:2].sum() / values.sum():.1%} of the variance" in note


# Machado, Oliveira and Fernandes, "A Physiologically-based Model for Simulation of Color Vision Deficiency" (2009),
# severity 1.0, for linear sRGB.
VISION = {
    "normal": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


def linear(colour: str) -> np.ndarray:
    values = np.frombuffer(bytes.fromhex(colour[1:]), np.uint8) / 255
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def oklab(rgb: np.ndarray) -> np.ndarray:
    """Convert linear sRGB to Oklab (Björn Ottosson, "A perceptual color space for image processing", 2020)."""
    cones = [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
    lab = [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
    return np.array(lab) @ np.cbrt(np.array(cones) @ np.clip(rgb, 0, 1))


@pytest.mark.parametrize(("colours", "page"), [((*LIGHT, OTHER[False]), "#ffffff"), ((*DARK, OTHER[True]), "#0f172a")])
def test_colours_are_distinguishable_with_any_colour_vision(colours: tuple[str, ...], page: str) -> None:
    luminance = [0.05 + linear(colour) @ [0.2126, 0.7152, 0.0722] for colour in (*colours, page)]
    for value in luminance[:-1]:
        assert max(value, luminance[-1]) / min(value, luminance[-1]) >= 3
    for name, matrix in VISION.items():
        seen = [oklab(np.array(matrix) @ linear(colour)) for colour in colours[:-1]]
        apart = min(float(np.linalg.norm(a - b)) for a, b in combinations(seen, 2))
        assert apart > 0.15, name  # 0.02 is just noticeable


def test_tab_offers_only_the_maps_that_exist(tmp_path: Path, icons: Path) -> None:
    root = tmp_path / "index"
    shutil.copytree(icons, root, ignore=shutil.ignore_patterns("lock"))
    index = Indexes(root).get()
    for name, method in index.maps:
        if name != "pixels" or method is Method.TSNE:
            projection_path(index.snapshot, name, method).unlink()
    searcher = Searcher(Indexes(root))
    tab = make_tab(searcher)
    shown = run_tab(tab, "icons")
    features, method, note = shown[tab.features], shown[tab.method], shown[tab.note]
    assert (features.value, method.value) == ("pixels", None), "the tab must not change the method"
    assert not features.visible
    assert "Raw pixels" in note
