"""The command line as people and scripts use it: rankings, JSON, plots, figures, exit codes, messages."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from itertools import product
from types import SimpleNamespace

import datasets
import pytest
from PIL import Image

from retrieval import index_builder
from retrieval.cli import main
from retrieval.engines import ENGINES
from retrieval.features import DEFAULT_SET
from retrieval.metrics import Metric
from retrieval.pictures.loading import load_picture
from retrieval.search.query import Added, Query
from retrieval.search.searcher import Searcher
from retrieval.storage.catalog import Indexes
from retrieval.storage.manifest import publish_manifest, read_manifest
from tests.support.paths import ROOT

HIT_KEYS = {"rank", "id", "label", "caption", "score"}
TIMINGS = {"decode", "features", "search", "total"}


@pytest.fixture(scope="module")
def index(few_icons):
    """An index folder with the gallery `icons`: 32 animals and 32 dishes."""
    return few_icons


@pytest.fixture
def copied(index, tmp_path):
    shutil.copytree(index, tmp_path / "index")
    return tmp_path / "index"


@pytest.fixture
def run(index, capsys):
    """Run a command on the index in this process; return its exit code, output and errors."""

    def run(command, *arguments, index=index):
        capsys.readouterr()
        code = main([command, *map(str, arguments), "--index", str(index)])
        return SimpleNamespace(code=code, **capsys.readouterr()._asdict())

    return run


def is_refused(result, *expected):
    """Assert that a run ended with code 2 and a single error line that contains these words; return True."""
    lines = result.err.strip().splitlines()
    assert (result.code, result.out, len(lines)) == (2, "", 1), result.err
    assert lines[0].startswith("error: ")
    for word in expected:
        assert str(word) in lines[0]
    return True


def run_process(*command, **environment):
    done = subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )
    return SimpleNamespace(code=done.returncode, out=done.stdout, err=done.stderr)


def test_search_prints_a_table_timings_and_an_explanation(run, queries):
    result = run("search", queries / "pizza.png", "--top-k", 3)
    assert (result.code, result.err) == (0, "")
    lines = result.out.splitlines()
    assert [line.split()[0] for line in lines[:3]] == ["1", "2", "3"]
    assert lines[0].split()[2:] == ["pizza", "food-prepared", "1f355"]
    assert "64 images" in result.out
    assert "larger is closer" in result.out


@pytest.mark.parametrize(("features", "metric", "engine"), list(product(DEFAULT_SET, Metric, ENGINES)))
def test_search_json_of_every_combination(run, queries, features, metric, engine):
    chosen = ["--features", features, "--metric", metric, "--engine", engine]
    result = run("search", queries / "pizza.png", "--json", "--top-k", 5, *chosen)
    assert result.code == 0
    answer = json.loads(result.out)
    keys = {"gallery", "features", "metric", "engine", "model", "notes", "hits", "timings_ms"}
    assert set(answer) - {"engine_note"} == keys
    assert [answer[key] for key in ("gallery", "features", "metric", "engine", "model")] == [
        "icons",
        features,
        metric,
        engine,
        "mini",
    ]
    assert all(set(hit) == HIT_KEYS for hit in answer["hits"])
    assert [hit["rank"] for hit in answer["hits"]] == [1, 2, 3, 4, 5]
    scores = [hit["score"] for hit in answer["hits"]]
    assert scores == sorted(scores, reverse=metric in (Metric.COSINE, Metric.CORRELATION))
    assert set(answer["timings_ms"]) == TIMINGS
    assert answer["timings_ms"]["total"] >= answer["timings_ms"]["search"] > 0
    if features == "clip":
        assert answer["hits"][0]["caption"] == "pizza"


def test_top_k_above_the_gallery_size_returns_all_pictures(run, queries):
    result = run("search", queries / "fox.png", "--json", "--top-k", 10_000)
    assert len({hit["id"] for hit in json.loads(result.out)["hits"]}) == 64


def test_search_by_several_feature_types(run, queries):
    answer = json.loads(run("search", queries / "fox.png", "--json", "--features", "pixels,clip").out)
    assert [each["features"] for each in answer["rankings"]] == ["pixels", "clip"]
    alone = json.loads(run("search", queries / "fox.png", "--json", "--features", "pixels").out)
    assert answer["rankings"][0]["hits"] == alone["hits"]
    table = run("search", queries / "fox.png", "--features", "pixels,clip").out
    assert table.index("Raw pixels") < table.index("CLIP features")
    assert "one feature type" in run("search", queries / "fox.png", "--features", "pixels,clip", "--plot", "x.png").err


def test_search_with_added_images_and_signed_terms(run, index, queries):
    searcher = Searcher(Indexes(index))
    item = searcher.indexes.get().entry(40)
    flags = ["--more", queries / "fox.png", "--more", item.id, "--less", queries / "lion.png"]
    asked = ["search", queries / "cat.png", *flags, "--text", "- night + day 🎉", "--features", "pixels,clip", "--json"]
    found = json.loads(run(*asked).out)
    added = (Added(queries / "fox.png"), Added(position=40), Added(queries / "lion.png", more=False))
    query = Query(queries / "cat.png", added=added, text="day 🎉", without="night")
    wanted = searcher.search_each(query, ["pixels", "clip"])
    searcher.indexes.close()
    assert [each["hits"] for each in found["rankings"]] == [each.to_json()["hits"] for each in wanted]
    assert [ranking["notes"] for ranking in found["rankings"]] == [
        ["Raw pixels do not support text, so only the images are searched."],
        ["Emoji are searched by their names: party popper."],
    ]
    assert is_refused(run("search", "--more", "nothing"), "has no image 'nothing'")


@pytest.mark.parametrize("command", ["search", "compare"])
def test_search_and_compare_print_what_the_model_cannot_read(run, command):
    assert 'note: The model mini cannot read most of "猫"' in run(command, "--text", "猫").out


def test_search_with_a_region_and_without_near_duplicates(run, queries, tmp_path):
    with Image.open(queries / "cat.png") as picture:
        load_picture(picture).crop((0, 0, 64, 128)).save(tmp_path / "half.png")
    part = run("search", queries / "cat.png", "--region", "0,0,0.5,1", "--json")
    half = run("search", tmp_path / "half.png", "--json")
    assert json.loads(part.out)["hits"] == json.loads(half.out)["hits"]
    few = json.loads(run("search", queries / "cat.png", "--alike", "0", "--json").out)["hits"]
    assert [hit["rank"] for hit in few] == list(range(1, len(few) + 1))
    assert sum(1 + hit.get("duplicates", 0) for hit in few) == 64
    assert is_refused(run("search", queries / "cat.png", "--region", "0,0,1"), "region must be four numbers")
    assert is_refused(run("search", queries / "cat.png", "--alike", "7"), "alike must be a number from 0 to 1")


def test_templates_change_text_searches_and_need_a_placeholder(run, capsys):
    plain = json.loads(run("search", "--text", "dog", "--json", "--template", "{}").out)["hits"]
    usual = json.loads(run("search", "--text", "dog", "--json").out)["hits"]
    two = run("search", "--text", "dog", "--json", "--template", "{}", "--template", "not a {}, but the sea").out
    assert plain != usual
    assert json.loads(two)["hits"] != plain
    with pytest.raises(SystemExit):
        run("search", "--text", "dog", "--template", "a photo")
    assert "has no placeholder {} for the text" in capsys.readouterr().err


def test_compare_accepts_a_text(run):
    cells = json.loads(run("compare", "--text", "something to drink", "--json", "--exact-only").out)["cells"]
    assert [cell["features"] for cell in cells] == ["clip"] * 4


@pytest.mark.parametrize("top_k", [1, 10, 64])
def test_plot_is_a_png_of_reasonable_size(run, queries, tmp_path, top_k):
    target = tmp_path / "plot.png"
    result = run("search", queries / "lion.png", "--features", "pixels", "--top-k", top_k, "--plot", target)
    assert result.code == 0
    assert str(target) in result.out
    with Image.open(target) as plot:
        assert plot.format == "PNG"
        assert 1000 <= plot.width <= 2000
        assert 200 <= plot.height <= 4000
        assert len(plot.convert("RGB").getcolors(2**24)) > 500  # pictures, not an empty plot


def test_evaluate_leave_one_out(run):
    result = run("evaluate", "--json")
    assert result.code == 0
    answer = json.loads(result.out)
    assert (answer["gallery"], answer["model"], answer["pictures"]) == ("icons", "mini", 64)
    assert "64" in answer["method"]
    found = {(each["features"], each["metric"]): each for each in answer["results"]}
    assert found.keys() == set(product(DEFAULT_SET, Metric))
    for each in found.values():
        assert each["engine"] == "exact"
        assert all(figure["low"] <= figure["value"] <= figure["high"] for figure in each["measures"].values())
    best = found["clip", "cosine"]
    assert best["place"] == 1
    assert best["measures"]["mAP"]["value"] > found["pixels", "cosine"]["measures"]["mAP"]["value"]
    assert answer["per_class"]


def test_evaluate_with_chroma_prints_a_table_without_map(run):
    result = run("evaluate", "--engine", "chroma", "--sample", 8)
    assert result.code == 0
    rows = [line for line in result.out.splitlines() if "| ChromaDB |" in line]
    assert len(rows) == len(DEFAULT_SET) * len(Metric)
    assert all(row.endswith("| - |") for row in rows)


def test_evaluate_with_query_folders(run, queries, tmp_path):
    for label, names in (
        ("animal-mammal", ("cat", "fox", "lion")),
        ("food-prepared", ("pizza",)),
        ("ships", ("cactus",)),
    ):
        (tmp_path / "queries" / label).mkdir(parents=True)
        for name in names:
            shutil.copy(queries / f"{name}.png", tmp_path / "queries" / label)
    (tmp_path / "queries" / "food-prepared" / "spoilt.png").write_text("no picture")
    result = run("evaluate", "--queries", tmp_path / "queries", "--json")
    assert result.code == 0
    answer = json.loads(result.out)
    assert str(tmp_path / "queries") in answer["method"]
    clip = [each for each in answer["results"] if each["features"] == "clip" and each["metric"] == "cosine"]
    assert clip[0]["measures"]["P@1"]["value"] == 1  # the gallery has no label `ships`, so that query is skipped


@pytest.mark.parametrize("queries", ["nothing/there", "labels of another gallery", "no labels"])
def test_evaluate_refuses_query_folders_without_usable_labels(run, tmp_path, queries):
    folder = tmp_path / queries
    if "labels" in queries:
        inner = folder / ("ships" if "another" in queries else "")
        inner.mkdir(parents=True)
        Image.new("RGB", (9, 9)).save(inner / "a.png")
    assert is_refused(run("evaluate", "--queries", folder), queries)


def test_info_shows_galleries_model_and_versions(run, index):
    answer = json.loads(run("info", "--json").out)
    gallery = answer["galleries"][0]
    assert (gallery["name"], gallery["pictures"], gallery["skipped"], gallery["model"]) == ("icons", 64, 0, "mini")
    assert answer["packages"]["datasets"] == datasets.__version__
    printed = run("info")
    assert printed.code == 0
    for word in ("icons", "64", "mini", "16 x 16", answer["python"], datasets.__version__):
        assert str(word) in printed.out


IMPORTED = """
import json, sys
from retrieval.cli import main
try:
    main(sys.argv[1:])
finally:
    print(json.dumps([name for name in ("torch", "transformers", "chromadb", "datasets") if name in sys.modules]))
"""


@pytest.mark.parametrize(
    "arguments",
    [["search", "fox.png", "--features", "pixels"], ["search", "missing.png"], ["info"], ["search", "--feature-types"]],
)
def test_what_needs_no_model_does_not_wait_for_torch(index, queries, arguments):
    at = [str(queries / each) if each.endswith(".png") else each for each in arguments]
    done = run_process("-c", IMPORTED, *at, "--index", index)
    assert json.loads(done.out.splitlines()[-1]) == [], done.err


def test_model_is_loaded_without_scipy(index, queries):
    script = IMPORTED.replace('"torch", "transformers", "chromadb", "datasets"', '"torch", "scipy"')
    done = run_process("-c", script, "search", queries / "fox.png", "--index", index)
    assert json.loads(done.out.splitlines()[-1]) == ["torch"], done.err


def test_info_without_an_index_and_with_a_damaged_one(run, copied, tmp_path):
    assert json.loads(run("info", "--json", index=tmp_path / "none").out)["galleries"] == []
    assert "index_builder.py" in run("info", index=tmp_path / "none").out
    (copied / "icons" / "manifest.json").write_text("{")
    answer = json.loads(run("info", "--json", index=copied).out)
    assert "--rebuild" in answer["galleries"][0]["error"]


@pytest.mark.parametrize("command", ["", "search", "evaluate", "info"])
def test_help_shows_examples(capsys, command):
    with pytest.raises(SystemExit) as ended:
        main([*command.split(), "--help"])
    shown = capsys.readouterr()
    assert (ended.value.code, shown.err) == (0, "")
    assert "examples:" in shown.out
    assert f"python -m retrieval {command}" in shown.out


def test_help_of_the_builder_shows_examples(capsys):
    with pytest.raises(SystemExit) as ended:
        index_builder.main(["--help"])
    shown = capsys.readouterr()
    assert (ended.value.code, shown.err) == (0, "")
    assert "examples:" in shown.out
    assert "python index_builder.py" in shown.out


def test_errors_for_files_that_are_not_pictures(run, tmp_path):
    (tmp_path / "text.jpg").write_text("no picture")
    (tmp_path / "empty.png").write_bytes(b"")
    assert is_refused(run("search", tmp_path / "text.jpg"), "not an image")
    assert is_refused(run("search", tmp_path / "empty.png"), "empty")
    assert is_refused(run("search", tmp_path / "missing.png"), "cannot be read", "No such file")
    assert is_refused(run("search", tmp_path), "cannot be read")


def test_errors_in_a_separate_process_show_no_traceback(index, tmp_path):
    result = run_process("-m", "retrieval", "search", tmp_path / "missing.png", "--index", index)
    assert is_refused(result, "No such file")


def test_errors_for_a_missing_index_and_an_unknown_gallery(run, queries, tmp_path):
    for command in (["search", queries / "cat.png"], ["evaluate"]):
        assert is_refused(run(*command, index=tmp_path / "none"), tmp_path / "none", "index_builder.py --index")
        assert is_refused(run(*command, "--gallery", "holiday"), "holiday", "icons")


@pytest.mark.parametrize(
    ("flag", "value", "choices"),
    [
        ("--metric", "manhattan", ", ".join(Metric)),
        ("--features", "sift", "pixels, color, clip"),
        ("--engine", "faiss", ", ".join(ENGINES)),
        ("--top-k", 0, "1 to 10,000"),
        ("--top-k", -3, "1 to 10,000"),
        ("--top-k", 10**9, "1 to 10,000"),
    ],
)
def test_errors_for_invalid_choices_and_numbers(run, queries, flag, value, choices):
    assert is_refused(run("search", queries / "cat.png", flag, value), value, choices)


def test_index_of_another_model_can_only_be_searched_by_pixels(run, queries, copied):
    manifest = read_manifest(copied / "icons")
    features = manifest.features | {"clip": replace(manifest.model, revision="0123456789abcdef")}
    publish_manifest(copied / "icons", replace(manifest, features=features))
    assert is_refused(run("search", queries / "cat.png", index=copied), "0123456789abcdef", "--rebuild")
    assert run("search", queries / "cat.png", "--features", "pixels", index=copied).code == 0


@pytest.mark.parametrize("target", ["missing folder/plot.png", "plot.docx", ""])
def test_error_for_a_plot_that_cannot_be_written(run, queries, tmp_path, target):
    result = run("search", queries / "cat.png", "--features", "pixels", "--plot", tmp_path / target)
    assert is_refused(result, "plot cannot be written", tmp_path / target)


def test_environment_variables_set_flags_and_flags_take_precedence(index, queries, monkeypatch, capsys):
    monkeypatch.setenv("RETRIEVAL_INDEX", str(index))
    monkeypatch.setenv("RETRIEVAL_FEATURES", "pixels")
    monkeypatch.setenv("RETRIEVAL_METRIC", "l1")
    monkeypatch.setenv("RETRIEVAL_TOP_K", "3")
    monkeypatch.setenv("RETRIEVAL_JSON", "yes")
    search = ["search", str(queries / "cat.png")]
    assert main(search) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["features"], answer["metric"], len(answer["hits"])) == ("pixels", "l1", 3)
    assert main([*search, "--metric", "l2", "--top-k", "1"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["features"], answer["metric"], len(answer["hits"])) == ("pixels", "l2", 1)


def test_environment_variables_set_flags_of_the_builder(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("RETRIEVAL_INDEX", str(tmp_path / "index"))
    monkeypatch.setenv("RETRIEVAL_LIMIT", "2")
    monkeypatch.setenv("RETRIEVAL_GALLERY", "of-the-environment")
    monkeypatch.setenv("RETRIEVAL_MODEL", "mini")
    monkeypatch.setenv("RETRIEVAL_PIXEL_SIZE", "4")
    assert index_builder.main(["--gallery", "of-the-flag"]) == 0
    indexes = Indexes(tmp_path / "index")
    assert indexes.names() == ["of-the-flag"]
    assert (len(indexes.get()), indexes.get().manifest.dimensions("pixels")) == (2, 4 * 4 * 3)


@pytest.mark.parametrize(("name", "value"), [("LIMIT", "0"), ("PIXEL_SIZE", "huge"), ("INDEX", "ftp://127.0.0.1/x")])
def test_invalid_environment_variables_are_refused_like_flags(monkeypatch, capsys, name, value):
    monkeypatch.setenv(f"RETRIEVAL_{name}", value)
    with pytest.raises(SystemExit) as stopped:
        index_builder.main([])
    assert stopped.value.code == 2
    assert f"--{name.lower().replace('_', '-')}" in capsys.readouterr().err


def test_min_score_leaves_out_worse_results(run, queries):
    everything = json.loads(run("search", queries / "fox.png", "--json").out)["hits"]
    kept = json.loads(run("search", queries / "fox.png", "--json", "--min-score", everything[2]["score"]).out)["hits"]
    assert kept == everything[:3]
    is_refused(run("search", queries / "fox.png", "--min-score", "nan"), "min_score must be a number")
