"""What a search may hold at once, so that a scene of any size stays under a limit."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rstinynet.errors import UsageError
from rstinynet.scenes.raster import is_remote
from rstinynet.scenes.spill import ROWS

if TYPE_CHECKING:
    from rstinynet.scenes.detector import Detector
    from rstinynet.scenes.reader import Scene

READ_AHEAD = 3
"""Tiles read while the detector works, beside those of a batch."""
READERS = 1
"""Threads that read a local file: GDAL caches blocks by handle, so that more would decode most
blocks twice."""
REMOTE_READERS = 4
"""Threads that read over a network, where waiting costs more than decoding."""
_MIB = 2**20
_LEAST_CACHE = 16 * _MIB
_WRITING = 48 * _MIB
_ROW_BYTES = 120
"""A detection held, with what sorting and writing it takes."""
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "ki": 2**10, "mi": 2**20, "gi": 2**30}


@dataclass(frozen=True, slots=True)
class Plan:
    """The parts of memory that a search settles itself."""

    cache: int
    """Bytes of GDAL's block cache."""
    ahead: int
    """Tiles read before the detector asks for them."""
    readers: int
    """Threads that read."""
    rows: int
    """Detections held before they go to disk."""


def parse_size(text: str) -> int:
    """Bytes of a size such as 2GiB, 800MB or 3e9. Raises UsageError for anything else."""
    match = re.fullmatch(r"\s*([0-9.]+(?:e[0-9]+)?)\s*([kmg]i?)?b?\s*", text.lower())
    try:
        value = float(match[1]) * _UNITS[match[2] or ""] if match else 0
    except ValueError:
        value = 0
    if value < 1:
        raise UsageError(f"a size is a number with a unit, such as 2GiB or 800MB, not {text!r}")
    return int(value)


def peak_bytes() -> int:
    """Most memory that this process has held so far (resident set size); 0 where not known.

    Linux's own count comes first: getrusage's begins at that of the process which started this one.
    """
    status = Path("/proc/self/status")
    if status.exists():
        found = re.search(r"VmHWM:\s*(\d+) kB", status.read_text())
        if found:
            return int(found[1]) * 1024
    if not hasattr(os, "fork"):
        return 0
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def plan(
    detector: Detector,
    scene: Scene,
    *,
    tile: int,
    batch: int,
    limit: int | None,
    scale: float | Sequence[float] | None = None,
) -> Plan:
    """What to hold under `limit` bytes of resident memory for the whole process.

    One batch goes through the detector first, at each scale of the search, so that what it takes is
    known and not guessed.
    Raises UsageError where the limit leaves no room for a tile beside that.
    """
    wanted_cache = scene.source.cache_bytes(tile)
    readers = REMOTE_READERS if is_remote(scene.source.name) else READERS
    if limit is None:
        return Plan(wanted_cache, READ_AHEAD + batch, readers, ROWS)
    height, width = min(tile, scene.height), min(tile, scene.width)
    blank = np.zeros((height, width, 3), np.uint8)
    detector.detect_batch([blank] * batch, scale=scale)
    base = peak_bytes()
    tile_bytes = height * width * (len(scene.bands) * (2 * scene.dtype.itemsize + 5) + 5)
    least = base + _LEAST_CACHE + (batch + readers + 1) * tile_bytes + _WRITING
    if limit < least:
        raise UsageError(
            f"a memory limit of {limit / _MIB:.0f} MiB is too small: the program with this model "
            f"on tiles of {tile} pixels takes {base / _MIB:.0f} MiB; give at least "
            f"{-(-least // _MIB)}MiB, or a smaller --tile"
        )
    room = limit - least
    return Plan(
        cache=min(_LEAST_CACHE + room // 4, wanted_cache),
        ahead=batch + min(int(room // 4 // tile_bytes), READ_AHEAD),
        readers=readers,
        rows=int(np.clip(room // 4 // _ROW_BYTES, 5000, ROWS)),
    )


def exceeded(limit: int | None) -> tuple[str, ...]:
    """A note where the limit was not held all the same."""
    peak = peak_bytes()
    if limit is None or peak <= limit:
        return ()
    return (
        f"the search held {peak / _MIB:.0f} MiB at its peak, over the limit of "
        f"{limit / _MIB:.0f} MiB: too many objects across seams; use smaller tiles",
    )
