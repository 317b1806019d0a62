"""The effect of distortions on a ranking: figures against plain Python, the sweep, the command and the endpoint."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image

from retrieval.analysis import robustness
from retrieval.analysis.plots import PALETTE, plot_sweep, style_of
from retrieval.analysis.robustness import STEPS, SWEEP, Kind, Step, Withstood, mean_overlaps, measure, sweep
from retrieval.cli import main
from retrieval.errors import PictureError, QueryError
from retrieval.features import DEFAULT_SET, FEATURES
from retrieval.metrics import Metric
from retrieval.pictures.distortion import UNDISTORTED, Distortion
from retrieval.pictures.loading import load_picture
from retrieval.search import embedding
from retrieval.search.embedding import QueryEmbedder, QueryPictures
from retrieval.search.query import Query
from retrieval.search.searcher import Searcher
from tests.support.nearly import nearly

TILTED = Distortion(rotation=30, quality=40)


@pytest.fixture
def cat(queries):
    return Query(picture=queries / "cat.png", top_k=8)


@pytest.fixture(scope="module")
def swept(icons_searcher, queries):
    return list(sweep(icons_searcher, Query(picture=queries / "cat.png")))


def positions(ranking):
    return [hit.position for hit in ranking.hits]


@pytest.mark.parametrize("metric", Metric)
@pytest.mark.parametrize("k", [1, 7, 5000])
def test_ranking_is_unchanged_without_a_distortion(icons_searcher, cat, metric, k):
    result = measure(icons_searcher, replace(cat, metric=metric, top_k=k))
    assert [each.distorted.features for each in result.by_features] == list(DEFAULT_SET)
    for each in result.by_features:
        assert (each.overlap, each.tau) == (1, 1)
        assert not any(each.moves)
        assert each.distorted.hits == each.undistorted.hits
        assert each.cosine == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("metric", Metric)
def test_rankings_match_a_search_and_figures_match_plain_python(icons_searcher, cat, metric):
    query = replace(cat, metric=metric, distortion=TILTED)
    for each in measure(icons_searcher, query).by_features:
        features = each.distorted.features
        before = icons_searcher.search(replace(query, features=features, distortion=UNDISTORTED))
        after = icons_searcher.search(replace(query, features=features))
        assert each.undistorted.hits == before.hits
        assert each.distorted.hits == after.hits
        there, here = positions(before), positions(after)
        assert each.overlap == len({*here} & {*there}) / 8
        assert list(each.moves) == [there.index(p) - here.index(p) if p in there else None for p in here]
        index = icons_searcher.indexes.get()
        a, b = (
            icons_searcher.embedder.embed(index, replace(query, features=features, distortion=d)).vector.astype(float)
            for d in (UNDISTORTED, TILTED)
        )
        assert each.cosine == pytest.approx(a @ b / np.sqrt((a @ a) * (b @ b)), abs=1e-9)


def test_text_and_engine_are_ignored(icons_searcher, cat):
    plain = measure(icons_searcher, replace(cat, distortion=TILTED))
    asked = replace(cat, distortion=TILTED, text="red", without="dog", engine="chroma", features="pixels")
    assert measure(icons_searcher, asked).to_json() == plain.to_json()


def test_labels_and_region_are_used(icons_searcher, cat):
    food = measure(icons_searcher, replace(cat, distortion=TILTED, labels=("food-prepared",)))
    for each in food.by_features:
        assert {hit.label for hit in (*each.undistorted.hits, *each.distorted.hits)} == {"food-prepared"}
    corner = replace(cat, region=(0, 0, 0.5, 0.5))
    for features in DEFAULT_SET:
        found = icons_searcher.search(replace(corner, features=features)).hits
        assert found in [each.undistorted.hits for each in measure(icons_searcher, corner).by_features]


def test_gallery_picture_equals_its_thumbnail_with_and_without_distortion(icons_searcher):
    index = icons_searcher.indexes.get()
    item = measure(icons_searcher, Query(position=700, distortion=TILTED))
    thumbnail = measure(icons_searcher, Query(picture=index.thumbnail(700), distortion=TILTED))
    for its, other in zip(item.by_features, thumbnail.by_features, strict=True):
        assert its.cosine == other.cosine
        for before, after in ((its.undistorted, other.undistorted), (its.distorted, other.distorted)):
            others = [hit.position for hit in after.hits if hit.position != 700]  # it is not its own result
            assert [hit.position for hit in before.hits][: len(others)] == others
    assert all((each.overlap, each.tau) == (1, 1) for each in measure(icons_searcher, Query(position=700)).by_features)


def test_missing_picture_is_an_error(icons_searcher):
    with pytest.raises(PictureError, match="There is no query image"):
        measure(icons_searcher, Query(text="red fruit"))
    with pytest.raises(PictureError, match="There is no query image"):
        next(sweep(icons_searcher, Query()))
    with pytest.raises(QueryError, match="no item 5000"):
        measure(icons_searcher, Query(position=5000))


@pytest.mark.parametrize("colour", ["black", "white"])
def test_single_colour_picture_gives_finite_figures(icons_searcher, colour):
    steps = list(sweep(icons_searcher, Query(picture=Image.new("RGB", (40, 30), colour), metric=Metric.CORRELATION)))
    figures = [value for step in steps for each in step.withstood.values() for value in (each.overlap, each.cosine)]
    assert np.isfinite(figures).all()


def test_sweep_has_every_step_and_matches_single_measurements(icons_searcher, queries, swept):
    assert [(step.kind, step.distortion) for step in swept] == [(k, d) for k, ds in SWEEP.items() for d in ds]
    assert len(swept) == STEPS
    assert all(step.strength == getattr(step.distortion, step.kind) for step in swept)
    for step in swept:
        changed = {name for name, value in asdict(step.distortion).items() if value != getattr(UNDISTORTED, name)}
        assert changed == {step.kind}
    for step in (swept[1], swept[5], swept[-1]):
        alone = measure(icons_searcher, Query(picture=queries / "cat.png", distortion=step.distortion))
        for each in alone.by_features:
            other = step.withstood[each.distorted.features]
            assert other.distorted.hits == each.distorted.hits
            assert (other.overlap, other.tau, other.moves) == (each.overlap, each.tau, each.moves)
            assert other.cosine == each.cosine


def test_sweep_decodes_once_and_embeds_each_step_once(icons_searcher, queries, monkeypatch):
    counted = {"decoded": 0, "embedded": 0}
    embed = QueryEmbedder.embed_pictures

    def load(source, *more):
        counted["decoded"] += 1
        return load_picture(source)

    def embed_pictures(self, index, features, pictures):
        counted["embedded"] += len(pictures)
        return embed(self, index, features, pictures)

    monkeypatch.setattr(embedding, "load_picture", load)
    monkeypatch.setattr(QueryEmbedder, "embed_pictures", embed_pictures)
    fresh = Searcher(icons_searcher.indexes)
    fresh.embedder.loaded = icons_searcher.embedder.loaded
    query = Query(picture=queries / "duck.png")
    list(sweep(fresh, query))
    assert counted == {"decoded": 1, "embedded": 3 * (STEPS + 1)}
    list(sweep(fresh, replace(query, metric=Metric.L1, top_k=3)))
    assert counted == {"decoded": 1, "embedded": 3 * (STEPS + 1)}


def test_sweep_can_be_closed_early(icons_searcher, queries):
    steps = sweep(icons_searcher, Query(picture=queries / "pizza.png"))
    assert next(steps).kind is Kind.ROTATION
    steps.close()
    with pytest.raises(StopIteration):
        next(steps)


def test_vectors_keep_the_requested_order(icons_searcher, cat):
    picture = QueryPictures(icons_searcher.embedder, icons_searcher.indexes.get(), cat, []).main
    asked = [Distortion(grey=1), UNDISTORTED, TILTED, Distortion(grey=1)]
    together = picture.vectors(asked)
    for features in DEFAULT_SET:
        assert np.array_equal(together[features][0], together[features][3])
        for row, each in zip(together[features], asked, strict=True):
            assert np.array_equal(row, picture.vectors([each])[features][0])


def test_pixels_are_more_robust_than_clip_only_to_blur_and_jpeg(icons_searcher, queries):
    """The tab's explanation holds for the bundled queries on average."""
    means = []
    for path in sorted(queries.glob("*.png"))[::3]:
        of_one = mean_overlaps(list(sweep(icons_searcher, Query(picture=path))))
        means.append([[of_one[kind][features] for features in ("pixels", "clip")] for kind in Kind])
    pixels, clip = np.moveaxis(np.mean(means, axis=0), 1, 0)
    ahead = dict(zip(Kind, pixels > clip, strict=True))
    assert ahead == {
        Kind.ROTATION: False,
        Kind.CROP: False,
        Kind.BLUR: True,
        Kind.GREY: False,
        Kind.QUALITY: True,
    }


def make_step(kind, clip, pixels):
    """Return a step with given overlaps, for tests of the sentence."""
    hits = type("Ranking", (), {"hits": range(10)})()
    withstood = {
        features: Withstood(hits, hits, overlap, 0.0, (), 0.0)
        for features, overlap in (("clip", clip), ("pixels", pixels))
    }
    return Step(kind, SWEEP[kind][0], withstood)


@pytest.mark.parametrize(
    ("steps", "sentence"),
    [
        (
            [(Kind.ROTATION, 0.4, 0.1), (Kind.ROTATION, 0.2, 0.1), (Kind.BLUR, 0.5, 0.9)],
            "CLIP features keep more under rotation (0.30 against 0.10); raw pixels keep more under blur (0.90 against "
            "0.50).",
        ),
        (
            [(Kind.ROTATION, 0.4, 0.1), (Kind.CROP, 0.4, 0.1), (Kind.GREY, 0.7, 0.7), (Kind.QUALITY, 0.601, 0.604)],
            "CLIP features keep more under rotation (0.40 against 0.10) and crop (0.40 against 0.10); "
            "both keep the same under grey (0.70) and JPEG (0.60).",
        ),
        ([(Kind.QUALITY, 0.1, 0.2)], "raw pixels keep more under JPEG (0.20 against 0.10)."),
    ],
)
def test_sentence_matches_the_figures(steps, sentence):
    assert robustness.lesson([make_step(*step) for step in steps]) == f"Mean overlap@10 for this image: {sentence}"


def test_third_feature_type_is_included_with_its_own_colour_and_marker():
    steps = [make_step(Kind.ROTATION, 0.4, 0.1), make_step(Kind.BLUR, 0.5, 0.9), make_step(Kind.CROP, 0.2, 0.2)]
    for step, overlap in zip(steps, (0.3, 0.9, 0.2), strict=True):
        step.withstood["edges"] = replace(step.withstood["clip"], overlap=overlap)
    assert robustness.lesson(steps) == (
        "Mean overlap@10 for this image: CLIP features keep most under rotation (0.40 against 0.10 and 0.30); "
        "raw pixels and edges keep most under blur (0.90 against 0.50); all keep the same under crop (0.20)."
    )
    names = steps[0].withstood
    assert robustness.sweep_columns(names) == ["Distortion", "CLIP features", "Raw pixels", "Edges"]
    drawn = [*FEATURES, *("dino", "siglip")[: len(PALETTE) - len(FEATURES)]]
    assert len({style_of(each, drawn) for each in drawn}) == len({style_of(each, drawn)[0] for each in drawn})
    assert len(drawn) > len(FEATURES), "give the palette a colour for each built-in feature type and one more"


def test_table_has_every_step_and_marks_pending_ones(swept):
    empty, some, full = (robustness.sweep_rows(swept[:n], DEFAULT_SET) for n in (0, 3, STEPS))
    assert [row[0] for row in empty] == [row[0] for row in full]
    assert [row[0] for row in full][:5] == [
        "Rotation 15°",
        "Rotation 45°",
        "Rotation 90°",
        "Rotation 180°",
        "Crop 20 %",
    ]
    assert full[-1][0] == "JPEG quality 5"
    assert sum(row.count(robustness.PENDING) for row in empty) == 3 * STEPS
    assert some[:3] == full[:3]
    assert some[3:] == empty[3:]
    for row, step in zip(full, swept, strict=True):
        assert row[1:] == [f"{step.overlap(each):.2f}" for each in ("clip", "pixels", "color")]


@pytest.mark.parametrize(
    ("distortion", "said"),
    [
        (UNDISTORTED, "The query image, undistorted"),
        (Distortion(rotation=-12.5), "The query image, rotated by -12.5°"),
        (
            Distortion(45, 0.2, 0.025, 0.5, 20),
            "The query image, rotated by 45°, cropped by 20 %, blurred by 2.5 % of its shorter side, 50 % grey, "
            "saved as JPEG of quality 20",
        ),
    ],
)
def test_distortions_are_described(distortion, said):
    assert robustness.about_distortion(distortion) == said


def test_plot_shows_both_features_on_a_transparent_background(swept):
    for dark in (False, True):
        drawing = np.asarray(plot_sweep(swept, dark))
        assert drawing.shape[2] == 4
        assert drawing[0, 0, 3] == 0
        opaque = {tuple(map(int, colour)) for colour in np.unique(drawing[drawing[..., 3] == 255][:, :3], axis=0)}
        assert {(0, 114, 178), (213, 94, 0)} <= opaque
    assert not np.array_equal(np.asarray(plot_sweep(swept, False)), np.asarray(plot_sweep(swept, True)))


def run(capsys, icons, *arguments):
    capsys.readouterr()
    code = main(["robustness", *map(str, arguments), "--index", str(icons)])
    return code, capsys.readouterr()


def test_command_compares_with_a_distortion(capsys, icons, icons_searcher, cat):
    flags = ["--rotation", "30", "--quality", "40", "--top-k", "8", "--metric", "l1"]
    code, said = run(capsys, icons, cat.picture, *flags, "--json")
    answer = json.loads(said.out)
    assert code == 0
    wanted = measure(icons_searcher, replace(cat, metric=Metric.L1, distortion=TILTED)).to_json()
    assert answer == nearly(wanted)
    assert answer["distortion"] == {"rotation": 30, "crop": 0, "blur": 0, "grey": 0, "quality": 40}
    assert [len(each["distorted"]) for each in answer["results"]] == [8, 8, 8]
    code, said = run(capsys, icons, cat.picture, *flags)
    assert (code, said.out.count("of 8 results kept")) == (0, 3)
    assert "rotated by 30°, saved as JPEG of quality 40" in said.out


def test_command_sweeps_without_a_distortion(capsys, icons, cat, swept):
    code, said = run(capsys, icons, cat.picture, "--json")
    steps = json.loads(said.out)["steps"]
    assert code == 0
    assert steps == nearly([step.to_json() for step in swept])
    code, said = run(capsys, icons, cat.picture)
    lines = said.out.splitlines()
    assert code == 0
    for name, *shares in robustness.sweep_rows(swept, DEFAULT_SET):
        assert any(line.startswith(name) and line.split()[-3:] == shares for line in lines)
    assert lines[-1] == robustness.lesson(swept)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--crop", "1"], "crop must be a number from 0 to 0.9"),
        (["--rotation", "nan"], "rotation must be a number from -180 to 180"),
        (["--quality", "0"], "quality must be a whole number from 1 to 100"),
        (["--metric", "l3"], "Metric 'l3' does not exist."),
        (["--top-k", "0"], "top_k must be a whole number"),
    ],
)
def test_command_reports_values_out_of_range(capsys, icons, cat, flags, said):
    code, answer = run(capsys, icons, cat.picture, *flags)
    assert (code, answer.out) == (2, "")
    assert said in answer.err


def test_command_compares_with_a_distortion_of_zero(capsys, icons, cat):
    code, said = run(capsys, icons, cat.picture, "--rotation", "0", "--json")
    assert code == 0
    assert [(each["overlap"], each["tau"]) for each in json.loads(said.out)["results"]] == [(1, 1)] * 3


@pytest.fixture(scope="module")
def client(address):  # the fixture
    return Client(address, verbose=False)


def test_endpoint_returns_the_same_as_the_command(client, capsys, icons, queries):
    path = queries / "lion.png"
    answer = client.predict(handle_file(str(path)), 30, 0.2, 0.02, 1, 20, "l2", 6, "icons", api_name="/robustness")
    flags = "--rotation 30 --crop 0.2 --blur 0.02 --grey 1 --quality 20 --metric l2 --top-k 6 --gallery icons --json"
    code, said = run(capsys, icons, path, *flags.split())
    assert code == 0
    assert answer == nearly(json.loads(said.out))


def test_endpoint_distorts_nothing_by_default(client, queries):
    answer = client.predict(image=handle_file(str(queries / "lion.png")), api_name="/robustness")
    assert answer["distortion"] == asdict(UNDISTORTED)
    assert (answer["metric"], answer["top_k"]) == ("cosine", 10)
    assert [(each["overlap"], each["tau"]) for each in answer["results"]] == [(1, 1)] * 3


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"rotation": 200}, "rotation must be a number from -180 to 180 (degrees, counter-clockwise), not 200."),
        ({"quality": 20.5}, "quality must be a whole number from 1 to 100"),
        ({"blur": None}, "blur must be a number from 0 to 0.1"),
        ({"metric": "<b>"}, "Metric '<b>' does not exist."),
        ({"gallery": "nowhere"}, "There is no gallery 'nowhere'."),
        ({"image": None}, "The argument image is missing."),
    ],
)
def test_endpoint_reports_invalid_arguments(client, queries, changed, said):
    with pytest.raises(AppError) as caught:
        client.predict(**({"image": handle_file(str(queries / "fox.png"))} | changed), api_name="/robustness")
    assert said in str(caught.value)
