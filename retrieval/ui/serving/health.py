"""`/health`: whether visitors can search, checked at most once every half minute however often it is asked."""

import logging
import threading
import time
from collections.abc import Callable

import gradio as gr
import httpx
from PIL import Image
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from retrieval.engines.lock import IndexInUse
from retrieval.errors import IndexingError, ModelError, RetrievalError
from retrieval.search.query import Combination
from retrieval.search.ranking import rank
from retrieval.search.searcher import Searcher

PATH = "/health"
CHECK_EVERY = 30.0  # seconds that an answer is valid
HUNG_AFTER = 120.0  # seconds
VISIT_SECONDS = 30.0  # for a call that does nothing
VISIT = "health_visit"  # the name of that call in gradio's API

STARTING = "starting: the model and the index are being loaded"
STOPPING = "stopping: new searches are refused"
HUNG = "a search does not finish"
INDEX_UNUSABLE = "the index cannot be searched; see the log"
MODEL_UNUSABLE = "the model cannot be used; see the log"
UNREACHABLE = "calls of visitors are not answered; see the log"
SEARCH_FAILED = "a search fails; see the log"

log = logging.getLogger(__name__)


class Health:
    """Searches the first gallery by the default features with every engine, and remembers the result. Thread-safe."""

    def __init__(self, searcher: Searcher, every: float = CHECK_EVERY) -> None:
        self._searcher = searcher
        self._every = every
        self._lock = threading.Lock()
        self._checking_since: float | None = None
        self._checked_at: float | None = None
        self._problem: str | None = STARTING
        self.started = False
        self.stopping = False
        self.visit: Callable[[], None] | None = None  # calls the page as a visitor does, once it is served

    def problem(self) -> str | None:
        """Return why searches do not work at the moment, without details of this machine, or None if they work.

        Every `every` seconds, one caller waits for a small search; all others get the last result.
        """
        if self.stopping:
            return STOPPING
        if not self.started:
            return STARTING
        now = time.monotonic()
        with self._lock:
            if self._checking_since is not None:
                return HUNG if now - self._checking_since > HUNG_AFTER else self._problem
            if self._checked_at is not None and now - self._checked_at < self._every:
                return self._problem
            self._checking_since = now
        found: str | None = SEARCH_FAILED
        try:
            found = self._check()
        finally:
            with self._lock:
                self._checking_since, self._checked_at, self._problem = None, time.monotonic(), found
        return found

    def _check(self) -> str | None:
        try:
            self._search()
            if self.visit:
                self.visit()
        except httpx.HTTPError as error:
            log.error("health: the page does not answer a call: %s", error)
            return UNREACHABLE
        except RetrievalError as error:
            log.error("health: %s", error)
            if isinstance(error, ModelError):
                return MODEL_UNUSABLE
            return INDEX_UNUSABLE if isinstance(error, IndexingError) else SEARCH_FAILED
        except Exception:
            log.exception("health: unexpected error")
            return SEARCH_FAILED
        return None

    def _search(self) -> None:
        index = self._searcher.indexes.get()
        name = index.default_features
        vector = self._searcher.embedder.feature_set(index, name).embed([Image.new("RGB", (8, 8))])[0]
        for engine in index.engines:
            try:
                rank(index, Combination(name, engine=engine), vector, 1)
            except IndexInUse as error:  # another process owns ChromaDB's files, but the exact scan still works
                log.warning("health: no searches by %s: %s", engine, error)


def add_visit() -> None:
    """Add the call that `visit` makes to the Blocks."""
    button = gr.Button(visible=False)
    button.click(lambda: None, api_name=VISIT, api_visibility="undocumented", concurrency_limit=None)


def visit(address: str, session: str) -> None:
    """Call the served page through its queue, as visitors do; raise httpx.HTTPError if it does not answer."""
    end = time.monotonic() + VISIT_SECONDS
    with httpx.Client(base_url=f"{address}gradio_api/call/", timeout=VISIT_SECONDS, trust_env=False) as client:
        sent = client.post(VISIT, json={"data": [], "session_hash": session}).raise_for_status()
        with client.stream("GET", f"{VISIT}/{sent.json()['event_id']}") as answer:
            for line in answer.iter_lines():
                if line == "event: complete":
                    return
                if line == "event: error" or time.monotonic() > end:
                    break
    raise httpx.ReadError("the call got no answer")


def health_route(health: Health) -> Route:
    """Return the route that reports the health of a page: 200 if searches work, else 503 with the reason."""

    def answer(request: Request) -> JSONResponse:
        problem = health.problem()
        status = {"status": "ready"} if problem is None else {"status": "unavailable", "reason": problem}
        return JSONResponse(status, 503 if problem else 200, {"cache-control": "no-store"})

    return Route(PATH, answer, methods=["GET", "HEAD"])
