"""JavaScript of the page: files beside this one, and what only the browser knows, whether a tab is open, the keys."""

from pathlib import Path

# The last input of an event says whether its tab is open: a hidden checkbox.
OPENED = "(...values) => [...values.slice(0, -1), true]"


def beside(module: str, name: str) -> str:
    """Return the text of a script or style sheet in the folder of a module, given by its `__file__`."""
    return Path(module).with_name(name).read_text(encoding="utf-8")


def if_open(elem_id: str) -> str:
    """Return what says whether an element is seen: whoever changes the query does not wait for a tab that is closed."""
    return f"""(...values) => [...values.slice(0, -1),
        document.getElementById("{elem_id}")?.offsetParent != null]"""


def release_by_keys(elem_id: str) -> str:
    """Return what lets go of the sliders in an element by keyboard; gradio tells their release only to a pointer."""
    return f"""() => document.addEventListener("keyup", event => {{
        if (event.target.matches?.("#{elem_id} input[type=range]") && /^(Arrow|Page|Home|End)/.test(event.key)
            || event.target.matches?.("#{elem_id} input[type=number]") && event.key == "Enter")
            event.target.dispatchEvent(new PointerEvent("pointerup", {{ bubbles: true }}));
    }})"""
