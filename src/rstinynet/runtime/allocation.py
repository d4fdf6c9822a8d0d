"""Memory for activations that a process keeps, in place of asking the system for it anew.

glibc gives large blocks back to the system when they are freed, and the system clears each page of
the next one: with two threads a seventh of a forward pass of yolo11m at 640 px, more at 800. The
setting is the whole process's, so its owner decides: the program `rstinynet` keeps memory where it
runs or trains a model, the library leaves it alone until `keep_memory` is called.
"""

from __future__ import annotations

import ctypes
import os
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""glibc's malloc.h."""
_BLOCK = 1 << 30
"""Blocks up to this are kept, bytes."""
_KEPT = (1 << 31) - 1
"""Most free memory that is kept at the end of the heap, bytes: the most that an int can say."""
TURN_OFF = "RSTINYNET_RETURN_MEMORY"
"""Variable of the environment that leaves the allocator as it is, set to anything but 0."""


def keep_memory() -> bool:
    """Let this process keep what it frees; whether that is so now. Elsewhere than in glibc: no.

    To be called once, best before a model is loaded; it cannot be undone. A user who set glibc's
    own variables, or `TURN_OFF`, has decided already.
    """
    decided = os.environ.get(TURN_OFF, "0") != "0" or any(
        name in os.environ for name in ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_")
    )
    if decided or not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    return bool(mallopt(_MMAP_THRESHOLD, _BLOCK) and mallopt(_TRIM_THRESHOLD, _KEPT))
