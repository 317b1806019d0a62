"""The page's queue: no visitor can stop it, fill it for long, or keep it for themselves."""

import json
import logging
import math
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from retrieval.analysis.comparison import compare
from retrieval.errors import QueryError
from retrieval.search.query import Query, Ranking
from retrieval.search.searcher import Searcher
from retrieval.storage.catalog import Indexes
from retrieval.storage.reader import GalleryIndex
from retrieval.ui.page import Page, build_page, launch
from retrieval.ui.serving import health, queue
from retrieval.ui.serving.health import UNREACHABLE, Health
from retrieval.ui.serving.limits import ANSWERS, ANSWERS_PER_ADDRESS, ANSWERS_PER_SESSION, Limits
from retrieval.ui.serving.queue import BUSY, LATE, RESTARTED, TOO_MANY, FairQueue
from tests.support.browsing import settings_of
from tests.support.waiting import PATIENCE, wait_until


class Visitor:
    """A client of the HTTP API with a session, and optionally an address of its own."""

    def __init__(self, page: Page, session: str) -> None:
        self.session = session
        self._client = httpx.Client(base_url=f"{page.local_url}gradio_api/", timeout=PATIENCE)

    def send(self, text: str = "a red fruit") -> httpx.Response:
        """Start a search; gradio answers with the event's id."""
        body = {"data": [text, None, [], [], "", 0.5, [], None, 1.0, "clip", "cosine", "exact", 3, "", None]}
        return self._client.post("call/query", json=body | {"session_hash": self.session})

    def receive(self, sent: httpx.Response) -> str:
        """Wait for the end of a search; return "complete" or the error message."""
        event = sent.raise_for_status().json()["event_id"]
        with self._client.stream("GET", f"call/query/{event}") as answer:
            kind = ""
            for line in answer.iter_lines():
                kind = line.removeprefix("event: ") if line.startswith("event: ") else kind
                if line.startswith("data: ") and kind in ("complete", "error"):
                    found = json.loads(line.removeprefix("data: "))
                    return kind if kind == "complete" else str(found["error"])
        return "the stream ended"

    def search(self) -> str:
        return self.receive(self.send())


@pytest.fixture
def site(few_icons: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """A served page, its health, and a searcher whose searches wait while `hold` is set."""
    searcher = Searcher(Indexes(few_icons))
    free, texts = threading.Event(), list[str]()
    free.set()
    search = searcher.search_each

    def held(query: Query, names: Sequence[str], index: GalleryIndex | None = None) -> list[Ranking]:
        texts.append(query.text)
        assert free.wait(PATIENCE)
        return search(query, names, index)

    monkeypatch.setattr(searcher, "search_each", held)
    chosen, checked = settings_of(few_icons), Health(searcher, every=0)
    checked.started = True
    page = build_page(searcher, "about")
    door = launch(page, chosen, checked)
    yield SimpleNamespace(
        page=page, door=door, queue=page.fair_queue, health=checked, free=free, texts=texts, searcher=searcher
    )
    free.set()
    page.close(verbose=False)
    searcher.indexes.close()


def test_flood_of_calls_drops_no_visitor_who_waits(site: SimpleNamespace) -> None:
    site.free.clear()
    patient = [Visitor(site.page, f"patient {number}") for number in range(6)]
    with ThreadPoolExecutor(len(patient)) as threads:
        found = [threads.submit(each.receive, each.send()) for each in patient]
        statuses = [
            Visitor(site.page, f"flood {number}").send().status_code for number in range(ANSWERS_PER_ADDRESS + 20)
        ]
        assert set(statuses) == {200, 503}
        assert len(site.queue._mailboxes) <= ANSWERS
        site.free.set()
        assert [each.result() for each in found] == ["complete"] * len(patient)


@pytest.mark.parametrize(("sessions", "most"), [(1, ANSWERS_PER_SESSION), (40, ANSWERS_PER_ADDRESS)])
def test_visitor_with_many_unanswered_calls_is_refused(site: SimpleNamespace, sessions: int, most: int) -> None:
    site.free.clear()
    visitors = [Visitor(site.page, f"greedy {number}") for number in range(sessions)]
    for number in range(most):
        assert visitors[number % sessions].send().status_code == 200
    refused = visitors[0].send()
    assert (refused.status_code, refused.json()) == (503, {"detail": TOO_MANY})


def ask_by_mcp(page: Page, text: str, source: str, **headers: str) -> str:
    """Call a tool from an address of this machine; return the answer."""
    call = {"name": "query", "arguments": {"text": text, "features": "clip"}}
    with httpx.Client(transport=httpx.HTTPTransport(local_address=source), timeout=PATIENCE) as client:
        body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": call}
        accept = {"Accept": "application/json, text/event-stream"}
        return client.post(f"{page.local_url}gradio_api/mcp/", json=body, headers=accept | headers).text


def test_mcp_clients_have_shares_of_their_own(site: SimpleNamespace) -> None:
    """gradio sends the calls of all of them in one session."""
    assert "hits" in ask_by_mcp(site.page, "first", "127.0.0.1")
    site.free.clear()
    pretended = {queue.VISITOR.decode(): "guessed 127.0.0.1"}
    with ThreadPoolExecutor(ANSWERS_PER_SESSION + 5) as threads:
        greedy = [
            threads.submit(ask_by_mcp, site.page, f"greedy {number}", "127.0.0.2", **pretended)
            for number in range(ANSWERS_PER_SESSION + 4)
        ]

        def state() -> object:
            """Return what is known about the calls, after ending them."""
            site.free.set()
            asked, texts = list(site.queue._asked_by.values()), list(site.texts)
            return asked, texts, [str(each.exception() or each.result()) for each in greedy if each.done()]

        wait_until(lambda: sum(each.done() for each in greedy) == 4, state)
        assert all("waiting" in each.result() or "full" in each.result() for each in greedy if each.done())
        modest = threads.submit(ask_by_mcp, site.page, "modest", "127.0.0.1")
        wait_until(lambda: "127.0.0.1" in site.queue._asked_by.values())
        site.free.set()
        assert "hits" in modest.result()
        others = [answer for each in greedy if "hits" not in (answer := each.result())]
        assert len(others) == 4, others
    assert site.texts.index("modest") <= 7, "it had its turn before those who asked often"


def test_full_page_refuses_new_calls_with_a_reason(site: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue, "WAITING", 3)
    site.free.clear()
    sent = [Visitor(site.page, f"visitor {number}").send() for number in range(12)]
    assert sent[0].status_code == 200
    assert (sent[-1].status_code, sent[-1].json()) == (503, {"detail": BUSY})


def test_call_that_waits_too_long_is_answered_with_a_reason(site: SimpleNamespace) -> None:
    site.free.clear()
    first = [Visitor(site.page, f"early {number}") for number in range(3)]
    sent = [each.send() for each in first]
    wait_until(lambda: len(site.texts) == 3)  # as many as may run for one address
    late = Visitor(site.page, "late")
    waiting = late.send()
    site.queue.patience = 0.1
    assert late.receive(waiting) == LATE
    site.queue.patience = math.inf
    site.free.set()
    assert [each.receive(answer) for each, answer in zip(first, sent, strict=True)] == ["complete"] * 3


def test_comparison_that_takes_too_long_ends_before_its_next_search(site: SimpleNamespace) -> None:
    with pytest.raises(QueryError, match="takes too long for this page"):
        compare(site.searcher, Query(text="a red fruit"), check=Limits(seconds=-1).check())
    assert not site.texts


def test_abandoned_sessions_make_room(site: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    site.free.clear()
    gone = [Visitor(site.page, "gone") for _ in range(ANSWERS_PER_SESSION)]
    for each in gone:
        assert each.send().status_code == 200
    assert gone[0].send().status_code == 503
    monkeypatch.setattr(queue, "ABANDONED", 0.0)  # now they count as gone
    assert gone[0].send().status_code == 200
    site.free.set()
    assert Visitor(site.page, "other").search() == "complete"
    wait_until(lambda: len(site.queue) == 0)


def test_visitors_who_disconnect_leave_nothing(site: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    site.free.clear()
    for number in range(ANSWERS_PER_ADDRESS + 1):
        visitor = Visitor(site.page, f"visitor {number}")
        wait_until(lambda visitor=visitor: visitor.send().status_code == 200)  # the server notices them a moment later
        url = f"{site.page.local_url}gradio_api/queue/data"
        with httpx.stream("GET", url, params={"session_hash": visitor.session}, timeout=PATIENCE) as stream:
            next(stream.iter_lines())
    site.free.set()
    wait_until(lambda: Visitor(site.page, "other").send().status_code == 200)
    wait_until(lambda: not any(site.queue.active_jobs))
    monkeypatch.setattr(queue, "ABANDONED", 0.0)
    assert Visitor(site.page, "another").search() == "complete"
    assert len(site.queue.pending_event_ids_session) <= 1
    assert len(site.queue._addresses) <= 1


def test_gradios_cancel_is_refused(site: SimpleNamespace) -> None:
    body = {"session_hash": "visitor", "fn_index": 0, "event_id": "x"}
    assert httpx.post(f"{site.page.local_url}gradio_api/cancel", json=body, timeout=PATIENCE).status_code == 404


def test_visitors_take_turns(site: SimpleNamespace) -> None:
    site.free.clear()
    greedy, modest = Visitor(site.page, "greedy"), Visitor(site.page, "modest")
    sent = [greedy.send(f"greedy {number}") for number in range(10)]
    asked = modest.send("modest")
    site.free.set()
    assert modest.receive(asked) == "complete"
    assert "modest" in site.texts[:4]  # although ten searches were there first
    assert greedy.receive(sent[-1]) == "complete"


def test_active_visitors_share_the_places(site: SimpleNamespace) -> None:
    visitors = [Visitor(site.page, f"visitor {number}") for number in range(3)]
    assert [each.search() for each in visitors] == ["complete"] * 3
    site.free.clear()
    site.texts.clear()
    sent = [visitors[0].send("greedy") for _ in range(4)]
    asked = visitors[1].send("modest")
    wait_until(lambda: "modest" in site.texts)
    assert site.texts.count("greedy") <= 1  # alone, two would run
    site.free.set()
    assert visitors[1].receive(asked) == "complete"
    assert visitors[0].receive(sent[-1]) == "complete"


def test_failure_of_the_queue_is_survived(site: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    site.free.clear()
    visitor = Visitor(site.page, "visitor")
    sent = visitor.send()
    wait_until(lambda: site.texts)
    started, choose = [], FairQueue.get_events

    def fail_once(self: FairQueue) -> Any:
        if not started:
            started.append(True)
            raise KeyError("a defect")
        return choose(self)

    monkeypatch.setattr(FairQueue, "get_events", fail_once)
    other = Visitor(site.page, "other")
    second = other.send()  # wakes up the queue
    assert visitor.receive(sent) == RESTARTED
    site.free.set()
    assert other.receive(second) == "complete"
    assert site.health.problem() is None


def test_health_takes_the_way_of_visitors(site: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "VISIT_SECONDS", 1.0)
    assert site.health.problem() is None
    with monkeypatch.context() as broken:
        broken.setattr(FairQueue, "get_events", lambda self: None)  # nothing is ever started
        assert site.health.problem() == UNREACHABLE
    assert site.health.problem() is None


def test_health_is_checked_on_a_busy_page(site: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    site.free.clear()
    monkeypatch.setattr(queue, "WAITING", 0)
    assert Visitor(site.page, "visitor").send().status_code == 503
    assert site.health.problem() is None


@pytest.mark.parametrize("path", ["call/query/unknown", "call/v2/query/unknown"])
def test_unknown_events_are_answered_with_404(
    site: SimpleNamespace, caplog: pytest.LogCaptureFixture, path: str
) -> None:
    answer = httpx.get(f"{site.page.local_url}gradio_api/{path}", timeout=PATIENCE)
    assert (answer.status_code, answer.json()) == (404, {"detail": queue.NO_EVENT})
    visitor = Visitor(site.page, "visitor")
    sent = visitor.send()
    assert visitor.receive(sent) == "complete"
    again = f"{site.page.local_url}gradio_api/call/query/{sent.json()['event_id']}"
    assert httpx.get(again, timeout=PATIENCE).status_code == 404
    assert not [each for each in caplog.records if each.levelno >= logging.WARNING]  # such as a traceback


def test_unknown_sessions_are_told_so(site: SimpleNamespace, caplog: pytest.LogCaptureFixture) -> None:
    answer = httpx.get(f"{site.page.local_url}gradio_api/queue/data?session_hash=unknown", timeout=PATIENCE)
    found = json.loads(answer.text.removeprefix("data: "))
    assert (found["msg"], found["session_not_found"]) == ("unexpected_error", True)
    assert not [each for each in caplog.records if each.levelno >= logging.WARNING]  # such as a traceback


def test_call_sent_just_after_an_answer_is_answered_in_the_same_stream(site: SimpleNamespace) -> None:
    visitor, answers = Visitor(site.page, "visitor"), list[str]()
    sent = [visitor.send().json()["event_id"]]
    stream = f"{site.page.local_url}gradio_api/queue/data?session_hash=visitor"
    with httpx.stream("GET", stream, timeout=PATIENCE) as answer:
        for line in answer.iter_lines():
            if not line:
                continue
            message = json.loads(line.removeprefix("data: "))
            if message["msg"] == "process_completed":
                answers.append(message["event_id"])
                if len(sent) < 3:
                    wait_until(lambda: not site.queue.has_unanswered("visitor"))  # gradio would have ended the stream
                    sent.append(visitor.send().json()["event_id"])
    assert answers == sent and message["msg"] == "close_stream"


def test_call_sent_while_a_stream_ends_waits_until_its_client_has_left(
    site: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the client would take the stream for open, and never get the answer."""
    monkeypatch.setattr(queue, "LEAVING", PATIENCE)
    visitor = Visitor(site.page, "visitor")
    visitor.send()
    stream = f"{site.page.local_url}gradio_api/queue/data?session_hash=visitor"
    with ThreadPoolExecutor(1) as threads:
        with httpx.stream("GET", stream, timeout=PATIENCE) as answer:
            lines = answer.iter_lines()  # the connection is closed with it
            assert any("close_stream" in line for line in lines)
            sent = threads.submit(visitor.send)
            with pytest.raises(TimeoutError):
                sent.result(timeout=1)
        assert visitor.receive(sent.result()) == "complete"


def test_stream_of_a_browser_ends_when_the_page_shuts_down(site: SimpleNamespace) -> None:
    visitor = Visitor(site.page, "visitor")
    visitor.send()
    stream, browser = f"{site.page.local_url}gradio_api/queue/data?session_hash=visitor", {"user-agent": "Mozilla/5.0"}
    with httpx.stream("GET", stream, timeout=PATIENCE, headers=browser) as answer:
        lines = (json.loads(line.removeprefix("data: "))["msg"] for line in answer.iter_lines() if line)
        assert "process_completed" in lines
        began = time.monotonic()
        assert site.door.wait_until_empty(site.page)
        assert list(lines) == ["close_stream"]
        assert time.monotonic() - began < queue.BROWSER_STAYS
