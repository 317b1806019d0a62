"""The formats of the log."""

import json
import logging
import re
import sys

import pytest

from retrieval import logs


@pytest.mark.parametrize("formatter", [logs.TextLines(), logs.JsonLines()])
def test_log_has_fields_and_the_place_of_an_error_but_no_user_input(formatter: logging.Formatter) -> None:
    record = logging.LogRecord("search", logging.WARNING, __file__, 1, "search of %d", (3,), None)
    record.fields = {"engine": "exact", "k": 5}
    sent = "what a visitor wrote"
    try:
        int(sent)
    except ValueError:
        record.exc_info = sys.exc_info()
    line = formatter.format(record)
    assert "search of 3" in line
    assert "exact" in line
    assert "ValueError" in line
    assert "test_logs.py" in line
    assert sent not in line
    if isinstance(formatter, logs.JsonLines):
        entry = json.loads(line)
        assert entry | {"level": "warning", "logger": "search", "message": "search of 3", "k": 5} == entry
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", entry["time"])
