"""A stop reaches what was begun before it and nothing that is begun later; nobody's long job holds the page."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from retrieval.search.searcher import Searcher
from retrieval.ui.page import build_page
from retrieval.ui.query_panel import Asked
from retrieval.ui.serving.limits import OWN, Limits
from retrieval.ui.tabs.stopping import OUT_OF_TIME, Stopped, ended, stop

SWEPT = {"metric": "cosine", "top_k": 10}
SHOWN = ("evaluate_state", "figures", "sweep_state", "sweep_table")


def test_a_stop_ends_what_was_begun_before_it_alone() -> None:
    stopped: Stopped = []
    assert not ended(stopped, 100)
    stop(stopped, 200)
    assert ended(stopped, 100)
    assert ended(stopped, 200)
    assert not ended(stopped, 201)
    stop(stopped, 300)
    assert ended(stopped, 201)


def job(searcher: Searcher, name: str, limits: Limits) -> Callable[..., Any]:
    """The function of the page that does a long job."""
    page = build_page(searcher, [], "about", limits=limits)
    return next(each.fn for each in page.fns.values() if each.api_name == name)


@pytest.mark.parametrize("name", ["evaluate_gallery", "sweep"])
def test_a_long_job_ends_when_its_time_is_over_and_keeps_what_it_found(
    icons_searcher: Searcher, queries: Path, name: str
) -> None:
    asked: dict[str, dict[str, Any]] = {
        "evaluate_gallery": {"gallery": "icons", "sample": 50},
        "sweep": vars(Asked(str(queries / "fox.png"), "", "", 0.5, [], 1, None, "icons")) | SWEPT,
    }
    values = {**asked[name], "stopped": [], "began": 0.0, "dark": False}
    *_, shown = job(icons_searcher, name, OWN)(**values)
    said, table = (update for component, update in shown.items() if component.elem_id in SHOWN)
    assert said != OUT_OF_TIME
    assert len(table) >= 8
    *_, shown = job(icons_searcher, name, replace(OWN, seconds=-1))(**values)
    [said] = (update for component, update in shown.items() if component.elem_id in SHOWN)
    assert said == OUT_OF_TIME, "or what was found is taken away"
