"""What tabs share: functions whose last answer is that to the last change."""

import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

from retrieval.ui.query_panel import SKIP, Updates
from retrieval.ui.serving.limits import SESSIONS
from retrieval.ui.tabs.tab import Newest
from tests.support.waiting import PATIENCE

VISITOR, OTHER = SimpleNamespace(session_hash="a"), SimpleNamespace(session_hash="b")


def test_an_older_answer_is_dropped_even_if_it_comes_last() -> None:
    started, free = threading.Event(), threading.Event()

    def run(name: str) -> Updates:
        if name == "older":
            started.set()
            assert free.wait(PATIENCE)
        return {"shown": name}

    answer = Newest(run).answer
    with ThreadPoolExecutor(1) as threads:
        older = threads.submit(answer, VISITOR, 1, name="older")
        assert started.wait(PATIENCE)
        assert answer(VISITOR, 2, name="newer") == {"shown": "newer"}
        assert answer(OTHER, 1, name="of another visitor") == {"shown": "of another visitor"}
        free.set()
        assert older.result() is SKIP
    assert answer(VISITOR, 1, name="late") is SKIP
    assert answer(VISITOR, 2, name="repeated") == {"shown": "repeated"}
    assert answer(VISITOR, None, name="without a number") is SKIP


def test_sessions_are_forgotten() -> None:
    newest = Newest(lambda: {})
    for number in range(2 * SESSIONS):
        newest.answer(SimpleNamespace(session_hash=str(number)), 1)
    assert len(newest._turns) == SESSIONS
