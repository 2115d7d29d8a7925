"""The C library's allocator: memory that a step has freed is kept for the next one.

Activations of a step are large. glibc asks the system for each large block and hands it back at once, and the system fills it
with zeros, page by page, each time.
"""

from __future__ import annotations

import ctypes
import platform

__all__ = ["keep_freed_memory"]

# Numbers of mallopt's parameters in glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_LARGEST = 2**31 - 1


def keep_freed_memory() -> bool:
    """From now on the process keeps memory that it frees, for itself, up to 2 GiB at the heap's end; False without glibc.

    Examples:
        >>> isinstance(keep_freed_memory(), bool)
        True
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(_MMAP_THRESHOLD, _LARGEST)) and bool(mallopt(_TRIM_THRESHOLD, _LARGEST))
