"""Work in a process of its own, which can fail in any way."""

import multiprocessing
import os
import threading

import pytest

from retrieval.engines import separate
from retrieval.engines.separate import run_in_process
from retrieval.errors import IndexingError


@pytest.fixture(autouse=True)
def as_the_app_starts_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(separate, "_context", lambda: multiprocessing.get_context("spawn"))


def fail_like_a_library() -> None:
    raise RuntimeError("can.t start new thread")


def end() -> None:
    os._exit(1)


def hang() -> None:
    threading.Event().wait()


def test_any_error_says_what_to_do_and_keeps_its_traceback_for_developers() -> None:
    with pytest.raises(IndexingError, match=r"\(RuntimeError: can.t start new thread\)\. Run the") as found:
        run_in_process(fail_like_a_library, ())
    assert "in fail_like_a_library" in found.value.__notes__[0]


def test_process_that_ends_says_what_to_do() -> None:
    with pytest.raises(IndexingError, match=r"stopped unexpectedly.* Run the same command again"):
        run_in_process(end, ())


def test_process_that_does_nothing_any_more_is_ended_and_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(separate, "STALLED", 2.0)
    with pytest.raises(IndexingError, match=r"stopped unexpectedly.* threads\. Run the same command again"):
        run_in_process(hang, ())
