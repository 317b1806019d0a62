"""The lines of the log."""

import json
import logging
import re
import sys

import pytest

from retrieval import logs


@pytest.mark.parametrize("formatter", [logs.TextLines(), logs.JsonLines()])
def test_log_has_fields_and_where_an_error_was_raised_but_not_what_was_sent(formatter: logging.Formatter) -> None:
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
        told = json.loads(line)
        assert told | {"level": "warning", "logger": "search", "message": "search of 3", "k": 5} == told
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", told["time"])
