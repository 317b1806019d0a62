"""How much visitors can ask of the server at once, how large a request may be, and how much less that is on a Space."""

import math
import time
from dataclasses import dataclass
from typing import Any

from retrieval.analysis import evaluation
from retrieval.pictures.loading import MAX_BYTES, MAX_PIXELS
from retrieval.search.query import MAX_TOP_K
from retrieval.settings import Settings

# Of all events of a group together so many run at a time; without a group, gradio would let so many run of each.
SEARCHES: dict[str, Any] = {"concurrency_id": "search", "concurrency_limit": 4}
LONG: dict[str, Any] = {"concurrency_id": "long", "concurrency_limit": 2}  # sweeps and evaluations
WAITING = 64  # events in the queue; beyond that visitors are told that the page is busy
# Sessions that gradio keeps the state of, those used last: of each the whole page's configuration, 0.3 MB and 9 ms to
# make. A call of the API that names no session is one. Who comes back to a forgotten one only finds the trail empty.
SESSIONS = 100
ANSWERS = 200  # sessions whose answers gradio keeps until they are fetched; a long one takes 4 MB

MAX_CALL = 12 * 2**20  # of a request that is no upload; in base64 that is a picture of 9 MB
CALLS_BYTES = 256 * 2**20  # of all calls that are read at a time; those up to LOOKED_INTO are read even so
MAX_VALUES = 100_000  # of a call: a list of nothing but lists takes 20 times its length in memory
MAX_NAME = 1000  # of a call's own texts, such as its session, which are kept when it is over; a picture is not one
LOOKED_INTO = 2**16  # bytes; a shorter call cannot break the two limits by much
UPLOADS_BYTES = 2 * 2**30
UPLOADS_FILES = 2000


@dataclass(frozen=True)
class Limits:
    """How much one request may take; whoever runs the page for themselves knows what they ask for."""

    upload_bytes: int = MAX_BYTES  # of a picture
    pixels: int = MAX_PIXELS
    top_k: int = MAX_TOP_K
    sample: int = evaluation.SAMPLE  # queries of an evaluation
    seconds: float = math.inf  # of a sweep or an evaluation, which ends after the step that it is at

    def deadline(self) -> float:
        """Return when a long job that begins now must end, by `time.monotonic`."""
        return time.monotonic() + self.seconds


OWN = Limits()
# A Space has 2 cores for all: two long jobs fill both, so what waits behind them must not wait for long.
SPACE = Limits(upload_bytes=20 * 2**20, pixels=50_000_000, top_k=1000, sample=500, seconds=60.0)


def limits_of(settings: Settings) -> Limits:
    """Return the limits of a page: those of a Space, whose visitors are strangers, or those of anybody's own."""
    return SPACE if settings.space else OWN
