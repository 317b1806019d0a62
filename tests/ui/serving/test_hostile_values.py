"""Values, bodies and events that no page would send: they get a result or a message, and nothing is leaked.

All tests attack one app that runs as on a Space. The last test checks that it still works as before.
"""

import json
import math
from collections.abc import Iterator
from typing import Any

import pytest
from _pytest.mark import ParameterSet
from hypothesis import strategies as st

from retrieval import errors
from retrieval.errors import PictureError
from retrieval.pictures.loading import load_picture
from retrieval.ui.serving.limits import MAX_CALL
from tests.support.attacked import DEFAULTS, FILE, Site, check_after_attacks, nested
from tests.support.fuzz import fuzz
from tests.support.hostile_pictures import small

pytestmark = pytest.mark.endurance

VALUES: dict[str, Any] = {
    "nothing": None,
    "true": True,
    "a list": ["x", 1, None],
    "an object": {"a": 1},
    "nesting": nested(60),
    "not a number": math.nan,
    "infinity": math.inf,
    "1e308": 1e308,
    "an integer of 400 digits": 10**400,
    "minus one": -1,
    "a NUL": "a\0b",
    "half a character": "\ud800",
    "bidi and controls": "\u202e\u2066\x1b[31m\x07\u200b\ufeff",
    "100,000 letters": "x" * 100_000,
    "combining marks": "a" + "\u0301" * 3000,
    "a format": "{0.__class__.__init__.__globals__}%s%n%x${7*7}{{7*7}}<%= 7*7 %>",
    "a script": "<script>alert(1)</script><img src=x onerror=alert(1)>",
    "sql": "'; DROP TABLE collections; --",
    "a shell": "; touch ran; $(touch ran) `touch ran` | touch ran",
    "up": "../../../../../../etc/passwd",
    "environment": "/proc/self/environ",
    "endless": "/dev/zero",
    "a file address": "file:///etc/passwd",
    "an address": "CANARY/x.png",
    "a path": {"path": "/proc/self/environ"},
    "a file": {"path": "/proc/self/environ", **FILE},
    "an endless file": {"path": "/dev/zero", **FILE},
    "a file far away": {"path": "CANARY/x.png", "url": "CANARY/x.png", **FILE},
    "a file without a path": {"path": None, "url": "CANARY/x.png", **FILE},
    "a file of numbers": {"path": 5, "url": 5, "meta": 5},
    "files": [{"path": "/dev/zero", **FILE}],
    "a stream": {"path": "CANARY/x.m3u8", "is_stream": True, **FILE},
    "an update": {"__type__": "update", "value": "x", "visible": True},
    "a prototype": {"__proto__": {"x": 1}, "constructor": {"prototype": {"x": 1}}, "__class__": "x"},
}


def each_argument() -> Iterator[ParameterSet]:
    """Yield each value for each argument; each value for one argument of each endpoint is a short test."""
    for endpoint, arguments in DEFAULTS.items():
        for number, value in enumerate(VALUES):
            for at, argument in enumerate(arguments):
                marks = [pytest.mark.short] if at == number % len(arguments) else []
                yield pytest.param(endpoint, argument, value, marks=marks)


@pytest.mark.parametrize(("endpoint", "argument", "value"), list(each_argument()))
def test_any_value_of_any_argument_gets_a_result_or_a_message(
    site: Site, before: object, endpoint: str, argument: str, value: str
) -> None:
    sent = json.loads(json.dumps(VALUES[value]).replace("CANARY", site.canary))
    answer = site.post(endpoint, list((DEFAULTS[endpoint] | {argument: sent}).values()))
    assert errors.SURPRISE not in answer
    if "meta" not in json.dumps(sent) or "event: error" not in answer:  # gradio refuses such files without a message
        assert "event: complete" in answer or '{"error": "' in answer, answer


@pytest.mark.short
@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "refused: 4"),
        (b"null", "refused: 4"),
        (b"[]", "refused: 4"),
        (b"{}", "refused: 4"),
        (b'{"data": null}', "refused: 4"),
        (b'{"data": {"image": "x"}}', "refused: 4"),
        (b'{"data": []}', "event: error"),
        (b'{"data": [1, 2, 3, 4, 5, 6, 7, 8, 9]}', "event: error"),
        (b'{"data": [' + b"[" * 50_000 + b"]" * 50_000 + b"]}", "refused: 4"),
        (b'{"data": [' + b"[" * 900 + b"]" * 900 + b"]}", ""),
        (b'{"data": [' + b"[]," * 2_000_000 + b"[]]}", "refused: 413"),
        (b'{"data": [' + b"{}," * 2_000_000 + b"{}]}", "refused: 413"),
        (b'{"data": [' + b"1," * 4_000_000 + b"1]}", "refused: 413"),
        (b'{"data": ["' + b"A" * (MAX_CALL + 1) + b'"]}', "refused: 413"),
        (b'{"data": ["' + b"A" * (MAX_CALL - 100) + b'"]}', "event: error"),
        (b'{"data": [], "session_hash": "' + b"s" * 1_000_000 + b'"}', "refused: 413"),
        (b'{"data": [], "session\\u005fhash": "' + b"s" * 1_000_000 + b'"}', "refused: 413"),
        (b'{"data": [' + b"9" * 100_000 + b"]}", "refused: 4"),
        (b'{"data": ["\xff\xfe"]}', "refused: 4"),
        ('{"data": []}'.encode("utf-16"), ""),
        (b"\xef\xbb\xbf{}", "refused: 4"),
        (b'{"data": [NaN, Infinity, -Infinity]}', "event: error"),
        (b"<?xml version='1.0'?><!DOCTYPE x SYSTEM 'file:///etc/passwd'><x/>", "refused: 4"),
        (b"data=1&data=2", "refused: 4"),
    ],
)
def test_invalid_bodies_are_refused(site: Site, body: bytes, said: str) -> None:
    answer = site.post("search", body)
    assert said in answer, answer[:500]
    assert "hits" not in answer


SHORT = ("an object", "a file")


@pytest.fixture(scope="module")
def events(site: Site) -> list[dict[str, Any]]:
    """All events of the page, including private ones."""
    return list(site.client.get("/config").json()["dependencies"])


@pytest.mark.parametrize(
    "value", ["nothing", "a NUL", "up", "an update", *(pytest.param(each, marks=pytest.mark.short) for each in SHORT)]
)
def test_page_events_do_not_leak_details_with_invalid_data(
    site: Site, events: list[dict[str, Any]], value: str
) -> None:
    sent = VALUES[value]
    for event in events:
        call = {"data": [sent] * len(event["inputs"]), "event_data": sent, "fn_index": event["id"]}
        session = f"{value} {event['id']}"
        status, text = site.ask("POST", "/gradio_api/queue/join", json=call | {"session_hash": session})
        assert status in (200, 400, 422, 500, 503), text
        if status == 200:
            site.wait_for_answer(session)


GOOD = [small(kind) for kind in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "AVIF", "PPM", "TGA", "ICO", "JPEG2000")]
SPOILT = st.tuples(
    st.sampled_from(GOOD), st.lists(st.tuples(st.floats(0, 1), st.binary(max_size=9)), max_size=8), st.floats(0.2, 1)
)
TEXTS = st.text() | st.sampled_from(["", "icons", "clip", "l2", "chroma", "\0", "../x", "data:,", "/dev/zero"])
ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS | st.just("path"), inner, max_size=4),
    max_leaves=8,
)


def check_picture(spoilt: tuple[bytes, list[tuple[float, bytes]], float]) -> None:
    good, changes, share = spoilt
    data = bytearray(good)
    for at, change in changes:
        place = int(at**3 * len(data))  # mostly in the header
        data[place : place + len(change)] = change
    try:
        assert load_picture(bytes(data[: int(share * len(data))])).mode == "RGB"
    except PictureError as error:
        assert str(error).endswith(("Choose another file.", "or choose another.", "Shrink it.", "BMP or AVIF."))


def check_answer(site: Site, endpoint: str, arguments: list[Any]) -> None:
    answer = site.post(endpoint, json.dumps({"data": arguments}).encode())
    assert errors.SURPRISE not in answer
    assert answer.startswith(("event: ", "refused: 4"))


@pytest.mark.short
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::PIL.Image.DecompressionBombWarning")
def test_random_bytes_are_read_or_refused_with_a_message() -> None:
    fuzz(SPOILT, check_picture)


@pytest.mark.short
def test_random_arguments_get_an_answer(site: Site) -> None:
    fuzz(st.tuples(st.sampled_from(list(DEFAULTS)), st.lists(ANY, max_size=13)), lambda call: check_answer(site, *call))


@pytest.mark.short
def test_app_still_works_and_has_hardly_grown(site: Site, before: tuple[str, float]) -> None:
    check_after_attacks(site, before)
