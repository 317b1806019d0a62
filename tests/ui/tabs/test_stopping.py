"""A stop ends earlier jobs but not later ones, and long jobs end at the time limit."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
import pytest

from retrieval.search.searcher import Searcher
from retrieval.ui.page import build_page
from retrieval.ui.query_panel import Asked
from retrieval.ui.serving.limits import OWN, Limits
from retrieval.ui.tabs.stopping import OUT_OF_TIME, Stopped, ended, stop
from retrieval.ui.widgets.added_input import AddedImages

SWEPT = {"metric": "cosine", "top_k": 10}
SHOWN = ("evaluate_state", "figures", "sweep_state", "sweep_table")


def test_stop_ends_only_jobs_that_started_before_it() -> None:
    stopped: Stopped = []
    assert not ended(stopped, 100)
    stop(stopped, 200)
    assert ended(stopped, 100)
    assert ended(stopped, 200)
    assert not ended(stopped, 201)
    stop(stopped, 300)
    assert ended(stopped, 201)


@pytest.mark.parametrize("junk", ["A" * 10**6, None, [], {}, math.nan, math.inf, 10**400])
def test_stop_keeps_no_other_values_of_a_browser(junk: Any) -> None:
    """They would fill the memory, or break the visitor's next job."""
    stopped: Stopped = []
    stop(stopped, junk)
    assert stopped == []
    stop(stopped, 200)
    assert ended(stopped, junk)


def job_function(searcher: Searcher, name: str, limits: Limits) -> Callable[..., Any]:
    """Return the page's function for a long job."""
    page = build_page(searcher, "about", limits=limits)
    return next(each.fn for each in page.fns.values() if each.api_name == name)


@pytest.mark.parametrize("name", ["evaluate_gallery", "sweep"])
def test_job_stops_at_its_time_limit_and_keeps_its_results(icons_searcher: Searcher, queries: Path, name: str) -> None:
    asked: dict[str, dict[str, Any]] = {
        "evaluate_gallery": {"gallery": "icons", "sample": 50},
        "sweep": vars(Asked(str(queries / "fox.png"), AddedImages(), "", "", 0.5, [], 1, None, "icons")) | SWEPT,
    }
    values = {**asked[name], "stopped": [], "began": 0.0, "dark": False}
    *_, shown = job_function(icons_searcher, name, OWN)(**values)
    said, table = (update for component, update in shown.items() if component.elem_id in SHOWN)
    assert said != OUT_OF_TIME
    rows = table.value["data"] if isinstance(table, gr.Dataframe) else table
    assert len(rows) >= 8
    *_, shown = job_function(icons_searcher, name, replace(OWN, seconds=-1))(**values)
    [said] = (update for component, update in shown.items() if component.elem_id in SHOWN)
    assert said == OUT_OF_TIME, "the partial results were cleared"
