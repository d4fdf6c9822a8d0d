"""Which class is taken for which, at one confidence.

Objects and detections of one class are matched as in the protocol; then what is left over of
either, whatever its class, by falling score at the same overlap.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from rstinynet.evaluate.columns import BoolArray, Chunk, IntArray
from rstinynet.evaluate.match import Matches, match
from rstinynet.evaluate.protocols import AITOD, Protocol

BACKGROUND = "background"


@dataclass(frozen=True, slots=True, kw_only=True)
class Confusion:
    """Counts of objects by what they were taken for."""

    names: tuple[str, ...]
    conf: float
    """Least score of a detection that counts."""
    iou: float
    counts: IntArray
    """(C + 1, C + 1) rows are the true class, columns the found one; last: background."""

    def as_dict(self) -> dict[str, Any]:
        """JSON's types."""
        return {
            "rows": "true class",
            "columns": "found class",
            "names": [*self.names, BACKGROUND],
            "conf": self.conf,
            "iou": self.iou,
            "counts": self.counts.tolist(),
        }


class ConfusionCounter:
    """Counts chunk after chunk, from their matches."""

    def __init__(self, protocol: Protocol, *, names: tuple[str, ...], conf: float) -> None:
        self._names = names
        self._conf = conf
        self._counts = np.zeros((len(names) + 1, len(names) + 1), np.int64)
        self._iou = protocol.ious[0]
        self._rest = replace(
            AITOD, ious=protocol.ious[:1], sizes=AITOD.sizes[:1], max_dets=()
        )  # fmt: skip

    def add(self, chunk: Chunk, matches: Matches) -> None:
        """Take in one chunk."""
        sure = chunk.found.score >= self._conf
        near = matches.row[matches.near]
        hit = matches.hit[:, 0, 0] & sure[near]
        found, truth = chunk.found.label, chunk.truth.label
        np.add.at(self._counts, (truth[matches.truth[hit]], found[near[hit]]), 1)
        object_left = ~chunk.truth.crowd
        object_left[matches.truth[hit]] = False
        left = np.zeros(len(found), np.bool_)
        left[matches.row] = sure[matches.row]
        left[near[hit | matches.ignored[:, 0, 0]]] = False
        pairs_t, pairs_f = self._across(chunk, left, object_left)
        np.add.at(self._counts, (truth[pairs_t], found[pairs_f]), 1)
        object_left[pairs_t] = False
        left[pairs_f] = False
        unknown = found[left & ~chunk.found.loose]
        self._counts[:-1, -1] += np.bincount(truth[object_left], minlength=len(self._names))
        self._counts[-1, :-1] += np.bincount(unknown, minlength=len(self._names))

    def _across(
        self, chunk: Chunk, left: BoolArray, object_left: BoolArray
    ) -> tuple[IntArray, IntArray]:
        """Rows of objects and of detections that meet across classes."""
        rows_f, rows_t = np.flatnonzero(left), np.flatnonzero(object_left)
        found, truth = chunk.found.take(rows_f), chunk.truth.take(rows_t)
        blind = replace(
            chunk,
            found=replace(found, label=np.zeros_like(found.label)),
            truth=replace(truth, label=np.zeros_like(truth.label)),
        )
        matches = match(blind, self._rest)
        hit = matches.hit[:, 0, 0]
        return rows_t[matches.truth[hit]], rows_f[matches.row[matches.near[hit]]]

    def report(self) -> Confusion:
        """The counts of everything that was taken in."""
        return Confusion(names=self._names, conf=self._conf, iou=self._iou, counts=self._counts)
