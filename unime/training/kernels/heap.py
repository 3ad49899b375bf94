"""Memory that goes back to the system once it is free."""

from __future__ import annotations

import ctypes
import os
import sys

MMAP_THRESHOLD, TRIM_THRESHOLD = -3, -1  # M_… of malloc.h
LARGE, FREE = 4 << 20, 128 << 10  # bytes


def return_large_blocks() -> None:
    """Have every block of 4 MiB or more mapped apart, so that it is gone when it is freed.

    glibc does so from 128 kB on, but raises that limit to the size of whatever is freed, to 32 MiB
    at most: large tensors then lie on the heap among small ones, and what is free between those
    stays resident (docs/performance.md). Elsewhere than with glibc nothing happens, nor where
    MALLOC_MMAP_THRESHOLD_ says how it is wanted.
    """
    if sys.platform != "linux" or "MALLOC_MMAP_THRESHOLD_" in os.environ:
        return
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is not None:
        set_option(MMAP_THRESHOLD, LARGE)
        set_option(TRIM_THRESHOLD, FREE)  # glibc's own, which it raises with the other
