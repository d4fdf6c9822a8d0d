"""Precision, recall and what is averaged from them, of one class's records.

Precision falls only where a detection is false, so that it is needed only at hits: between them
the interpolated curve does not change. The numbers equal those of going through all detections.

oLRP: Oksuz et al., "Localization Recall Precision" (ECCV 2018), and "One Metric to Measure Them
All" (TPAMI 2021), section 4.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from rstinynet.evaluate.columns import BoolArray, FloatArray, IntArray
from rstinynet.evaluate.protocols import INTERPOLATIONS, Interpolation
from rstinynet.evaluate.records import ClassRecords


@dataclass(frozen=True, slots=True, kw_only=True)
class Lane:
    """The hits of a class at one threshold and size."""

    objects: int
    """Objects to find."""
    rank: IntArray
    """(H,) place of each hit among the detections of its class on its image."""
    score: FloatArray
    """(H,) falling."""
    false: IntArray
    """(H,) false detections that come before each hit."""
    iou: FloatArray
    """(H,) overlap of each hit at the first threshold."""

    @property
    def precision(self) -> FloatArray:
        """(H,) precision at each hit, not interpolated."""
        hits = np.arange(1, len(self.false) + 1)
        return hits / (self.false + hits)

    @property
    def recall(self) -> FloatArray:
        """(H,) recall at each hit."""
        return np.arange(1, len(self.false) + 1) / max(self.objects, 1)

    def recall_within(self, limit: int) -> float:
        """Recall of the first `limit` detections of each image; NaN without objects."""
        return float((self.rank < limit).sum() / self.objects) if self.objects else math.nan

    def at_recalls(self, points: FloatArray) -> tuple[FloatArray, FloatArray]:
        """(R,) interpolated precision, and score, where each recall is reached; else 0."""
        place = np.searchsorted(self.recall, points, side="left")
        reached = place < len(self.false)
        precision, score = np.zeros(len(points)), np.zeros(len(points))
        precision[reached] = _envelope(self.precision)[place[reached]]
        score[reached] = self.score[place[reached]]
        return precision, score

    def average_precision(self, way: Interpolation) -> float:
        """Average precision in [0, 1]; NaN without objects."""
        if not self.objects:
            return math.nan
        points = INTERPOLATIONS[way]
        if points is None:
            # Each hit adds one object's share of recall.
            return float(_envelope(self.precision).sum() / self.objects)
        return float(self.at_recalls(points)[0].mean())


def _envelope(precision: FloatArray) -> FloatArray:
    """The highest precision at this or any larger recall."""
    return np.maximum.accumulate(precision[::-1])[::-1]


class ClassLanes:
    """The lanes of one class, with what they share worked out once."""

    def __init__(self, records: ClassRecords, *, thresholds: int, sizes: int) -> None:
        self._records = records
        self._sizes = sizes
        self._at = np.flatnonzero(records.near >= 0)
        rows = records.near[self._at]
        count = thresholds * sizes
        # Lanes first: each is then read in one stretch.
        self._hit = np.unpackbits(records.hit[rows].T.copy(), axis=0, count=count).view(np.bool_)
        ignored = np.unpackbits(records.ignored[rows].T.copy(), axis=0, count=count)
        self._ignored = ignored.view(np.bool_)
        self._iou = records.iou[rows]
        self._far = [self._count_far(size) for size in range(sizes)]

    def _count_far(self, size: int) -> tuple[IntArray, BoolArray]:
        """Before each detection near an object: those far from all that are false; and (K,) bit."""
        records = self._records
        false = ((records.out >> size) & 1) == 0
        far = np.cumsum(false & (records.near < 0), dtype=np.int64)[self._at]
        return far, false[self._at]

    def lane(self, threshold: int = 0, size: int = 0) -> Lane:
        """One threshold and size by their places in the protocol."""
        far, inside = self._far[size]
        hit = self._hit[threshold * self._sizes + size]
        false = self._near_false(threshold, size, inside)
        places = np.flatnonzero(hit)
        rows = self._at[places]
        return Lane(
            objects=self._records.count(size),
            rank=self._records.rank[rows],
            score=self._records.score[rows],
            false=far[places] + np.cumsum(false, dtype=np.int32)[places],
            iou=self._iou[places],
        )

    def _near_false(self, threshold: int, size: int, inside: BoolArray) -> BoolArray:
        which = threshold * self._sizes + size
        false: BoolArray = ~(self._hit[which] | self._ignored[which]) & inside
        return false

    def false(self, threshold: int = 0, size: int = 0) -> IntArray:
        """Rows in the class's records of all false detections, by falling score."""
        records = self._records
        false = (records.near < 0) & (((records.out >> size) & 1) == 0)
        false[self._at] = self._near_false(threshold, size, self._far[size][1])
        return np.flatnonzero(false)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lrp:
    """Optimal localisation-recall-precision error of a class: 0 is perfect, 1 the worst."""

    olrp: float
    localisation: float
    """Mean of 1 - IoU over the hits at the optimum; NaN where nothing is a hit."""
    false_positive: float
    """1 - precision at the optimum; NaN where nothing is a hit."""
    false_negative: float
    """1 - recall at the optimum."""
    conf: float
    """The least score that is kept at the optimum; NaN where keeping nothing is best."""


def optimal_lrp(lane: Lane, false_scores: FloatArray, *, iou: float) -> Lrp:
    """oLRP over all thresholds on the score, at matches of at least `iou`.

    `false_scores` (F,) are those of the false detections, falling. NaN without objects.
    """
    if not lane.objects:
        return Lrp(
            olrp=math.nan, localisation=math.nan, false_positive=math.nan,
            false_negative=math.nan, conf=math.nan,
        )  # fmt: skip
    # Only a hit can lower the error. Detections of equal score are kept or left together.
    scores = lane.score
    hits = np.searchsorted(-scores, -scores, side="right")
    false = np.searchsorted(-false_scores, -scores, side="right")
    apart = np.cumsum(1.0 - lane.iou)[hits - 1] if len(hits) else np.zeros(0)
    missed = lane.objects - hits
    error = (apart / (1.0 - iou) + false + missed) / (hits + false + missed)
    best = int(error.argmin()) if len(error) else -1
    if best < 0 or error[best] >= 1:
        return Lrp(
            olrp=1.0, localisation=math.nan, false_positive=math.nan,
            false_negative=1.0, conf=math.nan,
        )  # fmt: skip
    return Lrp(
        olrp=float(error[best]),
        localisation=float(apart[best] / hits[best]),
        false_positive=float(false[best] / (hits[best] + false[best])),
        false_negative=float(missed[best] / lane.objects),
        conf=float(scores[best]),
    )
