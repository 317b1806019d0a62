"""Limits on the length of functions and their number of parameters."""

import ast
from collections.abc import Iterator
from pathlib import Path

from tests.support.paths import ROOT

LINES, PARAMETERS = 60, 6


def files() -> list[Path]:
    return [ROOT / "app.py", ROOT / "index_builder.py", *sorted((ROOT / "retrieval").rglob("*.py"))]


def functions() -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """Yield every function with its file and line."""
    for file in files():
        path = file.relative_to(ROOT).as_posix()
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield f"{path}:{node.lineno} {node.name}", node


def parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Count the parameters except `self` and `cls`."""
    given = function.args
    names = [each.arg for each in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
    return len(names) - (names[:1] in (["self"], ["cls"])) + (given.vararg is not None) + (given.kwarg is not None)


def test_no_function_has_more_than_60_lines() -> None:
    lengths = {place: (node.end_lineno or 0) - node.lineno + 1 for place, node in functions()}
    assert {place: length for place, length in lengths.items() if length > LINES} == {}


def test_no_function_has_more_than_6_parameters() -> None:
    counts = {place: parameters(node) for place, node in functions()}
    assert {place: count for place, count in counts.items() if count > PARAMETERS} == {}
