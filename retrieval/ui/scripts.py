"""JavaScript of the page, for what only the browser knows or can mend."""

import json
from pathlib import Path

# `{count}` and `{first}` are filled in by the script.
ANNOUNCEMENT = "{count} images found. Closest: {first}"

# The last input of an event, a hidden checkbox, tells whether its tab is open.
OPENED = "(...values) => [...values.slice(0, -1), true]"


def beside(module: str, name: str) -> str:
    """Return the text of a script or style sheet from the folder of a module.

    Args:
        module: the module's `__file__`.
        name: file name.
    """
    return Path(module).with_name(name).read_text(encoding="utf-8")


ACCESSIBILITY = beside(__file__, "accessibility.js").replace("ANNOUNCEMENT", json.dumps(ANNOUNCEMENT))
"""Runs when the page has loaded; adds what gradio's widgets lack for screen readers."""


def if_open(elem_id: str) -> str:
    """Return a script that sets an event's last input to whether an element is visible.

    A change of the query then does not wait for work on a closed tab.
    """
    return f"""(...values) => [...values.slice(0, -1),
        document.getElementById("{elem_id}")?.offsetParent != null]"""


def release_by_keys(elem_id: str) -> str:
    """Return a script that triggers `release` for sliders moved by keyboard.

    gradio triggers it only for a pointer.

    Args:
        elem_id: of the element that contains the sliders.
    """
    return f"""() => document.addEventListener("keyup", event => {{
        if (event.target.matches?.("#{elem_id} input[type=range]") && /^(Arrow|Page|Home|End)/.test(event.key)
            || event.target.matches?.("#{elem_id} input[type=number]") && event.key == "Enter")
            event.target.dispatchEvent(new PointerEvent("pointerup", {{ bubbles: true }}));
    }})"""
