"""JavaScript of the page, for what only the browser knows or can fix."""

import json
from pathlib import Path

# The last input of an event, a hidden checkbox, tells whether its tab is open.
OPENED = "(...values) => [...values.slice(0, -1), true]"


def beside(module: str, name: str, **values: object) -> str:
    """Return the text of a file in the folder of a module, whose path is `module`.

    In a script, each name in `values` stands for a value, which replaces it as JSON.
    """
    text = Path(module).with_name(name).read_text(encoding="utf-8")
    for placeholder, value in values.items():
        text = text.replace(placeholder, json.dumps(value))
    return text


def if_open(elem_id: str) -> str:
    """Return a script that tells an event whether an element is visible, so that closed tabs do no work."""
    return f"(...values) => [...values.slice(0, -1), document.getElementById('{elem_id}')?.offsetParent != null]"


def release_by_keys(elem_id: str) -> str:
    """Return a script that triggers `release` for sliders inside an element when they are moved by keyboard."""
    return beside(__file__, "release_by_keys.js", ELEMENT=elem_id)
