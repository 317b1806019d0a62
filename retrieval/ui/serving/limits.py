"""Limits on what visitors can ask of the server at once, and the lower ones for a public page."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from retrieval.analysis.queries import SAMPLE
from retrieval.errors import QueryError
from retrieval.pictures.decoding import WEB_FORMATS
from retrieval.pictures.loading import MAX_BYTES, OWNER, PictureLimits
from retrieval.search.query import MAX_TOP_K
from retrieval.settings import Settings

# The limit holds for all events of a group together; without a group, gradio would apply it to each event.
SEARCHES: dict[str, Any] = {"concurrency_id": "search", "concurrency_limit": 4}
LONG: dict[str, Any] = {"concurrency_id": "long", "concurrency_limit": 2}  # sweeps, evaluations and heat maps
WAITING = 128  # events in the queue; further ones are refused
# Sessions whose state gradio keeps, most recently used first. Each holds the page's whole configuration, and each API
# call without a session is one. A visitor whose session was dropped only loses the recent queries.
SESSIONS = 100
# Events that wait, run, or have an answer that was not fetched: of all visitors, of an address, of a session.
ANSWERS, ANSWERS_PER_ADDRESS, ANSWERS_PER_SESSION = 200, 64, 16

MAX_CALL = 12 * 2**20  # bytes of a request that is not an upload; an image of 9 MB in base64
CALLS_BYTES = 256 * 2**20  # of all calls being read; calls up to LOOKED_INTO are read in any case
MAX_VALUES = 100_000  # of a call; nested empty lists take 20 times their length in memory
MAX_NAME = 1000  # characters of a call's own strings, such as its session, which gradio keeps after the call
LOOKED_INTO = 2**16  # bytes; shorter calls are not checked for MAX_VALUES and MAX_NAME
UPLOADS_BYTES = 2 * 2**30
ARRIVING_BYTES = UPLOADS_BYTES // 4  # of all uploads being read
UPLOADS_FILES = 2000


@dataclass(frozen=True)
class Limits:
    """How much one request may take. The defaults are for owners who run the page for themselves."""

    upload_bytes: int = MAX_BYTES  # of an image
    pictures: PictureLimits = OWNER  # of query images
    top_k: int = MAX_TOP_K
    sample: int = SAMPLE  # queries per evaluation
    originals: bool = True  # whether visitors may see the files of a local gallery, and not only their thumbnails
    seconds: float = math.inf  # that a call may wait for its turn, and then run; a job stops after its current step

    def deadline(self) -> float:
        """Return when a long job that starts now must end, in seconds of `time.monotonic`."""
        return time.monotonic() + self.seconds

    def check(self) -> Callable[[], None]:
        """Return a function that raises QueryError once a search that starts now takes too long."""
        deadline = self.deadline()

        def check() -> None:
            if time.monotonic() > deadline:
                raise QueryError("The search takes too long for this page. Ask for less, or try again later.")

        return check


OWN = Limits()
# Two long jobs keep both cores of a Space busy, so those in the queue must not wait for long.
PUBLIC = Limits(
    20 * 2**20, PictureLimits(50_000_000, WEB_FORMATS), top_k=1000, sample=500, originals=False, seconds=60.0
)


def limits_of(settings: Settings) -> Limits:
    """Return the limits of a page: lower ones if others than the users of this machine can open it."""
    return OWN if settings.own_machine else PUBLIC
