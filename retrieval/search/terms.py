"""The terms of a text query, each with a sign: "beach + sunset - people"."""

import re

from retrieval.errors import QueryError

MAX_TEXT = 500  # characters of a text; the models read 40 to 77 tokens of it
MAX_TERMS = 16  # each is embedded

# A sign stands at the beginning or after a space, so the hyphen of a T-shirt is none. Phones also type a real minus.
SIGN = re.compile(r"(?:^|(?<= ))([+\-\N{MINUS SIGN}])(?=\s*[^\s+\-\N{MINUS SIGN}])")


def cleaned(text: str) -> str:
    """Return a text with single spaces; halves of surrogate pairs are replaced. Raise QueryError if it is too long."""
    found = " ".join(text.encode("utf-8", "replace").decode("utf-8").split())
    if len(found) > MAX_TEXT:
        raise QueryError(f"The text has {len(found):,} characters. Shorten it to {MAX_TEXT} or fewer.")
    return found


def signed_terms(text: str) -> tuple[list[str], list[str]]:
    """Return the terms to find and those to avoid; a term ends where the next sign begins.

    Raise QueryError if the text is too long or has too many terms.
    """
    first, *rest = SIGN.split(cleaned(text))
    terms = [("+", first), *zip(rest[::2], rest[1::2], strict=True)]
    found = [(sign, term.strip()) for sign, term in terms if term.strip()]
    if len(found) > MAX_TERMS:
        raise QueryError(f"The text has {len(found)} terms with + or -. Use {MAX_TERMS} or fewer.")
    return [term for sign, term in found if sign == "+"], [term for sign, term in found if sign != "+"]
