"""Allocator settings that let threads reuse each other's freed memory."""

import ctypes
import sys

# Parameters of glibc's mallopt(3).
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -3, -4, -8
SETTINGS = {
    M_ARENA_MAX: 1,  # heaps; by default eight per core
    M_TRIM_THRESHOLD: 256 * 2**20,  # bytes kept free; the default is less than a forward pass needs
    M_MMAP_THRESHOLD: 32 * 2**20,  # blocks from this size on are mapped separately; the maximum that glibc allows
}
ALL_SIZES = {M_MMAP_MAX: 0, M_TRIM_THRESHOLD: 2**31 - 1}  # no block is mapped separately, whatever its size


def keep_freed(*, all_sizes: bool = False) -> None:
    """Make glibc keep freed memory in one heap for all threads; call it before any thread starts.

    A search or a forward pass needs tens of megabytes for a moment, in any of gradio's 40 threads. Memory returned to
    the system comes back with a page fault per page: a fifth of the builder's time with the bundled model.
    `all_sizes` also keeps blocks of more than 32 MB, as training needs them.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt:
        for parameter, value in (SETTINGS | (ALL_SIZES if all_sizes else {})).items():
            mallopt(parameter, value)
