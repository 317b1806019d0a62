"""Exchange: JSON, CSV, Markdown, TREC files, the report, and comparisons of two evaluations."""

import csv
import io
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from retrieval.analysis.evaluation import Evaluation
from retrieval.analysis.export import save
from retrieval.analysis.leaderboard import Leaderboard, by_class, leaderboard
from retrieval.analysis.queries import ids_of, ignoring, ignoring_alike, judged_by, leave_one_out
from retrieval.analysis.results import (
    classes_to_csv,
    markdown,
    queries_to_csv,
    results_json,
    sentences,
    to_csv,
    to_json,
)
from retrieval.analysis.results_comparison import changes_markdown, compare_results, read_results
from retrieval.analysis.trec import encoded, places_of, ranked, read_ignored, read_qrels, read_run
from retrieval.cli import main
from retrieval.errors import GalleryError, RetrievalError
from retrieval.search.query import Combination
from retrieval.storage.reader import GalleryIndex
from tests.support.oracles import by_trec_eval
from tests.support.published import publish_gallery

# Labels that would be markup, a formula, or the end of a table's cell somewhere.
LABELS = ["<b>fox</b>", "=1+1", "a|b", "$x$ & y"] * 12
SIZE = len(LABELS)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("results")


@pytest.fixture(scope="module")
def index(root: Path):
    generator = np.random.default_rng(0)
    codes = np.arange(SIZE) % 4
    pixels = generator.random((SIZE, 12), np.float32)
    clip = generator.normal(size=(SIZE, 8)) + 2 * np.eye(4, 8)[codes]
    clip = (clip / np.linalg.norm(clip, axis=1, keepdims=True)).astype(np.float32)
    indexes = publish_gallery(root, pixels, clip, LABELS)
    yield indexes.get()
    indexes.close()


def evaluated(index: GalleryIndex, **options) -> Leaderboard:
    evaluation = Evaluation(index, leave_one_out(index, **options))
    list(evaluation.run())
    return leaderboard(evaluation)


@pytest.fixture(scope="module")
def board(index: GalleryIndex) -> Leaderboard:
    return evaluated(index)


@pytest.fixture(scope="module")
def saved(board: Leaderboard, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "new"
    written = save(board, folder, run_depth=SIZE)
    assert sorted(written) == sorted(folder.iterdir())
    return folder


def test_json_csv_and_markdown_have_the_same_figures(board: Leaderboard) -> None:
    answer = to_json(board)
    lines = list(csv.DictReader(io.StringIO(to_csv(board))))
    table = markdown(board, board.evaluation.names).splitlines()[2:]
    assert len(answer["results"]) == len(lines) == len(table) - 1 == 8
    for result, line, row in zip(answer["results"], lines, table, strict=False):
        assert (result["title"], str(result["place"])) == (line["title"], line["place"])
        shown = []
        for name, figure in result["measures"].items():
            assert [float(line[key]) for key in (name, f"{name} low", f"{name} high")] == list(figure.values())
            assert figure["low"] <= figure["value"] <= figure["high"]
            shown.append(f"{figure['value']:.3f} [{figure['low']:.3f}, {figure['high']:.3f}]")
        assert row.split(" | ")[4:] == [*shown[:-1], f"{shown[-1]} |"]
    assert (answer["queries"], answer["classes"], answer["by"]) == (SIZE, 4, "mAP")
    assert all(0 < value < 1 for value in answer["chance"].values())


def test_places_and_sentences(board: Leaderboard) -> None:
    clip = [row for row in board.rows if row.result.by.features == "clip"]
    pixels = [row for row in board.rows if row.result.by.features == "pixels"]
    assert {row.place for row in pixels} == {5}
    assert max(row.place for row in clip) < 5
    assert all(row.better_than >= 4 for row in clip)
    assert "share the first place" in board.verdict or "is best" in board.verdict
    said = "\n".join(sentences(board))
    assert f"{SIZE} queries of 4 classes." in said
    assert f"A random ranking would have P@5 {board.chance['P@5']:.3f} and mAP {board.chance['mAP']:.3f}." in said
    assert board.chance["P@5"] == pytest.approx(11 / (SIZE - 1))


def test_sample_says_what_it_leaves_open(index: GalleryIndex) -> None:
    said = " ".join(evaluated(index, sample=9).about)
    assert "9 queries of" in said
    assert f"random sample of {SIZE}: the figures of all of them probably lie within the 95 % intervals" in said
    assert "fewer than 5 queries" in said


def test_class_figures_average_to_the_total(board: Leaderboard) -> None:
    rows = by_class(board.evaluation)
    assert [row.label for row in rows] == sorted(set(LABELS))
    for result in board.evaluation.results:
        for name in result.names:
            means = [row.figures[result.title][name].value for row in rows]
            assert np.average(means, weights=[row.queries for row in rows]) == pytest.approx(result.mean(name))
    lines = list(csv.DictReader(io.StringIO(classes_to_csv(board.evaluation))))
    assert len(lines) == 4 * 8
    assert {line["label"] for line in lines} == {"<b>fox</b>", "'=1+1", "a|b", "$x$ & y"}


def test_rows_of_queries_average_to_the_figures(board: Leaderboard) -> None:
    lines = list(csv.DictReader(io.StringIO(queries_to_csv(board.evaluation))))
    assert len(lines) == SIZE * 8
    for row in board.rows:
        own = [float(line["nDCG@5"]) for line in lines if line["title"] == row.result.title]
        assert np.mean(own) == pytest.approx(row.figures["nDCG@5"].value)


def test_results_json_has_what_repeats_the_run(board: Leaderboard, root: Path) -> None:
    answer = results_json(board)
    assert answer["reproduce"]["queries"] == {"queries": "leave-one-out", "sample": None, "seed": 0}
    assert answer["reproduce"]["features"]["clip"]["dimensions"] == 8
    assert answer["reproduce"]["packages"]["numpy"] == np.__version__
    assert answer["reproduce"]["matrices"].keys() == {"pixels.npy", "clip.npy"}
    assert str(root) not in json.dumps(answer)
    assert len(answer["per_query"]["ids"]) == SIZE


def test_results_compared_with_themselves_do_not_differ(saved: Path) -> None:
    both = read_results(saved / "results.json")
    changes = compare_results(both, both, "P@5")
    assert len(changes.changes) == 8
    for each in changes.changes:
        assert (each.difference.value, each.difference.low, each.difference.high, each.p) == (0, 0, 0, 1)
    assert not changes.notes


def test_comparison_finds_a_real_difference(saved: Path, index: GalleryIndex, tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    values = json.loads((saved / "results.json").read_text())
    title = "CLIP features · Cosine"
    column = values["per_query"]["values"][title]["mAP"]
    values["per_query"]["values"][title]["mAP"] = [each - 0.05 for each in column]
    values["reproduce"]["packages"]["numpy"] = "1.0"
    path.write_text(json.dumps(values))
    changes = compare_results(read_results(saved / "results.json"), read_results(path))
    found = {each.title_a: each for each in changes.changes}
    assert found[title].difference.value == pytest.approx(-0.05)
    assert found[title].difference.high < 0
    assert found[title].p == pytest.approx(8e-4)  # the smallest p of a test, times the number of tests
    assert found["Raw pixels · L1"].p == 1
    assert changes.notes == ("The files also differ in: packages.",)
    assert f"| {title} |" in changes_markdown(changes)


def test_comparison_of_other_queries(saved: Path, tmp_path: Path) -> None:
    values = json.loads((saved / "results.json").read_text())
    a = read_results(saved / "results.json")
    values["per_query"]["ids"][:10] = [f"other {at}" for at in range(10)]
    path = tmp_path / "results.json"
    path.write_text(json.dumps(values))
    changes = compare_results(a, read_results(path))
    assert changes.shared == SIZE - 10
    assert "Only the 38 queries that both files have are compared." in changes.notes
    values["per_query"]["ids"] = [f"other {at}" for at in range(SIZE)]
    path.write_text(json.dumps(values))
    changes = compare_results(a, read_results(path))
    assert all(each.p is None for each in changes.changes)
    first = changes.changes[0].difference
    assert first.low < 0 < first.high, "independent samples are not paired"
    assert "independent samples" in changes.notes[0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a results.json"),
        (b"{}", "not a results.json: format"),
        (b"[" * 100_000, "not a results.json"),
        (b"\xff\xfe", "not a results.json"),
        (b'{"format": 2}', "not a results.json"),
    ],
)
def test_error_for_a_file_that_is_no_results(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(RetrievalError, match=message):
        read_results(path)
    with pytest.raises(RetrievalError, match="cannot be read"):
        read_results(tmp_path / "missing.json")


@pytest.mark.parametrize("change", ["short", "title", "format", "measure"])
def test_error_for_damaged_results(saved: Path, tmp_path: Path, change: str) -> None:
    values = json.loads((saved / "results.json").read_text())
    if change == "short":
        values["per_query"]["ids"].pop()
    elif change == "title":
        del values["per_query"]["values"]["Raw pixels · L1"]
    elif change == "format":
        values["format"] = 99
    path = tmp_path / "a.json"
    path.write_text(json.dumps(values))
    with pytest.raises(RetrievalError, match=r"damaged|format 99|no measure 'F1'"):
        compare_results(read_results(path), read_results(path), "F1")


def test_saved_runs_and_qrels_give_the_same_figures(saved: Path, board: Leaderboard, index: GalleryIndex) -> None:
    evaluation = Evaluation(index, judged_by(index, read_qrels(saved / "qrels.txt")))
    places = places_of(ids_of(index))
    for row in board.rows:
        by = row.result.by
        run = read_run(saved / f"{by.features}-{by.metric}-exact.run")
        found = evaluation.add_run("again", lambda at, run=run: ranked(run[evaluation.queries.ids[at]], places))
        np.testing.assert_allclose(found.values, row.result.values, atol=1e-12)
        rankings = {query: sorted(items, key=lambda id, items=items: -items[id]) for query, items in run.items()}
        expected = by_trec_eval(read_qrels(saved / "qrels.txt"), rankings, "mAP")
        np.testing.assert_allclose(row.result.of_queries("mAP"), expected, atol=1e-9)


def test_ids_with_white_space_survive_trec_files(tmp_path: Path) -> None:
    ids = ["a b.jpg", "100%.jpg", "a%20b.jpg", "plain", "tab\there"]
    assert len({encoded(id) for id in ids}) == len(ids)
    assert not any(character.isspace() for id in ids for character in encoded(id))
    places = places_of(ids)
    assert [places[id] for id in ids] == list(range(5))
    assert places[encoded("100%.jpg")] == 1


def test_run_ties_are_in_gallery_order() -> None:
    places = places_of(["c", "b", "a", "d"])
    assert ranked({"a": 1.0, "b": 1.0, "c": 0.5, "d": 2.0, "unknown": 3.0}, places).tolist() == [3, 1, 2, 0]


def test_qrels_as_tables_equal_trecs(tmp_path: Path) -> None:
    (tmp_path / "qrels.txt").write_text("q1 0 d1 2\nq1 0 d2 -1\n\nq2 0 d1 1\n")
    expected = read_qrels(tmp_path / "qrels.txt")
    assert expected == {"q1": {"d1": 2, "d2": -1}, "q2": {"d1": 1}}
    (tmp_path / "qrels.csv").write_text("Query,item,grade\nq1,d1,2\nq1,d2,-1\nq2,d1,1\n")
    assert read_qrels(tmp_path / "qrels.csv") == expected
    table = pa.table({"query_id": ["q1", "q2"], "doc_id": ["d1", "d1"]})
    pq.write_table(table, tmp_path / "qrels.parquet")
    assert read_qrels(tmp_path / "qrels.parquet") == {"q1": {"d1": 1}, "q2": {"d1": 1}}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "q 0 d\n", "line 1: expected `query 0 item grade`, not 'q 0 d'"),
        ("a.txt", "q 0 d 1\nq 0 d one\n", "line 2"),
        ("a.txt", f"q 0 d {10**9}\n", "too large"),
        ("a.txt", "", "no judgement"),
        ("a.csv", "query,grade\nq,1\n", "no column 'item'. It has: query, grade"),
        ("a.csv", "query,item,grade\nq,d,\n", "empty cells"),
        ("a.csv", "query,item,grade\nq,d,high\n", "cannot be read"),
        ("a.parquet", "no table", "cannot be read"),
    ],
)
def test_errors_for_invalid_qrels(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(GalleryError, match=re.escape(message)):
        read_qrels(tmp_path / name)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("q Q0 d 1 high t\n", "line 1"),
        ("q Q0 d 1 nan t\n", "a score that is a number"),
        ("q Q0 d 1 1 t\nq Q0 d 2 0 t\n", "line 2: 'q' has 'd' twice"),
        ("", "no line"),
    ],
)
def test_errors_for_invalid_runs(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "a.run").write_text(content)
    with pytest.raises(GalleryError, match=re.escape(message)):
        read_run(tmp_path / "a.run")


def test_ignored_items_are_left_out_of_rankings(index: GalleryIndex, tmp_path: Path) -> None:
    (tmp_path / "ignore.txt").write_text("id-0 id-4\nid-0 0 id-8 1\n")
    queries = ignoring(index, leave_one_out(index), read_ignored(tmp_path / "ignore.txt"))
    evaluation = Evaluation(index, queries)
    assert evaluation.judgements.judged.relevant[:2].tolist() == [9, 11]
    assert evaluation.judgements.judged.candidates[:2].tolist() == [SIZE - 3, SIZE - 1]
    [(_, order)] = evaluation.rankings(Combination("clip"), SIZE, {0})
    assert len(order) == SIZE - 3
    assert not {0, 4, 8} & set(order.tolist())
    with pytest.raises(GalleryError, match="names no pair"):
        ignoring(index, queries, {"id-0": ["unknown"]})


def test_near_duplicates_raise_a_warning_and_can_be_ignored(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    pixels, clip = generator.random((20, 12), np.float32), generator.normal(size=(20, 8)).astype(np.float32)
    clip /= np.linalg.norm(clip, axis=1, keepdims=True)
    clip[10:13], pixels[10:13] = clip[:3], pixels[:3]
    indexes = publish_gallery(tmp_path, pixels, clip, ["a", "b"] * 10)
    index = indexes.get()
    assert any("6 of 20 queries have a near-duplicate" in each for each in evaluated(index).warnings)
    evaluation = Evaluation(index, ignoring_alike(index, leave_one_out(index), 0.95))
    list(evaluation.run())
    assert not any("near-duplicate" in each for each in leaderboard(evaluation).warnings)
    assert evaluation.judgements.judged.candidates[[0, 5]].tolist() == [18, 19]
    indexes.close()


def test_qrels_for_unknown_queries_and_items(index: GalleryIndex) -> None:
    queries = judged_by(index, {"id-1": {"id-2": 1, "gone": 1}, "unknown": {"id-1": 1}, "id-5": {"id-1": 0}})
    evaluation = Evaluation(index, queries)
    assert evaluation.queries.ids == ("id-1",)
    assert evaluation.judgements.left_out == 1
    assert any("do not exist: 1 of 3" in note for note in queries.notes)
    assert any("not in the gallery" in note for note in queries.notes)
    with pytest.raises(GalleryError, match="None of the judged queries"):
        judged_by(index, {"unknown": {"id-1": 1}})
    with pytest.raises(GalleryError, match="No query has a relevant image"):
        Evaluation(index, judged_by(index, {"id-1": {"gone": 1}}))


def test_uneven_classes_raise_a_warning(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    labels = ["large"] * 30 + ["a"] * 3 + ["b"] * 3 + ["c"] * 2
    pixels, clip = generator.random((38, 12), np.float32), generator.normal(size=(38, 8)).astype(np.float32)
    indexes = publish_gallery(tmp_path, pixels, clip, labels)
    warnings = evaluated(indexes.get()).warnings
    assert any("between 2 and 30 queries, and 'large' has 79%" in each for each in warnings)
    assert any("8 queries have fewer than 5 relevant images, so P@5 cannot exceed" in each for each in warnings)
    indexes.close()


def test_report_escapes_texts_and_loads_nothing(
    saved: Path, board: Leaderboard, index: GalleryIndex, monkeypatch
) -> None:
    text = (saved / "report.html").read_text(encoding="utf-8")
    assert "&lt;b&gt;fox&lt;/b&gt;" in text
    assert "<b>fox" not in text
    assert not re.search(r"(src|href)=\"(?!data:image/)", text)
    assert "default-src 'none'" in text
    assert text.count('<div class="query">') == 10
    assert text.count("data:image/png;base64,") == 1


def test_command_line_evaluates_runs_with_qrels_and_compares(saved: Path, root: Path, tmp_path: Path, capsys) -> None:
    where = ["--index", str(root)]
    judged = ["--qrels", str(saved / "qrels.txt"), "--run", str(saved / "clip-cosine-exact.run"), "--k", "3,7"]
    assert main(["evaluate", *judged, "--json", *where]) == 0
    answer = json.loads(capsys.readouterr().out)
    found = {result["title"]: result["measures"] for result in answer["results"]}
    assert found["clip-cosine-exact"]["P@7"] == found["CLIP features · Cosine"]["P@7"]
    assert {"P@3", "R@7", "nDCG@7", "success@3"} <= found["clip-cosine-exact"].keys()
    assert main(["evaluate", "--save", str(tmp_path / "again"), "--sample", "20", *where]) == 0
    capsys.readouterr()
    files = [str(saved / "results.json"), str(tmp_path / "again" / "results.json")]
    assert main(["compare-results", *files, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["shared"] == 20
    assert main(["compare-results", files[0], str(saved / "qrels.txt")]) == 2
    assert "is not a results.json" in capsys.readouterr().err
    for wrong in (["--k", "0"], ["--k", "1,x"], ["--ignore-alike", "2"], ["--queries-split", "test"]):
        assert main(["evaluate", *wrong, *where]) == 2
        assert "error: " in capsys.readouterr().err


def test_runs_without_places_do_not_need_an_engine(board: Leaderboard) -> None:
    result = replace(board.rows[0].result, by=None, title="a|b")
    lines = markdown(replace(board, rows=(replace(board.rows[0], result=result),)), ["mAP"]).splitlines()
    assert lines[2].startswith(r"| 1 | a\|b |  |  |")
