"""The log of the app, for people or as JSON; what a visitor sends is in no line of it."""

import json
import logging
import sys
import traceback
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

# They tell of every request: of visitors with their addresses, or of the Hub with the names of repositories.
TALKATIVE = ("httpx", "httpx2", "httpcore", "uvicorn.access", "urllib3")
# Their messages repeat what a visitor sent: headers, names of tools, whole requests. mcp writes some in the name of the
# root, in which nothing of ours is logged.
REPEATING = ("mcp", "root")

log = logging.getLogger("search")

Raised = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]


class TextLines(logging.Formatter):
    """A line for people: time, level, message, and the fields behind it."""

    def __init__(self) -> None:
        """Write the time to the millisecond."""
        super().__init__("%(asctime)s %(levelname)s %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:
        """Return the line, see `logging.Formatter`."""
        fields = "".join(f" {name}={value}" for name, value in _fields(record).items())
        return super().formatMessage(record) + fields

    def formatException(self, ei: Raised) -> str:
        """Return where something was raised, see `frames`."""
        return frames(ei[1])


class JsonLines(logging.Formatter):
    """A line of JSON: `time` (ISO, UTC), `level`, `logger`, `message`, the fields, and `error` where one was raised."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, see `logging.Formatter`."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info and record.exc_info[1]:
            line["error"] = frames(record.exc_info[1])
        return json.dumps(line, ensure_ascii=False)


def frames(error: BaseException | None) -> str:
    """Return the kind of an error and the lines of code that it came through.

    Not its message, which may hold what a visitor sent: a text, or the name of a file. Whoever looks for a fault on a
    machine of their own sees it with `--log-level debug`.
    """
    where = "".join(traceback.format_tb(error.__traceback__)) if error else ""
    text = f": {error}" if log.isEnabledFor(logging.DEBUG) else ""
    return f"{where}{type(error).__name__}{text}"


def start(level: str, form: str) -> None:
    """Let everything that this process logs come out on stderr, from a level on.

    Args:
        level: one of `settings.LOG_LEVELS`.
        form: one of `settings.LOG_FORMATS`.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(_withhold)
    handler.setFormatter(JsonLines() if form == "json" else TextLines())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.captureWarnings(True)
    for name in TALKATIVE:
        logging.getLogger(name).setLevel(logging.WARNING)


def take_over(name: str) -> None:
    """Let what a library logs with a handler of its own come out as all else does."""
    other = logging.getLogger(name)
    other.handlers.clear()
    other.propagate = True


def _withhold(record: logging.LogRecord) -> bool:
    """Let of what repeats a visitor's words errors alone pass, and of these the line of code alone."""
    if record.name.partition(".")[0] in REPEATING:
        record.msg, record.args = f"a fault, at {record.filename}:{record.lineno}", None
        return record.levelno >= logging.ERROR
    return True


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    return getattr(record, "fields", {})
