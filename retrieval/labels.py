"""Texts as the page, the command line and the plots show them: names of metrics and maps, and texts of a dataset."""

import re
import sys
from collections.abc import Mapping

from retrieval.metrics import DEFINITIONS, Metric

METRICS: Mapping[Metric, str] = {metric: definition.title for metric, definition in DEFINITIONS.items()}
METHODS: Mapping[str, str] = {"pca": "PCA", "tsne": "t-SNE"}

# Characters that control a terminal, break a line, or change the direction of the text after them.
CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")

FORMULA = re.compile(r"(^|;)(?=\s*[=+\-@\t\r])")


def printable(text: str) -> str:
    """Return a text of a dataset for one line of a terminal; control characters are escaped, such as `\\x1b`."""
    return CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def print_error(error: Exception) -> None:
    """Print an error for the user; control characters in it, which can come from a dataset, are escaped."""
    print(f"error: {printable(str(error))}", file=sys.stderr)


def without_formula(text: str) -> str:
    """Return a text of a dataset for a CSV file: spreadsheets would run one that starts like a formula.

    In many countries, they also start a new cell at a semicolon.
    """
    return FORMULA.sub(r"\1'", text)
