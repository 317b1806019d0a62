import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from retrieval.engines.exact import FAST, PATCH, Scan, _patch_sums
from retrieval.metrics import DEFINITIONS, Metric, View, closeness, closest, score_pairs, view_of
from tests.support.formulas import reference

ANGLES = (Metric.COSINE, Metric.CORRELATION)
DISTANCES = tuple(metric for metric in Metric if DEFINITIONS[metric].smaller_is_closer)
modest = settings(max_examples=60, deadline=None)
metrics = st.sampled_from(Metric)


def full_sort(metric, query, gallery, k):
    """Return the k closest by sorting all float64 scores, ties by position."""
    return np.argsort(closeness(metric, score_pairs(metric, query, gallery)), kind="stable")[:k]


def as_pixels(values):
    """Convert values from 0 to 255 to pixel features."""
    return np.asarray(values, np.float32) / np.float32(255)


@st.composite
def galleries(draw, rows=40, at_least=1):
    """Small pixel vectors; with few colours, some rows are duplicates, blank or nearly equal."""
    shape = (draw(st.integers(at_least, rows)), draw(st.integers(1, 24)))
    colours = draw(st.sampled_from([2, 3, 256]))
    return as_pixels(draw(arrays(np.uint8, shape, elements=st.integers(0, colours - 1))))


def random_pixels(n=60, d=300):
    return as_pixels(np.random.default_rng(0).integers(0, 256, (n, d)))


def random_embeddings(n=60, d=128):
    vectors = np.random.default_rng(0).normal(size=(n, d))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("vectors", [random_pixels(), random_embeddings()], ids=["pixels", "clip"])
@pytest.mark.parametrize("metric", Metric)
def test_scores_match_scipy_and_numpy(metric, vectors):
    expected = reference(metric, vectors[:5], vectors[5:])
    scores = [score_pairs(metric, query, vectors[5:]) for query in vectors[:5]]
    np.testing.assert_allclose(scores, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("vectors", [random_pixels(), random_embeddings()], ids=["pixels", "clip"])
@pytest.mark.parametrize("metric", Metric)
def test_scan_scores_match_scipy_and_numpy(metric, vectors):
    expected = reference(metric, vectors[:5], vectors[5:])
    np.testing.assert_allclose(Scan(vectors[5:]).scores(metric, vectors[:5]), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("metric", Metric)
def test_single_and_batched_queries_score_the_same(metric):
    gallery = np.random.default_rng(0).random((5003, 700), np.float32)
    scan = Scan(gallery)
    alone = np.concatenate([scan.scores(metric, gallery[[row]]) for row in (0, 2500, 5002)])
    np.testing.assert_allclose(alone, scan.scores(metric, gallery[[0, 2500, 5002]]), rtol=1e-4, atol=2e-2)
    np.testing.assert_allclose(alone, reference(metric, gallery[[0, 2500, 5002]], gallery), rtol=1e-4, atol=2e-2)


def test_scoring_in_blocks_gives_the_same_scores():
    vectors = np.random.default_rng(0).random((9, 1_200_000), np.float32)  # a block holds 3 of them
    for metric in Metric:
        expected = np.concatenate([score_pairs(metric, vectors[0], row[None]) for row in vectors])
        np.testing.assert_array_equal(score_pairs(metric, vectors[0], vectors), expected)


def test_scores_of_known_vectors():
    query, gallery = np.array([1.0, 2, 3]), np.array([[2.0, 2, 1], [3, 2, 1]])
    expected = {
        Metric.L1: [3, 4],
        Metric.L2: [5**0.5, 8**0.5],
        Metric.COSINE: [9 / (14 * 9) ** 0.5, 10 / 14],
        Metric.CORRELATION: [-(3**0.5) / 2, -1],
    }
    for metric, values in expected.items():
        np.testing.assert_allclose(score_pairs(metric, query, gallery), values, rtol=1e-14)


@modest
@given(galleries(), metrics)
def test_vector_is_closest_to_itself(gallery, metric):
    scores = score_pairs(metric, gallery[0], gallery)
    flat = not view_of(DEFINITIONS[metric].view, gallery[:1].astype(np.float64)).any()
    best = 0.0 if metric in DISTANCES or flat else 1.0
    assert scores[0] == pytest.approx(best, abs=1e-12)
    assert closeness(metric, scores[0]) <= closeness(metric, scores).min() + 1e-12


@modest
@given(galleries(rows=2, at_least=2), metrics)
def test_metrics_are_symmetric(pair, metric):
    there, back = score_pairs(metric, pair[0], pair[1:]), score_pairs(metric, pair[1], pair[:1])
    assert there == pytest.approx(back, abs=1e-12)


@modest
@given(galleries(), st.sampled_from(ANGLES), st.floats(0.01, 100))
def test_cosine_and_correlation_ignore_brightness(gallery, metric, factor):
    query = gallery[0].astype(np.float64)
    scaled = score_pairs(metric, query * factor, gallery)
    np.testing.assert_allclose(scaled, score_pairs(metric, query, gallery), atol=1e-9)


@modest
@given(galleries(), st.sampled_from((*DISTANCES, Metric.CORRELATION)), st.floats(-10, 10))
def test_common_shift_changes_only_cosine(gallery, metric, shift):
    gallery = gallery.astype(np.float64)
    shifted = score_pairs(metric, gallery[0] + shift, gallery + shift)
    np.testing.assert_allclose(shifted, score_pairs(metric, gallery[0], gallery), atol=1e-9)


def test_cosine_depends_on_a_common_shift():
    near, far = np.array([1.0, 0]), np.array([[0.0, 1]])
    assert score_pairs(Metric.COSINE, near, far) == 0
    assert score_pairs(Metric.COSINE, near + 1, far + 1) == pytest.approx(0.8)


@modest
@given(galleries(), metrics)
def test_scores_stay_in_range(gallery, metric):
    low, high = (0, np.inf) if metric in DISTANCES else (-1, 1)
    for scores in (score_pairs(metric, gallery[0], gallery), Scan(gallery).scores(metric, gallery[:1])):
        assert np.all((scores >= low) & (scores <= high))


@pytest.mark.parametrize(
    ("metric", "level"), [(Metric.COSINE, 0), *((Metric.CORRELATION, level) for level in (0, 1, 77, 255))]
)
def test_vector_without_direction_scores_zero(metric, level):
    flat, gallery = as_pixels(np.full((1, 3072), level)), random_pixels(4, 3072)
    everything = np.concatenate([gallery, flat])
    assert not score_pairs(metric, flat[0], everything).any()
    assert score_pairs(metric, gallery[0], everything)[-1] == 0
    assert not Scan(everything).scores(metric, flat).any()
    assert Scan(everything).scores(metric, gallery)[0, -1] == 0


@modest
@given(galleries(), st.sampled_from(View))
def test_views_are_normalised_and_centred(gallery, view):
    seen = view_of(view, gallery.astype(np.float64))
    norms = np.linalg.norm(seen, axis=1)
    if view is View.PLAIN:
        np.testing.assert_array_equal(seen, gallery)
    else:
        assert np.all((norms == 0) | (np.abs(norms - 1) < 1e-12))
    if view is View.CENTRED:
        np.testing.assert_allclose(seen.mean(axis=1), 0, atol=1e-12)


@modest
@given(galleries(), metrics, st.integers(1, 45))
def test_ties_keep_the_gallery_order(gallery, metric, k):
    positions, scores = closest(metric, gallery[0], gallery, np.arange(len(gallery))[::-1], k)
    tied = scores[1:] == scores[:-1]
    assert np.all(positions[1:][tied] > positions[:-1][tied])
    assert np.all(np.diff(closeness(metric, scores)) >= 0)


@modest
@given(galleries(), metrics, st.integers(1, 45))
def test_scan_matches_a_full_sort(gallery, metric, k):
    candidates = Scan(gallery).candidates(metric, gallery[-1], k)
    positions, scores = closest(metric, gallery[-1], gallery, candidates, k)
    np.testing.assert_array_equal(positions, full_sort(metric, gallery[-1], gallery, k))
    np.testing.assert_array_equal(scores, score_pairs(metric, gallery[-1], gallery)[positions])


def bright_and_dark(side, chance, count=400):
    """Pictures of a single colour with some noise, some of them twice."""
    values = chance.integers(0, 200, (count, 1, 1, 3)) + chance.integers(0, 56, (count, side, side, 3))
    gallery = as_pixels(values.reshape(count, -1))
    gallery[100:130] = gallery[:30]
    return gallery


@pytest.mark.parametrize("side", [1, 3, 4, 5, 9, 30])
@pytest.mark.parametrize("k", [1, 10, 200])
@pytest.mark.parametrize("step", [1, 2, 16])
def test_patches_keep_all_of_the_closest_by_l1(side, k, step):
    gallery = bright_and_dark(side, np.random.default_rng(side))
    scan, among = Scan(gallery, side=side), np.arange(0, 400, step)
    for query in [*gallery[:10], *bright_and_dark(side, np.random.default_rng(99))[30:40]]:
        positions, _ = closest(Metric.L1, query, gallery, scan.candidates(Metric.L1, query, k, among), k)
        wanted = full_sort(Metric.L1, query, gallery[among], k)
        np.testing.assert_array_equal(positions, among[wanted])


def test_patches_rule_out_most_distant_pictures():
    gallery = bright_and_dark(30, np.random.default_rng(0))
    scan = Scan(gallery, side=30)
    left = [len(scan._not_too_far(scan._patches, query, 10, np.arange(400))) for query in gallery[:10]]
    assert 10 <= np.median(left) < 100


@pytest.mark.parametrize("side", [1, 3, 4, 5, 9])
def test_patch_sums_match_a_plain_loop(side):
    pixels = np.random.default_rng(0).random((3, side, side, 3))
    edges = range(0, side, PATCH)
    wanted = [[each[y : y + PATCH, x : x + PATCH].sum(axis=(0, 1)) for y in edges for x in edges] for each in pixels]
    found = _patch_sums(pixels.reshape(3, -1), side)
    np.testing.assert_allclose(found, np.reshape(wanted, (3, -1)))


@pytest.mark.parametrize("metric", Metric)
@pytest.mark.parametrize("count", [400, 300, 50])
def test_subsets_in_any_order_score_like_the_whole_gallery(metric, count):
    gallery = random_pixels(400, 3072)
    scan, rows = Scan(gallery, side=32), np.random.default_rng(0).permutation(400)[:count]
    others = 1 - gallery[:2]
    scores = scan.scores(metric, others, rows)
    np.testing.assert_allclose(scores, scan.scores(metric, others)[:, rows], rtol=1e-5, atol=1e-5)
    found = scan.candidates(metric, gallery[rows[7]], 1, rows)
    assert rows[7] in found
    assert len(found) < 5 or metric not in FAST


def duplicates(chance):
    return random_pixels(20, 256)[chance.integers(0, 20, 400)]


def nearly_equal(chance):
    return (chance.random(256) + chance.normal(0, 1e-7, (400, 256))).astype(np.float32)


def nearly_parallel(chance):
    return (chance.random(256) * chance.uniform(0.1, 1, (400, 1))).astype(np.float32)


def far_from_zero(chance):
    return chance.normal(5, 1e-3, (400, 256)).astype(np.float32)


def nearly_white(chance):
    """White pictures with a few dots: subtracting the mean leaves almost nothing but the dots."""
    gallery = np.ones((400, 3072), np.float32)
    np.put_along_axis(gallery, chance.integers(0, 3072, (400, 3)), as_pixels(chance.integers(0, 256, (400, 3))), axis=1)
    return gallery


def one_dot_apart(chance):
    """Flat pictures, some of which differ in the last bit of one value."""
    gallery = np.ones((400, 3072), np.float32)
    gallery[np.arange(0, 400, 3), chance.integers(0, 3072, 134)] = np.nextafter(np.float32(1), np.float32(0))
    return gallery


def equally_far(chance):
    """Flat and noisy pictures at about the same distance from a black one; flat ones round in the same direction."""
    gallery = chance.random((400, 3072)) / 5
    gallery[::2] = 0.1
    gallery *= 307.2 * (1 + chance.uniform(0, 2e-5, (400, 1))) / gallery.sum(axis=1, keepdims=True)
    gallery[0] = 0
    return gallery.astype(np.float32)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "make", [duplicates, nearly_equal, nearly_parallel, far_from_zero, nearly_white, one_dot_apart, equally_far]
)
@pytest.mark.parametrize("metric", Metric)
def test_scan_is_exact_in_the_worst_cases_for_rounding(metric, make, seed):
    gallery = make(np.random.default_rng(seed))
    scan = Scan(gallery, side=32 if gallery.shape[1] == 3072 else None)
    for query in gallery[:20]:
        positions, _ = closest(metric, query, gallery, scan.candidates(metric, query, 10), 10)
        np.testing.assert_array_equal(positions, full_sort(metric, query, gallery, 10))
