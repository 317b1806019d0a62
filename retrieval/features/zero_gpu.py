"""A GPU for as long as a call takes, on a Hugging Face Space with ZeroGPU; anywhere else nothing is different.

There `spaces.GPU` runs a function in a process forked for it, which alone has the GPU: arguments and result are
pickled, all else is what the fork found in memory. A function's first fork is made when it is first called.
"""

import os
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, TypeVar

SECONDS = 20  # asked for at most a call; a visitor whose daily share is smaller than that is refused

Function = TypeVar("Function", bound=Callable[..., Any])


def here() -> bool:
    """Say whether this is such a Space, as the package `spaces` does, which such a Space installs."""
    return os.environ.get("SPACES_ZERO_GPU", "").lower() in ("1", "t", "true") and find_spec("spaces") is not None


def on_gpu(function: Function) -> Function:
    """Return a function that runs where the GPU is, and comes back with what this one returns."""
    import spaces  # needs gradio; before anything of CUDA is used

    decorated: Function = spaces.GPU(duration=SECONDS)(function)
    return decorated
