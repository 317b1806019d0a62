"""Run functions on the GPU of a Hugging Face Space with ZeroGPU.

On such a Space, `spaces.GPU` runs a function in a forked process that has the GPU for the duration of the call.
Arguments and result are pickled; everything else is what the fork found in memory.
"""

import os
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, TypeVar

SECONDS = 20  # requested per call; visitors with less than this left of their daily quota are refused

Function = TypeVar("Function", bound=Callable[..., Any])


def is_available() -> bool:
    """Return whether this is a ZeroGPU Space, by the same rule as the package `spaces`."""
    return os.environ.get("SPACES_ZERO_GPU", "").lower() in ("1", "t", "true") and find_spec("spaces") is not None


def on_gpu(function: Function) -> Function:
    """Return a function that runs this one on the GPU."""
    import spaces  # needs gradio, and must be imported before CUDA is initialised

    decorated: Function = spaces.GPU(duration=SECONDS)(function)
    return decorated
