"""Links to a search: they round-trip, and untrusted ones do no harm."""

from urllib.parse import parse_qsl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval.engines import AUTO, ENGINES
from retrieval.features import DEFAULT_SET
from retrieval.metrics import Metric
from retrieval.search.query import Added, Query
from retrieval.search.searcher import Searcher
from retrieval.ui.permalink import NAMES, from_address, linked, to_address

DEFAULT = Query(top_k=12)


def parse_address(address: str, searcher: Searcher) -> tuple[Query, list[str], list[str]]:
    return from_address(parse_qsl(address), searcher.indexes, DEFAULT)


TEXTS = st.text(st.characters(codec="utf-8"), max_size=40)


@given(
    position=st.none() | st.integers(0, 1565),
    region=st.none() | st.just((0.1, 0.2, 0.75, 1.0)),
    more=st.lists(st.integers(0, 1565), max_size=8),
    less=st.lists(st.integers(0, 1565), max_size=8),
    text=TEXTS,
    without=TEXTS,
    balance=st.floats(0, 1),
    labels=st.sets(st.sampled_from(["flag", "food-fruit", "zodiac"])).map(lambda found: tuple(sorted(found))),
    alike=st.floats(0, 1),
    features=st.lists(st.sampled_from(DEFAULT_SET), unique=True),
    metric=st.sampled_from(Metric),
    engine=st.sampled_from([AUTO, *ENGINES]),
    top_k=st.integers(1, 60),
)
def test_address_round_trip(icons_searcher, position, region, more, less, features, **values):
    region = region if position is not None else None
    added = (*(Added(position=each) for each in more), *(Added(position=each, more=False) for each in less))
    query = Query(position=position, region=region, added=added, gallery="icons", **values)
    address = to_address(query, features, icons_searcher.indexes.get())
    assert parse_address(address, icons_searcher) == (query, features, [])


def test_address_never_contains_an_uploaded_picture(icons_searcher, queries):
    index = icons_searcher.indexes.get()
    value = linked(Query(picture=queries / "fox.png", region=(0.1, 0.1, 0.5, 0.5)), ["clip"], index)
    assert value["own"]
    assert "fox" not in value["address"]
    assert "id=" not in value["address"]
    assert "region" not in value["address"]
    assert not linked(Query(position=3), ["clip"], index)["own"]
    uploaded, item = Added(queries / "fox.png"), Added(position=4)
    value = linked(Query(position=3, added=(uploaded, item)), ["clip"], index)
    assert value["own"]
    assert "fox" not in value["address"]
    assert not linked(Query(position=3, added=(item,)), ["clip"], index)["own"]
    assert linked(Query(picture=queries / "cat.png", added=(uploaded,)), ["clip"], index, "cat")["own"]


def test_empty_address_gives_the_default_query(icons_searcher):
    assert parse_address("", icons_searcher) == (DEFAULT, [], [])
    assert parse_address("__theme=dark&utm_source=x", icons_searcher) == (DEFAULT, [], [])


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("gallery=nothing", "There is no gallery 'nothing'."),
        ("gallery=../../etc", "There is no gallery"),
        ("id=nothing", "has no image 'nothing'"),
        ("more=nothing", "has no image 'nothing'"),
        ("less=nothing&more=1f32f", "has no image 'nothing'"),
        ("&".join(["less=1f32f"] * 17), "can have 16 added images, not 17"),
        ("region=1,2", "four numbers"),
        ("region=a,b,c,d", "four numbers"),
        ("balance=2", "balance must be"),
        ("balance=nan", "balance must be"),
        ("alike=x", "alike must be"),
        ("label=nothing", "No image has the label"),
        ("features=<words>", "does not exist"),
        ("features=words", "has no words features"),
        ("metric=l9", "does not exist"),
        ("engine=magic", "does not exist"),
        ("k=0", "top_k must be"),
        ("k=1e400", "top_k must be"),
        ("k=many", "top_k must be"),
    ],
)
def test_invalid_parts_are_reported_and_the_rest_is_used(icons_searcher, address, words):
    query, _, problems = parse_address(f"text=red&{address}", icons_searcher)
    assert query.text == "red"
    assert len(problems) == 1
    assert words in problems[0]


@given(st.lists(st.tuples(st.sampled_from(NAMES), st.text(max_size=30)), max_size=12))
def test_arbitrary_addresses_cause_no_unexpected_errors(icons_searcher, items):
    query, _, problems = from_address(items, icons_searcher.indexes, DEFAULT)
    assert len(problems) <= len(NAMES) + len(items)
    if not problems:
        icons_searcher.indexes.get(query.gallery).with_labels(query.labels)
