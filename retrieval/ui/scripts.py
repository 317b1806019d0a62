"""JavaScript of the page, for what only the browser knows or can fix."""

import json
from pathlib import Path


def beside(module: str, name: str, **values: object) -> str:
    """Return the text of a file in the folder of a module, whose path is `module`.

    In a script, each name in `values` stands for a value, which replaces it as JSON.
    """
    text = Path(module).with_name(name).read_text(encoding="utf-8")
    for placeholder, value in values.items():
        text = text.replace(placeholder, json.dumps(value))
    return text


def next_turn(elem_id: str | None) -> str:
    """Return a script that raises a number if an element is visible; without an id, always."""
    shown = f"document.getElementById('{elem_id}')?.offsetParent != null" if elem_id else "true"
    return f"turn => turn + Number({shown})"


def release_by_keys(elem_id: str) -> str:
    """Return a script that triggers `release` for sliders inside an element when they are moved by keyboard."""
    return beside(__file__, "release_by_keys.js", ELEMENT=elem_id)
