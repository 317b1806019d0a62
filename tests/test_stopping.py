"""A stop reaches what was begun before it and nothing that is begun later."""

from retrieval.ui.stopping import Stopped, ended, stop


def test_a_stop_ends_what_was_begun_before_it_alone() -> None:
    stopped: Stopped = []
    assert not ended(stopped, 100)
    stop(stopped, 200)
    assert ended(stopped, 100)
    assert ended(stopped, 200)
    assert not ended(stopped, 201)
    stop(stopped, 300)
    assert ended(stopped, 201)
