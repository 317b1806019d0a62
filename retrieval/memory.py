"""How this process takes memory: what one thread has freed is kept, and used again by any other."""

import ctypes
import sys

# Of mallopt(3), glibc.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -3, -4, -8
SETTINGS = {
    M_ARENA_MAX: 1,  # by default eight for each core
    M_TRIM_THRESHOLD: 256 * 2**20,  # bytes that may lie free; by default less than a forward pass takes each time
    M_MMAP_THRESHOLD: 32 * 2**20,  # bytes from which the system is asked for pages of their own; the most there is
}
ALL = {M_MMAP_MAX: 0, M_TRIM_THRESHOLD: 2**31 - 1}  # nothing lies in pages of its own, however large it is


def keep_freed(*, all_sizes: bool = False) -> None:
    """Let glibc, where there is one, keep freed memory in one heap for all threads; call it before they are started.

    A search or a forward pass takes tens of megabytes for a moment. gradio has 40 threads that take turns, and with a
    heap for each, what one has freed none of the others would use again. And what goes back to the system comes page by
    page, and emptied: that took a fifth of the builder's time with the bundled model. With `all_sizes` it holds for
    blocks of more than 32 MB too, as training has them (2.2 s a step instead of 3.9), until it ends.
    """
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt:
            for parameter, value in (SETTINGS | (ALL if all_sizes else {})).items():
                mallopt(parameter, value)
