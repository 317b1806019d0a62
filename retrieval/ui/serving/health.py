"""Whether a search works: asked as often as one likes, tried no more often than every half minute."""

import logging
import threading
import time

from PIL import Image
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from retrieval.engines import ENGINES
from retrieval.engines.lock import IndexInUse
from retrieval.errors import IndexingError, ModelError, RetrievalError
from retrieval.features import DEFAULT_FEATURES
from retrieval.search.query import Combination
from retrieval.search.ranking import rank
from retrieval.search.searcher import Searcher

UNREADY_STARTING = "starting: the model and the index are loading"
UNREADY_STOPPING = "stopping: no new searches are accepted"
UNREADY_HUNG = "a search is not responding"
UNREADY_INDEX = "the index cannot be searched; see the log for the reason"
UNREADY_MODEL = "the model cannot be used; see the log for the reason"
UNREADY_SEARCH = "a search failed; see the log for the reason"

EVERY = 30.0  # seconds that an answer holds
SLOW = 120.0  # seconds after which a try counts as hung
log = logging.getLogger(__name__)


class Health:
    """Tries a small search now and then, and remembers how it went; safe for many threads."""

    def __init__(self, searcher: Searcher, every: float = EVERY) -> None:
        """Take what is tried.

        Args:
            searcher: its first gallery is searched, by CLIP features and both engines.
            every: seconds between two tries.
        """
        self._searcher = searcher
        self._every = every
        self._lock = threading.Lock()
        self._trying: float | None = None  # since when
        self._tried: float | None = None
        self._problem: str | None = UNREADY_STARTING
        self.started = False
        self.stopping = False

    def problem(self) -> str | None:
        """Return why no search works now, in words that give nothing of this machine away; None if one does.

        One caller in `every` seconds waits for a small search; all others get what that one found.
        """
        if self.stopping or not self.started:
            return UNREADY_STOPPING if self.stopping else UNREADY_STARTING
        now = time.monotonic()
        with self._lock:
            if self._trying is not None:
                return UNREADY_HUNG if now - self._trying > SLOW else self._problem
            if self._tried is not None and now - self._tried < self._every:
                return self._problem
            self._trying = now
        found: str | None = UNREADY_SEARCH
        try:
            found = self._try()
        finally:
            with self._lock:
                self._trying, self._tried, self._problem = None, time.monotonic(), found
        return found

    def _try(self) -> str | None:
        try:
            index = self._searcher.indexes.get()
            features = self._searcher.embedder.feature_set(index, DEFAULT_FEATURES)
            vector = features.embed([Image.new("RGB", (8, 8))])[0]
            for engine in ENGINES:
                try:
                    rank(index, Combination(engine=engine), vector, 1)
                except IndexInUse as error:  # ChromaDB's files have one owner; the exact scan needs none
                    log.warning("health: no searches by %s: %s", engine, error)
        except RetrievalError as error:
            log.error("health: %s", error)
            if isinstance(error, ModelError):
                return UNREADY_MODEL
            return UNREADY_INDEX if isinstance(error, IndexingError) else UNREADY_SEARCH
        except Exception:
            log.exception("health: unexpected error")
            return UNREADY_SEARCH
        return None


PATH = "/health"


def health_route(health: Health) -> Route:
    """Return the route that tells how a page is."""

    def tell(request: Request) -> JSONResponse:
        problem = health.problem()
        status = {"status": "ready"} if problem is None else {"status": "unavailable", "reason": problem}
        return JSONResponse(status, 503 if problem else 200, {"cache-control": "no-store"})

    return Route(PATH, tell, methods=["GET", "HEAD"])
