import json
import shutil
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor

import gradio as gr
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from retrieval.analysis.evaluation import evaluate
from retrieval.analysis.queries import from_folder, leave_one_out
from retrieval.engines import ENGINES
from retrieval.engines.exact import Scan
from retrieval.errors import PictureError, QueryError
from retrieval.features import DEFAULT_SET
from retrieval.features.pixels import embed_pixels
from retrieval.metrics import DEFINITIONS, Metric, closest
from retrieval.pictures.loading import cut_out, load_picture
from retrieval.search.duplicates import without_duplicates
from retrieval.search.query import MAX_TOP_K, Combination, Query
from retrieval.search.ranking import rank
from retrieval.search.searcher import Searcher
from retrieval.search.validation import checked_region, checked_top_k, one_of
from retrieval.ui.errors import as_shown
from tests.support.formulas import best_first, reference
from tests.support.published import publish_gallery

PICTURES = ("pizza", "cat", "soccer-ball", "castle", "red-apple")


def formula(metric, query, gallery):
    """Compute the scores of one query one gallery vector at a time, so that long vectors fit into memory."""
    return np.array([reference(metric, query[None], row[None])[0, 0] for row in gallery])


# ---- the original pipeline's OpenCLIP vectors in our store


@pytest.fixture(scope="module")
def openclip(seed, tmp_path_factory):
    vectors = np.load(seed / "openclip" / "embeddings.npy").astype(np.float32)
    paths = json.loads((seed / "openclip" / "mapping_paths.json").read_text())
    labels = [paths[f"id_{row}"].split("/")[-2] for row in range(len(vectors))]
    pixels = np.random.default_rng(0).random((len(vectors), 12), np.float32)
    indexes = publish_gallery(tmp_path_factory.mktemp("openclip"), pixels, vectors, labels)
    yield indexes.get()
    indexes.close()


@pytest.mark.parametrize("metric", Metric)
def test_exact_engine_ranks_openclip_vectors_like_the_formula(openclip, metric):
    vectors = openclip.vectors("clip")
    for row in range(0, len(vectors), 10):
        positions, scores = rank(openclip, Combination("clip", metric), vectors[row], 10)
        expected = formula(metric, vectors[row], vectors)
        np.testing.assert_array_equal(positions, best_first(metric, expected)[:10])
        np.testing.assert_allclose(scores, expected[positions], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("metric", Metric)
def test_chroma_and_exact_engine_agree_on_openclip_vectors(openclip, metric):
    vectors, found = openclip.vectors("clip"), []
    for vector in vectors:
        ways = (Combination("clip", metric, engine) for engine in ("exact", "chroma"))
        exact, chroma = (set(rank(openclip, way, vector, 10)[0]) for way in ways)
        found.append(len(exact & chroma) / 10)
    # Any metric but L1 that borrows its candidates may have fewer of them.
    assert np.mean(found) >= (0.99 if DEFINITIONS[metric].neighbours is None or metric == Metric.L1 else 0.9)


def test_openclip_precision_matches_the_original_pipeline(openclip):
    results = evaluate(openclip, leave_one_out(openclip))
    cosine = next(r for r in results if r.by == Combination("clip", Metric.COSINE))
    assert cosine.mean("P@5") == pytest.approx(0.806, abs=0.001)


# ---- the bundled icons


@pytest.mark.parametrize("metric", Metric)
@pytest.mark.parametrize("features", DEFAULT_SET)
def test_both_engines_agree(icons_searcher, queries, features, metric):
    shared = 0
    for name in PICTURES:
        hits = []
        for engine in ("exact", "chroma"):
            query = Query(queries / f"{name}.png", features=features, metric=metric, engine=engine)
            hits.append({hit.position: hit for hit in icons_searcher.search(query).hits})
        exact, chroma = hits
        assert all(exact[p].score == chroma[p].score for p in exact.keys() & chroma.keys())
        shared += len(exact.keys() & chroma.keys())
    assert shared >= 0.96 * 10 * len(PICTURES)  # the graph, and for L1 the shortlist, may miss a few


@pytest.mark.parametrize("metric", Metric)
@pytest.mark.parametrize("features", DEFAULT_SET)
def test_scores_match_the_formula(icons_searcher, queries, features, metric):
    index = icons_searcher.indexes.get()
    picture = load_picture(queries / "pizza.png")
    vector = icons_searcher.embedder.feature_set(index, features).embed([picture])[0]
    expected = formula(metric, vector, index.vectors(features))
    hits = icons_searcher.search(Query(picture, features=features, metric=metric, top_k=20)).hits
    assert [hit.position for hit in hits] == best_first(metric, expected)[:20].tolist()
    assert [hit.score for hit in hits] == pytest.approx([expected[hit.position] for hit in hits], abs=1e-9)


def test_hits_have_the_id_label_and_caption_of_the_gallery(icons_searcher, queries):
    index = icons_searcher.indexes.get()
    ranking = icons_searcher.search(Query(queries / "cat.png", top_k=7))
    assert [hit.rank for hit in ranking.hits] == [1, 2, 3, 4, 5, 6, 7]
    assert ranking.size == len(index)
    for hit in ranking.hits:
        entry = index.entry(hit.position)
        assert (hit.id, hit.label, hit.caption) == (entry.id, entry.label, entry.caption)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("metric", Metric)
@pytest.mark.parametrize("features", DEFAULT_SET)
def test_vector_of_a_gallery_picture_finds_it_first(icons_searcher, features, metric, engine):
    index = icons_searcher.indexes.get()
    [position], [score] = rank(index, Combination(features, metric, engine), index.vectors(features)[1234], 1)
    assert position == 1234
    if DEFINITIONS[metric].smaller_is_closer:
        assert score == 0
    else:
        assert score == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("alike", [1, 0.9])
def test_gallery_picture_is_not_its_own_result(icons_searcher, alike):
    hits = icons_searcher.search(Query(position=1234, top_k=20, alike=alike)).hits
    assert [hit.rank for hit in hits] == list(range(1, 21))
    assert 1234 not in {hit.position for hit in hits}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("metric", Metric)
@pytest.mark.parametrize("features", DEFAULT_SET)
def test_top_k_above_the_gallery_size_returns_each_other_picture_once(icons_searcher, features, metric, engine):
    ranking = icons_searcher.search(Query(position=0, features=features, metric=metric, engine=engine, top_k=MAX_TOP_K))
    found = [hit.position for hit in ranking.hits]
    assert sorted(found) == list(range(1, ranking.size))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("metric", Metric)
def test_identical_pictures_keep_the_gallery_order(icons_searcher, metric, engine):
    index = icons_searcher.indexes.get()
    places = defaultdict(list)
    for position, vector in enumerate(index.vectors("pixels")):
        places[vector.tobytes()].append(position)
    twins = next(positions for positions in places.values() if len(positions) > 1)
    vector = index.vectors("pixels")[twins[-1]]
    positions, scores = rank(index, Combination("pixels", metric, engine), vector, len(twins))
    assert positions.tolist() == twins
    assert len(set(scores.tolist())) == 1


@pytest.fixture(scope="module")
def tied(tmp_path_factory):
    """An index of 90 items, of which every second from 20 on has the same pixels."""
    chance = np.random.default_rng(0)
    pixels, clip = chance.random((90, 12), np.float32), np.eye(90, dtype=np.float32)
    pixels[20::2] = pixels[20]  # 35 copies: more than the number of neighbours first requested from ChromaDB
    indexes = publish_gallery(tmp_path_factory.mktemp("tied"), pixels, clip, [""] * 90)
    yield indexes.get()
    indexes.close()


@pytest.mark.parametrize("k", [1, 5, 30])
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("metric", Metric)
def test_ties_at_the_last_rank_keep_the_gallery_order(tied, metric, engine, k):
    positions, _ = rank(tied, Combination("pixels", metric, engine), tied.vectors("pixels")[20], k)
    assert positions.tolist() == list(range(20, 90, 2))[:k]


@pytest.mark.parametrize("features", DEFAULT_SET)
def test_same_picture_is_embedded_once(icons_searcher, queries, features):
    searcher = Searcher(icons_searcher.indexes)
    searcher.embedder.loaded = icons_searcher.embedder.loaded
    data = (queries / "fox.png").read_bytes()
    first = searcher.search(Query(data, features=features))
    again = searcher.search(Query(data, features=features, metric=Metric.L1, top_k=3))
    assert first.timings.features > 0
    assert again.timings.features == 0


@pytest.mark.parametrize("features", DEFAULT_SET)
def test_region_is_searched_like_the_cropped_picture(icons_searcher, queries, features):
    whole = load_picture(queries / "castle.png")
    width, height = whole.size
    part = icons_searcher.search(Query(whole, region=(0.25, 0.5, 1, 1), features=features))
    alone = icons_searcher.search(Query(whole.crop((width // 4, height // 2, width, height)), features=features))
    assert part.hits == alone.hits
    assert part.hits != icons_searcher.search(Query(whole, features=features)).hits


def test_region_of_a_gallery_picture_is_cropped_from_its_thumbnail(icons_searcher):
    thumbnail = icons_searcher.indexes.get().thumbnail(7)
    region = (0.1, 0.1, 0.6, 0.7)
    found = icons_searcher.search(Query(position=7, region=region, top_k=10)).hits
    expected = icons_searcher.search(Query(thumbnail, region=region, top_k=11)).hits
    assert [(hit.id, hit.score) for hit in found] == [(hit.id, hit.score) for hit in expected if hit.position != 7][:10]


@given(
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.lists(st.floats(0, 1, exclude_max=True), min_size=2, max_size=2, unique=True).map(sorted),
    st.lists(st.floats(0, 1), min_size=2, max_size=2, unique=True).map(sorted),
)
def test_cropped_region_is_inside_the_picture_and_not_empty(size, across, down):
    left, top, right, bottom = across[0], down[0], across[1], down[1]
    part = cut_out(Image.new("RGB", size), (left, top, right, bottom))
    assert 1 <= part.width <= size[0]
    assert 1 <= part.height <= size[1]
    assert abs(part.width - (right - left) * size[0]) <= 2
    assert abs(part.height - (bottom - top) * size[1]) <= 2


@pytest.mark.parametrize("value", [None, [], (), [0, 0, 1, 1], (0.0, 0, 1, 1)])
def test_no_region_means_the_whole_picture(value):
    assert checked_region(value) is None


@pytest.mark.parametrize(
    "value",
    [
        [0, 0, 1],
        [0, 0, 0, 1],
        [0.5, 0, 0.4, 1],
        [0, 0, 1, 1.1],
        [-0.1, 0, 1, 1],
        "0,0,1,1",
        [True] * 4,
        [float("nan")] * 4,
        {"left": 0},
        7,
        ["0", "0", "1", "1"],
    ],
)
def test_invalid_regions_are_refused(value):
    with pytest.raises(QueryError, match="four numbers from 0 to 1"):
        checked_region(value)


def reference_without_duplicates(vectors, alike, enough):
    """Plain loops: keep a picture unless a kept one is similar; stop when another would exceed `enough`."""
    kept, duplicates = [], []
    for place, vector in enumerate(vectors):
        like = [i for i, other in enumerate(kept) if float(vectors[other] @ vector) >= alike]
        if like:
            duplicates[like[0]] += 1
        elif len(kept) == enough:
            return kept, duplicates, True
        else:
            kept.append(place)
            duplicates.append(0)
    return kept, duplicates, False


@pytest.mark.parametrize("enough", [1, 7, 300, 1000])
@pytest.mark.parametrize("alike", [0.0, 0.5, 0.8, 0.95])
def test_near_duplicates_match_a_plain_loop(alike, enough):
    chance = np.random.default_rng(3)
    vectors = np.repeat(chance.normal(size=(200, 6)), 4, axis=0) + chance.normal(size=(800, 6)) * 0.3
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    assert without_duplicates(vectors, alike, enough) == reference_without_duplicates(vectors, alike, enough)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("features", ["pixels", "clip"])
def test_near_duplicates_are_shown_once_and_counted(tmp_path, features, engine):
    chance = np.random.default_rng(0)
    clip = np.repeat(np.eye(30, dtype=np.float32), 5, axis=0)  # 30 pictures, each five times
    pixels = chance.random((150, 12), np.float32)
    indexes = publish_gallery(tmp_path, pixels, clip, [""] * 150)
    searcher = Searcher(indexes)
    plain = searcher.search(Query(position=0, features=features, engine=engine, top_k=150))
    ranking = searcher.search(Query(position=0, features=features, engine=engine, top_k=20, alike=0.9))
    everything = searcher.search(Query(position=0, features=features, engine=engine, top_k=150, alike=0.9))
    indexes.close()
    groups = [hit.position // 5 for hit in ranking.hits]
    assert len(set(groups)) == len(groups) == 20
    assert [hit.rank for hit in ranking.hits] == list(range(1, 21))
    first = list(dict.fromkeys(hit.position // 5 for hit in plain.hits))  # the closest of each group is kept
    assert groups == first[:20]
    # The query's own group is smaller, since it is not its own result.
    assert [hit.duplicates for hit in everything.hits] == [3 if hit.position < 5 else 4 for hit in everything.hits]
    assert everything.to_json()["hits"][0]["duplicates"] == everything.hits[0].duplicates
    assert all("duplicates" not in hit for hit in plain.to_json()["hits"])


def test_pictures_that_differ_only_in_the_palette_are_distinguished(icons_searcher):
    found = []
    for colour in ([200, 0, 0], [0, 0, 200]):
        picture = Image.new("P", (32, 32))
        picture.putpalette(colour)
        found.append(icons_searcher.search(Query(picture, features="pixels")).hits)
    assert found[0] != found[1]


def test_many_threads_get_the_same_results_as_one(icons_searcher):
    wanted = [
        Query(position=position, features=features, engine=engine)
        for position in range(0, 1000, 50)
        for features in DEFAULT_SET
        for engine in ENGINES
    ]
    with ThreadPoolExecutor(8) as pool:
        together = [ranking.hits for ranking in pool.map(icons_searcher.search, wanted)]
    assert together == [icons_searcher.search(query).hits for query in wanted]


def test_l2_and_cosine_rank_unit_vectors_equally(icons_searcher, queries):
    for name in PICTURES:
        l2, cosine = (
            [hit.position for hit in icons_searcher.search(Query(queries / f"{name}.png", metric=metric)).hits]
            for metric in (Metric.L2, Metric.COSINE)
        )
        assert l2 == cosine


def test_clip_finds_the_object_and_not_only_its_colours(icons_searcher, queries):
    captions = [hit.caption for hit in icons_searcher.search(Query(queries / "pizza.png", top_k=3)).hits]
    assert "pizza" in captions


@pytest.mark.parametrize("position", [-1, 1566, 10**12])
def test_positions_outside_the_gallery_are_refused(icons_searcher, position):
    with pytest.raises(QueryError, match="The gallery has no item"):
        icons_searcher.search(Query(position=position))


def test_error_for_a_query_without_a_picture(icons_searcher):
    with pytest.raises(PictureError, match=r"no query image\. Choose one first"):
        icons_searcher.search(Query())


# ---- validation of parameters


@pytest.mark.parametrize(("word", "meant"), [("l1", Metric.L1), (" Cosine ", Metric.COSINE), (Metric.L2, Metric.L2)])
def test_choices_are_parsed_from_strings(word, meant):
    assert one_of(Metric, word) is meant


@pytest.mark.parametrize("word", ["l3", "", None, 7, "x" * 10_000])
def test_error_for_an_unknown_choice_lists_the_choices(word):
    with pytest.raises(QueryError, match=rf"^Metric .{{0,50}} does not exist. Choose one of: {', '.join(Metric)}"):
        one_of(Metric, word)


@pytest.mark.parametrize("value", [1, 10, MAX_TOP_K, 7.0])
def test_whole_numbers_are_valid_top_k(value):
    assert checked_top_k(value) == value
    assert type(checked_top_k(value)) is int


@pytest.mark.parametrize("value", [0, -1, 10**9, True, 2.5, "x", "5", None, float("nan"), float("inf"), [5]])
def test_invalid_top_k_is_refused(value):
    with pytest.raises(QueryError, match="top_k must be a whole number from 1 to 10,000"):
        checked_top_k(value)


# ---- photos


@pytest.fixture(scope="module")
def large_pixels(seed):
    """Vectors of 1,228,800 numbers: 60 photos, and 3 others as queries."""
    gallery, others = (sorted((seed / part).glob("*/*"))[::step] for part, step in (("train", 3), ("test", 20)))
    files = [*gallery[:60], *others[:3]]
    vectors = np.concatenate([embed_pixels([load_picture(file)], size=640) for file in files])
    return vectors[:-3], vectors[-3:]


@pytest.mark.parametrize("metric", Metric)
def test_pixels_of_the_original_size_rank_like_the_formula(large_pixels, metric):
    gallery, others = large_pixels
    scan = Scan(gallery, side=640)
    for query in others:
        positions, scores = closest(metric, query, gallery, scan.candidates(metric, query, 10), 10)
        expected = formula(metric, query, gallery)
        np.testing.assert_array_equal(positions, best_first(metric, expected)[:10])
        np.testing.assert_allclose(scores, expected[positions], rtol=1e-10)


@pytest.mark.endurance
def test_bundled_model_on_photos_beats_pixels(photos_searcher, seed):
    index = photos_searcher.indexes.get()
    results = evaluate(index, from_folder(index, photos_searcher.embedder, str(seed / "test")))
    precision = {(each.by.features, each.by.metric): each.mean("P@5") for each in results}
    assert precision["clip", Metric.COSINE] >= 0.74
    assert 0.06 <= precision["pixels", Metric.L1] <= 0.10


@pytest.mark.parametrize("engine", ENGINES)
def test_search_goes_on_in_the_new_snapshot_if_the_gallery_is_built_again(tmp_path, monkeypatch, engine):
    chance = np.random.default_rng(0)
    pixels, clip = chance.random((90, 12), np.float32), np.eye(90, dtype=np.float32)
    indexes = publish_gallery(tmp_path, pixels, clip, [""] * 90)
    searcher, old, get = Searcher(indexes), indexes.get(), indexes.get

    def get_too_early(name=""):
        monkeypatch.undo()
        publish_gallery(tmp_path, pixels[::-1], clip, [""] * 90, "snapshot-new").close()
        shutil.rmtree(old.snapshot)
        return old

    monkeypatch.setattr(indexes, "get", get_too_early)
    query = Query(position=3, features="pixels", engine=engine, top_k=5)
    ranking = searcher.search(query)
    assert get() is not old and ranking.hits == searcher.search(query).hits
    with pytest.raises(gr.Error) as shown, as_shown():  # to every visitor
        old.vectors("pixels")
    assert shown.value.message == "The gallery 'given' was just changed. Try again."
    indexes.close()
