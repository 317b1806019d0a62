"""Distortions of a query picture: against numpy and scipy, at their limits, and in the cache of vectors."""

import io
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy.ndimage import gaussian_filter

from retrieval.errors import QueryError
from retrieval.features import DEFAULT_SET
from retrieval.pictures import distortion
from retrieval.pictures.distortion import LIMITS, LONGEST, UNDISTORTED, WORKING_PIXELS, Distortion, rotated_size
from retrieval.pictures.loading import load_picture
from retrieval.search.query import Query
from retrieval.search.validation import checked_distortion

ODD = [(1, 1), (1, 5000), (5000, 1), (2, 3), (7, 1), (640, 480)]
EACH = [
    Distortion(rotation=33),
    Distortion(crop=0.9),
    Distortion(blur=0.1),
    Distortion(grey=0.5),
    Distortion(quality=1),
    Distortion(-180, 0.5, 0.02, 1, 30),
]


def picture(width, height, seed=0):
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(values)


def pixels(image):
    return np.asarray(image, np.float64)


@pytest.fixture(scope="module")
def fox(queries):
    return load_picture(queries / "fox.png")


def test_no_distortion_returns_the_same_object():
    given = picture(3000, 2000)  # large enough that a distortion would shrink it first
    assert UNDISTORTED.apply(given) is given
    assert checked_distortion() == UNDISTORTED == checked_distortion(0, 0.0, 0, 0, 100.0)


@pytest.mark.parametrize(("degrees", "quarters"), [(90, 1), (180, 2), (-180, 2), (-90, 3)])
def test_quarter_turns_only_move_pixels(degrees, quarters):
    given = picture(31, 17)
    assert np.array_equal(pixels(Distortion(rotation=degrees).apply(given)), np.rot90(pixels(given), quarters))


def test_rotated_picture_is_complete_on_a_white_background():
    black = Image.new("RGB", (100, 60))
    tilted = pixels(Distortion(rotation=30).apply(black))
    assert np.allclose(tilted.shape[1::-1], rotated_size(100, 60, 30), atol=2)
    assert np.all(tilted[[0, 0, -1, -1], [0, -1, 0, -1]] == 255)
    assert np.count_nonzero(tilted[..., 0] < 128) == pytest.approx(100 * 60, rel=0.03)  # its area is kept


@pytest.mark.parametrize(("share", "x", "y"), [(0.2, 10, 4), (0.5, 25, 10), (0.9, 45, 18), (0.01, 0, 0)])
def test_crop_is_a_slice(share, x, y):
    given = picture(100, 40)
    assert np.array_equal(pixels(Distortion(crop=share).apply(given)), pixels(given)[y : 40 - y, x : 100 - x])


@pytest.mark.parametrize("name", ["fox", "cat", "pizza"])
@pytest.mark.parametrize("share", [0.005, 0.02, 0.06, 0.1])
def test_blur_is_a_gaussian(queries, name, share):
    # Pillow applies three box blurs (Gwosdek et al., "Theoretical Foundations of Gaussian Convolution by Extended Box
    # Filtering", 2011) and rounds each to 8 bits, so it may differ by a few of 255 levels. At the edge, each of the
    # three extends the result of the previous one, but scipy extends the picture itself. The close comparison
    # therefore starts 2.5 standard deviations from the edge.
    given = load_picture(queries / f"{name}.png")
    sigma = share * min(given.size)
    error = np.abs(
        pixels(Distortion(blur=share).apply(given)) - gaussian_filter(pixels(given), (sigma, sigma, 0), mode="nearest")
    )
    edge = int(2.5 * sigma) + 1
    assert error[edge:-edge, edge:-edge].max() <= 6
    assert error[edge:-edge, edge:-edge].mean() <= 1
    assert error.mean() <= 1.5
    other = gaussian_filter(pixels(given), (1.5 * sigma, 1.5 * sigma, 0), mode="nearest")
    assert error.mean() < np.abs(pixels(Distortion(blur=share).apply(given)) - other).mean()


@pytest.mark.parametrize("share", [0.25, 0.5, 1])
def test_grey_is_the_luma_of_bt_601(share):
    given = picture(60, 40)
    luma = pixels(given) @ [0.299, 0.587, 0.114]
    expected = (1 - share) * pixels(given) + share * luma[..., None]
    assert np.abs(pixels(Distortion(grey=share).apply(given)) - expected).max() <= 1.01  # rounded twice


def test_lower_jpeg_quality_gives_larger_errors(fox):
    # Below quality 5, most entries of libjpeg's tables are at their limit of 255, so errors hardly grow any more.
    errors = [np.abs(pixels(Distortion(quality=q).apply(fox)) - pixels(fox)).mean() for q in (99, 50, 20, 5)]
    assert errors == sorted(errors)
    assert 0 < errors[0] < 1 < 5 < errors[-1]
    buffer = io.BytesIO()
    fox.save(buffer, "JPEG", quality=20)
    assert np.array_equal(pixels(Distortion(quality=20).apply(fox)), pixels(load_picture(buffer.getvalue())))


def test_distortions_are_applied_in_a_fixed_order(fox):
    parts = [Distortion(crop=0.3), Distortion(rotation=20), Distortion(blur=0.02), Distortion(grey=1)]
    parts.append(Distortion(quality=30))
    one_by_one = fox
    for part in parts:
        one_by_one = part.apply(one_by_one)
    assert np.array_equal(pixels(Distortion(20, 0.3, 0.02, 1, 30).apply(fox)), pixels(one_by_one))


@pytest.mark.parametrize("size", ODD, ids=str)
@pytest.mark.parametrize("each", EACH, ids=str)
def test_unusual_sizes(size, each):
    changed = each.apply(picture(*size))
    assert changed.mode == "RGB"
    assert min(changed.size) >= 1


@pytest.mark.parametrize("size", [(10**7, 1), (3, 5 * 10**6)], ids=str)
@pytest.mark.parametrize("each", EACH, ids=str)
def test_very_long_pictures_stay_within_memory_and_jpeg_limits(size, each):
    changed = each.apply(Image.new("RGB", size))
    assert changed.width * changed.height <= 1.1 * WORKING_PIXELS
    assert max(changed.size) <= LONGEST


@pytest.mark.parametrize("each", [part for part in EACH if part.quality == 100], ids=str)
def test_shrinking_large_pictures_first_hardly_changes_the_result(each, fox, monkeypatch):
    """The raw pixel features change by a few levels at most, far less than by the distortion itself."""
    large = fox.resize((1600, 1600), Image.Resampling.BICUBIC)
    first = pixels(each.apply(large).resize((32, 32), Image.Resampling.BICUBIC))
    monkeypatch.setattr(distortion, "WORKING_PIXELS", 10**9)
    last = pixels(each.apply(large).resize((32, 32), Image.Resampling.BICUBIC))
    assert each.apply(large).width > 0
    done = np.abs(last - pixels(large.resize((32, 32), Image.Resampling.BICUBIC))).mean()
    assert np.abs(first - last).mean() < min(1.0, done / 5)


@pytest.mark.parametrize(
    ("part", "value", "words"),
    [
        ("rotation", 181, "rotation must be a number from -180 to 180 (degrees, counter-clockwise), not 181."),
        ("rotation", float("nan"), "not nan."),
        ("rotation", True, "not True."),
        ("crop", 0.91, "crop must be a number from 0 to 0.9 (share removed; 0: none), not 0.91."),
        ("crop", -0.1, "not -0.1."),
        ("blur", "0.05", "blur must be a number from 0 to 0.1 (share of the shorter side; 0: none), not '0.05'."),
        ("blur", float("inf"), "not inf."),
        ("grey", None, "grey must be a number from 0 to 1 (share mixed in; 1: no colour left), not None."),
        ("quality", 0, "quality must be a whole number from 1 to 100"),
        ("quality", 20.5, "not 20.5."),
        ("quality", [20], "not [20]."),
    ],
)
def test_errors_for_values_out_of_range(part, value, words):
    with pytest.raises(QueryError) as caught:
        checked_distortion(**{part: value})
    assert words in str(caught.value)


def test_limits_are_inclusive():
    for part, limits in LIMITS.items():
        for limit in limits:
            assert getattr(checked_distortion(**{part: limit}), part) == limit


sides = st.integers(1, 40)
within = {part: st.floats(low, high) for part, (low, high) in LIMITS.items()} | {"quality": st.integers(1, 100)}


@given(width=sides, height=sides, seed=st.integers(0, 99), chosen=st.fixed_dictionaries(within))
def test_distortions_within_the_limits_are_deterministic(width, height, seed, chosen):
    given = picture(width, height, seed)
    before = given.tobytes()
    one, two = (checked_distortion(**chosen).apply(given) for _ in "ab")
    assert one.mode == "RGB"
    assert min(one.size) >= 1
    assert (one.size, one.tobytes()) == (two.size, two.tobytes())
    assert given.tobytes() == before  # the picture itself is unchanged


@given(width=sides, height=sides, share=st.floats(0, 0.9))
def test_crop_keeps_the_centre_and_the_given_share(width, height, share):
    cropped = Distortion(crop=share).apply(Image.new("RGB", (width, height)))
    for before, after in zip((width, height), cropped.size, strict=True):
        assert (before - after) % 2 == 0
        assert -1e-9 <= after - before * (1 - share) <= 2 + 1e-9  # floating-point rounding


@given(value=st.floats(), part=st.sampled_from(sorted(LIMITS)))
def test_accepted_values_are_within_the_limits(value, part):
    low, high = LIMITS[part]
    try:
        accepted = getattr(checked_distortion(**{part: value}), part)
    except QueryError:
        assert not low <= value <= high or (part == "quality" and value != int(value))
    else:
        assert low <= accepted <= high
        assert accepted == value


def test_cache_distinguishes_distortions(icons_searcher, queries):
    query = Query(picture=queries / "fox.png")
    index, embedder = icons_searcher.indexes.get(), icons_searcher.embedder
    for features in DEFAULT_SET:
        asked = [replace(query, features=features, distortion=each) for each in (UNDISTORTED, *EACH)]
        vectors = [embedder.embed(index, each).vector for each in asked]
        assert len({vector.tobytes() for vector in vectors}) == len(asked)
        again = [embedder.embed(index, each) for each in asked]
        assert not any(each.features for each in again)
        assert all(np.array_equal(a.vector, b) for a, b in zip(again, vectors, strict=True))
