"""Comparisons of one query: overlap, moves, Kendall's tau and recall, with known values, scipy and the icons."""

import json
from dataclasses import replace
from itertools import combinations, product

import numpy as np
import pytest
from scipy.stats import kendalltau

from retrieval.analysis.agreement import kendall_tau, moves, share_found
from retrieval.analysis.comparison import compare, equal_by_mathematics
from retrieval.cli import main
from retrieval.engines import ENGINES
from retrieval.engines.chroma_folder import Collections
from retrieval.errors import PictureError, QueryError
from retrieval.features import DEFAULT_SET, FEATURES
from retrieval.metrics import Metric
from retrieval.search.query import Combination, Query

EVERY = [Combination(*each) for each in product(DEFAULT_SET, Metric, ENGINES)]
TITLES = tuple(FEATURES[each].title for each in DEFAULT_SET)


@pytest.fixture(scope="module")
def cat(icons_searcher, queries):
    return compare(icons_searcher, Query(picture=queries / "cat.png", top_k=8))


def positions(cell):
    return [hit.position for hit in cell.ranking.hits]


def scipy_tau(a, b):
    """Tau-b of scipy; pictures that are missing from a list count as tied after its last place."""
    union = sorted({*a, *b})
    return kendalltau(*([each.index(i) if i in each else len(each) for i in union] for each in (a, b))).statistic


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ([1, 2, 3], [1, 2, 3], 1),
        ([1, 2, 3], [3, 2, 1], -1),
        ([1, 2], [1, 3], 1 / 3),  # 1 before 2 and before 3 in both; 2 and 3 in opposite order
        ([1, 2], [3, 4], -4 / 5),  # four opposite pairs of six, one pair tied in each list
        ([1], [2], -1),
        ([7], [7], 1),
        ([], [], 1),
        ([1, 2], [], 0),
        ([], [1], 0),
    ],
)
def test_tau_of_known_rankings(a, b, expected):
    assert kendall_tau(a, b) == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize("seed", range(60))
def test_tau_matches_scipy(seed):
    chance = np.random.default_rng(seed)
    gallery = int(chance.integers(3, 60))
    a, b = (list(map(int, chance.permutation(gallery)[: chance.integers(2, gallery + 1)])) for _ in "ab")
    assert kendall_tau(a, b) == pytest.approx(scipy_tau(a, b), abs=1e-12)
    assert kendall_tau(a, b) == kendall_tau(b, a)


@pytest.mark.parametrize("k", [1, 2, 5, 100])
def test_tau_of_disjoint_lists(k):
    assert kendall_tau(range(k), range(k, 2 * k)) == pytest.approx(-2 * k / (3 * k - 1), abs=1e-12)


@pytest.mark.parametrize(
    ("here", "there", "overlap", "moved"),
    [
        ([4, 7, 9], [4, 7, 9], 1, (0, 0, 0)),
        ([9, 4, 7], [4, 7, 9], 1, (2, -1, -1)),
        ([5, 4], [4, 7, 9, 1], 1 / 4, (None, -1)),
        ([5, 6], [4, 7], 0, (None, None)),
        ([], [4], 0, ()),
        ([4], [], 1, (None,)),
    ],
)
def test_overlap_and_moves_of_known_rankings(here, there, overlap, moved):
    assert share_found(here, there) == overlap
    assert moves(here, there) == moved


def test_each_cell_has_the_same_hits_as_a_search(cat, icons_searcher, queries):
    assert [cell.combination for cell in cat.cells] == EVERY
    for cell in cat.cells:
        query = Query(queries / "cat.png", top_k=8, **vars(cell.combination))
        assert cell.ranking.hits == icons_searcher.search(query).hits
        assert cat.cell(cell.combination) is cell


def test_figures_match_plain_python(cat):
    base = positions(cat.baseline)
    for cell in cat.cells:
        here = positions(cell)
        assert cell.overlap == len({*here} & {*base}) / 8
        assert list(cell.moves) == [base.index(p) - here.index(p) if p in base else None for p in here]
        assert cell.tau == pytest.approx(scipy_tau(here, base), abs=1e-12)
        exact = positions(cat.cell(replace(cell.combination, engine="exact")))
        assert cell.recall == (None if ENGINES[cell.ranking.engine].exact else len({*here} & {*exact}) / 8)
    assert cat.baseline.combination == Combination()
    assert (cat.baseline.overlap, cat.baseline.tau, cat.baseline.moves) == (1, 1, (0,) * 8)


def test_features_change_the_hits_more_than_metrics(cat):
    clip = [cell.overlap for cell in cat.cells if cell.ranking.features == "clip"]
    pixels = [cell.overlap for cell in cat.cells if cell.ranking.features == "pixels"]
    assert min(clip) > max(pixels)


def test_picture_is_embedded_once_per_feature_type(cat):
    for features in DEFAULT_SET:
        first, *others = (cell.ranking.timings.features for cell in cat.cells if cell.ranking.features == features)
        assert first > 0
        assert not any(others)


def test_baseline_can_be_changed(icons_searcher):
    baseline = Combination("pixels", Metric.L1, "chroma")
    comparison = compare(icons_searcher, Query(position=100, top_k=5), baseline)
    assert comparison.baseline is comparison.cell(baseline)
    assert comparison.baseline.moves == (0,) * 5
    assert comparison.cell(Combination()).overlap < 1


def test_text_queries_are_compared_with_clip_features_only(icons_searcher, queries):
    for query in (Query(text="red fruit"), Query(text="x", top_k=1)):
        compared = compare(icons_searcher, query)
        assert [cell.combination for cell in compared.cells] == [each for each in EVERY if each.features == "clip"]
        assert compared.notes == ()


def test_other_features_ignore_the_text_beside_an_image_and_say_so(icons_searcher, queries):
    query = Query(picture=queries / "cat.png", without="dog")
    compared, alone = compare(icons_searcher, query), compare(icons_searcher, replace(query, without=""))
    assert [cell.combination for cell in compared.cells] == EVERY
    for cell, other in zip(compared.cells, alone.cells, strict=True):
        assert (cell.ranking.hits == other.ranking.hits) == (cell.combination.features != "clip")
        assert bool(cell.ranking.notes) == (cell.combination.features != "clip")
    assert "Raw pixels do not support text, so only the images are searched." in compared.to_json()["notes"]


def test_blank_text_is_ignored(icons_searcher):
    assert len(compare(icons_searcher, Query(position=5, text="  ", without="\n")).cells) == len(EVERY)


def test_exact_engine_only(icons_searcher):
    cells = compare(icons_searcher, Query(position=5), engines=["exact"]).cells
    assert [cell.combination for cell in cells] == [each for each in EVERY if each.engine == "exact"]
    assert all(cell.recall is None for cell in cells)


def test_chroma_only_has_no_recall(icons_searcher):
    cells = compare(icons_searcher, Query(position=5), replace(Combination(), engine="chroma"), ["chroma"]).cells
    assert len(cells) == len(EVERY) // len(ENGINES)
    assert all(cell.recall is None for cell in cells)


def test_label_filter_applies_to_every_cell(icons_searcher, queries):
    comparison = compare(icons_searcher, Query(queries / "cat.png", labels=("food-prepared",), top_k=4))
    for cell in comparison.cells:
        assert [hit.label for hit in cell.ranking.hits] == ["food-prepared"] * 4


def test_top_k_above_the_gallery_size_returns_all_other_pictures(icons_searcher):
    size = len(icons_searcher.indexes.get())
    comparison = compare(icons_searcher, Query(position=0, top_k=10_000), engines=["exact"])
    for cell in comparison.cells:
        assert sorted(positions(cell)) == list(range(1, size))
        assert cell.overlap == 1
        assert None not in cell.moves


def test_baseline_must_be_one_of_the_combinations(icons_searcher):
    pixels = Combination("pixels", Metric.L2, "exact")
    with pytest.raises(QueryError, match=r"baseline pixels l2 exact cannot .*: text search needs"):
        compare(icons_searcher, Query(text="cat"), pixels)
    with pytest.raises(QueryError, match=r"baseline clip cosine exact cannot .*: only chroma is compared"):
        compare(icons_searcher, Query(position=1), engines=["chroma"])


def test_compare_raises_the_same_errors_as_search(icons_searcher, tmp_path):
    with pytest.raises(PictureError, match="no query image"):
        compare(icons_searcher, Query())
    with pytest.raises(PictureError, match="cannot be read"):
        compare(icons_searcher, Query(tmp_path / "missing.png"))
    with pytest.raises(QueryError, match="holiday"):
        compare(icons_searcher, Query(position=1, gallery="holiday"))


def test_recall_counts_hits_that_chroma_misses(icons_searcher, monkeypatch):
    """Recall is measured: the test hides the two best hits from ChromaDB."""
    best = positions(compare(icons_searcher, Query(position=200, top_k=8), engines=["exact"]).baseline)[:2]
    nearest = Collections.nearest

    def without_best(*arguments):
        hidden = icons_searcher.indexes.get().in_folder.ids[best]
        return [found[~np.isin(found, hidden)] for found in nearest(*arguments)]

    monkeypatch.setattr(Collections, "nearest", without_best)
    comparison = compare(icons_searcher, Query(position=200, top_k=8))
    cell = comparison.cell(replace(Combination(), engine="chroma"))
    assert cell.recall == cell.overlap == 6 / 8
    assert cell.moves == (2, 2, 2, 2, 2, 2, None, None)
    assert cell.tau < 1
    assert comparison.baseline.overlap == 1


@pytest.mark.parametrize("position", [3, 300, 900, 1500])
def test_mathematically_equal_metrics_rank_the_icons_equally(icons_searcher, position):
    comparison = compare(icons_searcher, Query(position=position, top_k=50), engines=["exact"])
    said, seen = set(), set()
    for features in DEFAULT_SET:
        for metric, other in combinations(Metric, 2):
            if other in equal_by_mathematics(features, metric)[0]:
                said.add((features, metric, other))
            pair = [positions(comparison.cell(Combination(features, each))) for each in (metric, other)]
            if pair[0] == pair[1]:
                seen.add((features, metric, other))
    assert said == seen == {(each, Metric.L2, Metric.COSINE) for each in ("clip", "color")}


@pytest.mark.parametrize(("features", "metric"), list(product(DEFAULT_SET, Metric)))
def test_metric_equality_is_symmetric_and_has_a_reason(features, metric):
    others, reason = equal_by_mathematics(features, metric)
    assert bool(others) == bool(reason)
    assert metric not in others
    for other in others:
        assert metric in equal_by_mathematics(features, other)[0]


def test_json_contains_the_whole_comparison(cat):
    answer = json.loads(json.dumps(cat.to_json(), allow_nan=False))
    cells = answer.pop("cells")
    assert answer == {
        "gallery": "icons",
        "model": "mini",
        "pictures": 1566,
        "top_k": 8,
        "notes": [],
        "baseline": {"features": "clip", "metric": "cosine", "engine": "exact"},
    }
    for cell, as_json in zip(cat.cells, cells, strict=True):
        assert Combination(as_json["features"], as_json["metric"], as_json["engine"]) == cell.combination
        assert (as_json["overlap"], as_json["tau"], as_json["recall"]) == (cell.overlap, cell.tau, cell.recall)
        assert tuple(hit.pop("move") for hit in as_json["hits"]) == cell.moves
        assert as_json["hits"] == cell.ranking.to_json()["hits"]
    twins = {(each["features"], each["metric"]): each["equal_by_mathematics"] for each in cells}
    assert {pair: metrics for pair, metrics in twins.items() if metrics} == {
        (features, metric): [other]
        for features in ("clip", "color")
        for metric, other in (("l2", "cosine"), ("cosine", "l2"))
    }


@pytest.fixture
def run(icons, icons_searcher, capsys):
    """Run `compare` on the icons in this process; return its exit code, output and errors."""

    def run(*arguments, shared=False):
        if not shared:
            icons_searcher.indexes.close()  # only one index can have ChromaDB open
        capsys.readouterr()
        code = main(["compare", *map(str, arguments), "--index", str(icons)])
        return (code, *capsys.readouterr())

    return run


def test_command_prints_one_row_per_combination(run, queries, icons_searcher):
    code, out, err = run(queries / "cat.png", "--top-k", 4)
    assert (code, err) == (0, "")
    assert "icons: 1,566 images, mini" in out
    rows = [line for line in out.splitlines() if line.startswith(TITLES)]
    assert len(rows) == len(EVERY)
    base = next(row for row in rows if row.startswith("CLIP features  Cosine") and "Exact" in row)
    assert base.split()[5:8] == ["1.00", "1.00", "-"]
    closest = icons_searcher.search(Query(queries / "cat.png", top_k=3)).hits
    assert ", ".join(hit.caption for hit in closest) in base
    assert max(map(len, rows)) <= 120
    assert {"overlap@4", "tau", "recall@4"} <= set(out.split())


def test_command_prints_json(run, queries, icons_searcher):
    code, out, _ = run(queries / "pizza.png", "--json")
    answer = json.loads(out)
    assert (code, answer["top_k"], len(answer["cells"])) == (0, 5, len(EVERY))
    again = compare(icons_searcher, Query(queries / "pizza.png", top_k=5)).to_json()
    for cell in (*answer["cells"], *again["cells"]):
        del cell["timings_ms"]
    assert answer == json.loads(json.dumps(again))


def test_command_without_chroma_runs_while_the_app_is_running(run, queries, icons_searcher):
    icons_searcher.search(Query(position=0, engine="chroma"))  # opens ChromaDB, like a running app
    code, out, err = run(queries / "cat.png", shared=True)
    assert (code, out) == (2, "")
    assert "in use" in err
    code, out, _ = run(queries / "cat.png", "--exact-only", shared=True)
    assert code == 0
    assert "Exact scan" in out
    assert len([line for line in out.splitlines() if line.startswith(TITLES)]) == len(EVERY) // len(ENGINES)


@pytest.mark.parametrize(("arguments", "said"), [(["none.png"], "cannot be read"), (["--top-k", 0], "1 to 10,000")])
def test_command_reports_errors_in_one_line(run, queries, tmp_path, arguments, said):
    picture = [queries / "cat.png"] if arguments[0].startswith("--") else []
    code, out, err = run(*picture, *arguments)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert said in err
    assert len(err.splitlines()) == 1
