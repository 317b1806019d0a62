"""Signs in a text: what is a term to find, and what is a term to avoid."""

import pytest

from retrieval.errors import QueryError
from retrieval.search.terms import MAX_TERMS, signed_terms


@pytest.mark.parametrize(
    ("text", "wanted", "unwanted"),
    [
        ("red fruit", ["red fruit"], []),
        ("- night + day", ["day"], ["night"]),
        ("-night +day", ["day"], ["night"]),
        ("  beach\n+ sunset  - many people ", ["beach", "sunset"], ["many people"]),
        ("day \N{MINUS SIGN} night", ["day"], ["night"]),
        ("T-shirt, dark-blue and black- or white", ["T-shirt, dark-blue and black- or white"], []),
        ("C++ code", ["C++ code"], []),
        ("castle \N{EN DASH} at night", ["castle \N{EN DASH} at night"], []),
        ("a -- b", ["a -- b"], []),
        ("party -🎉", ["party"], ["🎉"]),
        ("- ", ["-"], []),
        ("day -", ["day -"], []),
        ("", [], []),
    ],
)
def test_terms_end_where_the_next_sign_begins(text: str, wanted: list[str], unwanted: list[str]) -> None:
    assert signed_terms(text) == (wanted, unwanted)


def test_number_of_terms_and_length_are_limited() -> None:
    assert len(signed_terms(" + a" * MAX_TERMS)[0]) == MAX_TERMS
    with pytest.raises(QueryError, match="17 terms"):
        signed_terms(" + a" * (MAX_TERMS + 1))
    with pytest.raises(QueryError, match="600 characters"):
        signed_terms("a" * 600)
