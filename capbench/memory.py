"""What becomes of the memory that tensors leave on a CPU."""

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
LARGEST = (2**30, 2**25)  # bytes; older versions of glibc take no more than the second


def keep_memory() -> None:
    """Have glibc keep what is freed for what comes next.

    It would hand large pieces back to the system, and get them again page by page, each to be filled with zeros: at
    every word of a search, and in every training step. Other systems' allocators are left as they are.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        any(mallopt(M_MMAP_THRESHOLD, size) for size in LARGEST)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
