"""Memory between the steps of a training on the CPU."""

from __future__ import annotations

import ctypes
import os

# <malloc.h>: the names in the environment and the numbers of mallopt's parameters
SETTINGS = {
    "MALLOC_MMAP_MAX_": (-4, 0),  # no mapping of its own for a large tensor
    "MALLOC_TRIM_THRESHOLD_": (-1, 2**31 - 1),  # freed memory stays with the process
}


def keep_memory() -> bool:
    """Keep what a training step frees for the next step (glibc; nothing elsewhere).

    By default glibc gives every large tensor back to the system when it is freed, and
    the next step pays for a page fault in every 4 KiB of it: 10 to 15 % of a CPU step
    of ECAPA-TDNN. For a process that does nothing but train: its memory stays at its
    peak until it ends. The environment's own ``MALLOC_...`` settings win.

    Returns
    -------
    bool
        Whether glibc took a setting.

    Example
    -------
    >>> keep_memory() in (True, False)
    True
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, TypeError, AttributeError):  # no glibc
        return False
    wanted = [pair for name, pair in SETTINGS.items() if name not in os.environ]
    taken = [mallopt(*pair) == 1 for pair in wanted]
    return any(taken)
