"""How this process takes memory: freed by one thread, it is used again by any other."""

import ctypes
import sys

M_ARENA_MAX = -8  # of mallopt(3), glibc
ARENAS = 2  # one for each core of a small machine; by default there are eight for each


def share_arenas() -> None:
    """Keep glibc from giving each thread a heap of its own, where there is glibc; call it before threads are started.

    A search takes tens of megabytes for a moment. gradio has 40 threads that take turns, and with a heap for each, what
    one has freed none of the others would use again.
    """
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt:
            mallopt(M_ARENA_MAX, ARENAS)
