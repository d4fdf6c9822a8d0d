"""Writing files so that no half-written file ever stands under its final name."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def replacing(path: Path | str, *, sync: bool = True) -> Iterator[Path]:
    """Yield a path beside `path` to write to; on success it is synced and renamed onto `path`.

    The suffix is kept, since some drivers choose the format by it. On any error the file beside
    is removed and `path` is left as it was. `sync=False` is for files that can be made again and
    whose reader notices damage.
    """
    final = Path(path)
    final.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{final.name}.", dir=final.parent) as folder:
        beside = Path(folder) / final.name
        yield beside
        if sync:
            with beside.open("rb") as written:
                os.fsync(written.fileno())
        beside.replace(final)


@contextmanager
def replacing_set(path: Path | str) -> Iterator[Path]:
    """`replacing` for a file with companions of the same stem, such as a shapefile.

    Files cannot be renamed together. So the old main file goes first and the new one comes last:
    whatever interrupts this, no main file ever stands beside companions that are not its own.
    """
    final = Path(path)
    final.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{final.name}.", dir=final.parent) as folder:
        beside = Path(folder) / final.name
        yield beside
        companions = sorted(set(Path(folder).iterdir()) - {beside})
        for one in [beside, *companions]:
            with one.open("rb") as written:
                os.fsync(written.fileno())
        final.unlink(missing_ok=True)
        for one in companions:
            one.replace(final.parent / one.name)
        beside.replace(final)


def write_bytes(path: Path | str, content: bytes) -> None:
    """Write `content` to `path`, beside and renamed."""
    with replacing(path) as beside:
        beside.write_bytes(content)


def write_json(path: Path | str, value: Any) -> None:
    """Write `value` as JSON to `path`, beside and renamed; NaN and infinity are refused."""
    write_bytes(path, json.dumps(value, indent=1, allow_nan=False).encode())
