"""Freed memory is kept for what is allocated next, as it is in a training that is under way."""

from __future__ import annotations

import ctypes
import sys

# Of <malloc.h>.
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_NEVER = 2**31 - 1
_MOST_FROM_HEAP = 32 << 20  # what glibc itself comes to after a large block was freed


def keep_freed_memory() -> None:
    """Have glibc hand freed blocks out again instead of giving them back to the kernel.

    In a training, blocks that live long keep the heap from being trimmed. A replay that only
    evaluates has none of those: each batch's activations would be given back, and their pages be
    faulted in again by the next one, which takes up to half as long as the computation.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # musl has none
        mallopt(_M_MMAP_THRESHOLD, _MOST_FROM_HEAP)
        mallopt(_M_TRIM_THRESHOLD, _NEVER)
