"""Detections of a scene of any size: in memory up to a bound, beyond it on disk, read best first.

What is over the bound is sorted and written as a run; the runs are merged block by block while
they are read, so that memory holds one bound of rows whatever the scene.
"""

from __future__ import annotations

import os
import tempfile
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from rstinynet.detections import Detections

ROWS = 1_000_000
"""Most detections held in memory where no limit is asked for (28 MB, and as much to sort)."""
CHUNK = 65_536
"""Most detections of a chunk."""
ROW = np.dtype([("box", "<f4", (4,)), ("score", "<f4"), ("label", "<i4")])
"""One detection on disk, 24 bytes."""

Rows = npt.NDArray[Any]


def pack(found: Detections) -> Rows:
    """The detections as rows of `ROW`."""
    rows = np.empty(len(found), ROW)
    rows["box"], rows["score"], rows["label"] = found.boxes, found.scores, found.labels
    return rows


def unpack(rows: Rows) -> Detections:
    """Rows of `ROW` as detections."""
    boxes = np.ascontiguousarray(rows["box"], np.float32)
    scores = np.ascontiguousarray(rows["score"], np.float32)
    return Detections(boxes, scores, rows["label"].astype(np.int64))


def best_first(found: Detections) -> npt.NDArray[np.int64]:
    """The one order of a result: score, then place and class, whatever order they came in."""
    x0, y0, x1, y1 = found.boxes.T
    return np.lexsort((found.labels, x1, y1, x0, y0, -found.scores))


@dataclass(frozen=True, slots=True)
class _Run:
    """A sorted stretch of the file."""

    start: int
    stop: int
    """Bytes."""


class Spill:
    """Takes detections in any order; gives them back best first, in chunks, as often as asked."""

    def __init__(self, rows: int = ROWS, *, folder: Path | None = None) -> None:
        """Hold `rows` in memory; what is more goes to a nameless file in `folder`.

        The file vanishes with the process, however that ends. Without `folder` it is where the
        system keeps temporary files, which may be memory.
        """
        self._bound = max(rows, 1)
        self._folder = folder
        self._held: list[Detections] = []
        self._held_rows = 0
        self._in_order = False
        self._runs: list[_Run] = []
        self._file: IO[bytes] | None = None
        self._count = 0
        self._by_label = np.zeros(0, np.int64)

    def __len__(self) -> int:
        return self._count

    @property
    def spilled(self) -> int:
        """Bytes on disk."""
        return self._runs[-1].stop if self._runs else 0

    def counts(self, classes: int) -> npt.NDArray[np.int64]:
        """(classes,) detections of each label."""
        return np.pad(self._by_label, (0, max(0, classes - len(self._by_label))))

    def add(self, found: Detections) -> None:
        """Take some more. Raises OSError where the disk is full."""
        if not len(found):
            return
        self._count += len(found)
        more = np.bincount(found.labels)
        size = max(len(more), len(self._by_label))
        self._by_label = self.counts(size) + np.pad(more, (0, size - len(more)))
        self._held.append(found)
        self._in_order = False
        self._held_rows += len(found)
        if self._held_rows > self._bound:
            self._write_run()

    def all(self) -> Detections:
        """Everything at once, best first."""
        return Detections.concatenate(list(self.chunks())) if self._runs else self._sorted()

    def best(self, count: int) -> Detections:
        """The `count` best, or all there are."""
        taken: list[Detections] = []
        for chunk in self.chunks():
            taken.append(chunk[: count - sum(map(len, taken))])
            if sum(map(len, taken)) >= count:
                break
        return Detections.concatenate(taken)

    def chunks(self, size: int = CHUNK) -> Iterator[Detections]:
        """Everything, best first, at most `size` at a time."""
        if not self._runs:
            held = self._sorted()
            for start in range(0, len(held), size):
                yield held[start : start + size]
            return
        if self._held_rows:
            self._write_run()
        for part in self._merged(max(64, size // len(self._runs))):
            for start in range(0, len(part), size):
                yield part[start : start + size]

    def close(self) -> None:
        """Forget everything and free the disk."""
        if self._file is not None:
            self._file.close()
        self._file, self._runs, self._held = None, [], []
        self._count = self._held_rows = 0

    def _sorted(self) -> Detections:
        if not self._in_order:
            held = Detections.concatenate(self._held)
            self._held, self._in_order = [held[best_first(held)]], True
        return self._held[0] if self._held else Detections.empty()

    def _write_run(self) -> None:
        if self._file is None:
            # Nameless: no process that dies leaves it behind.
            self._file = tempfile.TemporaryFile(dir=self._folder, prefix="rstinynet-")  # noqa: SIM115
            weakref.finalize(self, self._file.close)
        start = self.spilled
        self._file.seek(start)
        self._file.write(pack(self._sorted()).data)
        self._file.flush()
        self._runs.append(_Run(start, start + self._held_rows * ROW.itemsize))
        self._held, self._held_rows = [], 0

    def _merged(self, block: int) -> Iterator[Detections]:
        """The sorted runs as one: what no unread row can precede, again and again.

        The last row that was loaded of each unfinished run bounds what may be given out.
        """
        assert self._file is not None
        descriptor = self._file.fileno()
        at = [run.start for run in self._runs]
        loaded: list[Rows] = [np.empty(0, ROW) for _ in self._runs]
        while True:
            for index, run in enumerate(self._runs):
                if not len(loaded[index]) and at[index] < run.stop:
                    wanted = min(block * ROW.itemsize, run.stop - at[index])
                    raw = os.pread(descriptor, wanted, at[index])
                    at[index] += len(raw)
                    loaded[index] = np.frombuffer(raw, ROW)
            sizes = [len(part) for part in loaded]
            if not sum(sizes):
                return
            together = np.concatenate(loaded)
            order = best_first(unpack(together))
            ends = np.cumsum(sizes) - 1
            open_ = [ends[i] for i, run in enumerate(self._runs) if at[i] < run.stop]
            rank = np.empty(len(order), np.int64)
            rank[order] = np.arange(len(order))
            limit = int(min((rank[end] for end in open_), default=len(order) - 1)) + 1
            yield unpack(together[order[:limit]])
            out = rank < limit
            firsts = np.concatenate([[0], ends + 1])
            loaded = [
                part[int(out[low : low + len(part)].sum()) :]
                for part, low in zip(loaded, firsts[:-1], strict=True)
            ]
