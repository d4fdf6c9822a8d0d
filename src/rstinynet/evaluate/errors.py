"""Why a detector errs: false detections and missed objects by kind, and what each costs.

The kinds are those of TIDE (Bolya et al., "TIDE: A General Toolbox for Identifying Object
Detection Errors", ECCV 2020), with overlaps of .1 and of the protocol's first threshold (.5). A
false detection is, by the first that holds,

    localisation    it overlaps an object of its class by .1, and none by .5
    class           it overlaps an object of another class by .5
    duplicate       it overlaps an object of its class by .5, which a better one has found
    background      it overlaps nothing by .1
    both            it overlaps an object of another class by .1 to .5

and an object is missed that nothing finds and that no error of localisation or class means. The
cost of a kind is what AP at .5 would gain were its errors mended and nothing else: of the
localisation and class errors that mean one unfound object the best becomes a hit, all others are
taken away, and missed objects need not be found.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rstinynet.evaluate.columns import BoolArray, Chunk, FloatArray, FoundColumns, IntArray
from rstinynet.evaluate.match import Matches, overlapping
from rstinynet.evaluate.protocols import AITOD, INTERPOLATIONS, Protocol, Size
from rstinynet.evaluate.scores import number

KINDS = ("localisation", "class", "duplicate", "background", "both", "missed")
_HIT = -1
_LOC, _CLASS, _DUPLICATE, _BACKGROUND, _BOTH, _MISSED = range(len(KINDS))
LEAST = 0.1
"""Overlap below which a detection has nothing to do with an object."""
_TAKEN_AWAY = -1
_FALSE = np.dtype(
    [("score", "<f8"), ("label", "<i4"), ("kind", "i1"), ("size", "i1"), ("becomes", "<i4")]
)
Rows = npt.NDArray[np.void]


@dataclass(frozen=True, slots=True, kw_only=True)
class KindOfError:
    """One kind: how often, and what mending it would give."""

    count: int
    gain: float
    """AP at the first threshold that would be gained; NaN without objects."""
    count_by_size: tuple[int, ...]
    gain_by_size: tuple[float, ...]
    """Likewise, were only errors of that size mended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorReport:
    """All kinds of errors of one detector."""

    ap: float
    """At the first threshold, interpolated as the protocol's AP, mean over classes."""
    iou: float
    sizes: tuple[Size, ...]
    kinds: dict[str, KindOfError]
    false_gain: float
    """Gain were there no false detections at all."""
    unfound_gain: float
    """Gain were only found objects to be found."""
    hits: int
    objects: int

    def as_dict(self) -> dict[str, Any]:
        """JSON's types."""
        names = [size.name for size in self.sizes]
        return {
            "ap50": number(self.ap),
            "iou": [LEAST, self.iou],
            "hits": self.hits,
            "objects": self.objects,
            "kinds": {
                name: {
                    "count": kind.count,
                    "gain": number(kind.gain),
                    "count_by_size": dict(zip(names, kind.count_by_size, strict=True)),
                    "gain_by_size": dict(zip(names, map(number, kind.gain_by_size), strict=True)),
                }
                for name, kind in self.kinds.items()
            },
            "gain_without_false_detections": number(self.false_gain),
            "gain_without_unfound_objects": number(self.unfound_gain),
        }


class ErrorCounter:
    """Collects the errors of chunk after chunk, from their matches."""

    def __init__(self, protocol: Protocol, *, classes: int) -> None:
        self._protocol = protocol
        self._classes = classes
        self._sizes = protocol.sizes[1:] or AITOD.sizes[1:]
        self._rows: list[Rows] = []
        self._missed: list[tuple[IntArray, IntArray]] = []
        self._objects = np.zeros(classes, np.int64)
        self._unfound = np.zeros(classes, np.int64)

    def add(self, chunk: Chunk, matches: Matches) -> None:
        """Take in one chunk; chunks come in the order of their images."""
        found = chunk.found.take(matches.row)
        hit, passed = _at_first(matches)
        passed |= found.loose & ~hit
        truth = chunk.truth.take(~chunk.truth.crowd)
        # Rows of `truth`, from those of the chunk's.
        row_of = np.cumsum(~chunk.truth.crowd) - 1
        used = np.zeros(len(truth), np.bool_)
        used[row_of[matches.truth[matches.truth >= 0]]] = True
        false = np.flatnonzero(~hit & ~passed)
        kind, meant = self._judge(found.take(false), chunk)
        becomes = _mended(kind, meant, found.score[false], used, truth.label)
        rows = np.empty(len(found), _FALSE)
        rows["score"], rows["label"], rows["kind"] = found.score, found.label, _HIT
        rows["size"], rows["becomes"] = 0, _TAKEN_AWAY
        rows["kind"][false], rows["becomes"][false] = kind, becomes
        area = np.where(meant >= 0, _area_of(truth.area, meant), found.xywh[false, 2:].prod(axis=1))
        rows["size"][false] = self._size_of(area)
        # Sorted by class; records need the order of images within a class.
        self._rows.append(rows[~passed])
        aimed = used.copy()
        aimed[meant[np.isin(kind, (_LOC, _CLASS))]] = True
        lost = ~aimed
        self._missed.append((truth.label[lost], self._size_of(truth.area[lost])))
        self._objects += np.bincount(truth.label, minlength=self._classes)
        self._unfound += np.bincount(truth.label[~used], minlength=self._classes)

    def _judge(self, false: FoundColumns, chunk: Chunk) -> tuple[IntArray, IntArray]:
        """(F,) kinds, and (F,) row of the object that is meant among those that count, or -1."""
        truth = chunk.truth.take(~chunk.truth.crowd)
        pairs = overlapping(false, truth, least=LEAST, across_classes=True)
        same = false.label[pairs.found] == truth.label[pairs.truth]
        own, own_row = _best(pairs.found[same], pairs.truth[same], pairs.iou[same], len(false))
        other, other_row = _best(
            pairs.found[~same], pairs.truth[~same], pairs.iou[~same], len(false)
        )
        enough = min(self._protocol.ious[0], 1 - 1e-10)
        rules = [
            (own > 0) & (own < enough),
            other >= enough,
            own >= enough,
            (own == 0) & (other == 0),
        ]
        kind = np.select(rules, [_LOC, _CLASS, _DUPLICATE, _BACKGROUND], default=_BOTH)
        meant = np.select(
            [np.isin(kind, (_LOC, _DUPLICATE)), np.isin(kind, (_CLASS, _BOTH))],
            [own_row, other_row],
            default=-1,
        )
        return kind, meant

    def _size_of(self, area: FloatArray) -> IntArray:
        """(N,) place of the first size that holds each area."""
        inside = np.stack([(area >= s.low) & (area <= s.high) for s in self._sizes])
        place: IntArray = inside.argmax(axis=0)
        return place

    def report(self) -> ErrorReport:
        """The errors of everything that was taken in."""
        rows = np.concatenate([np.zeros(0, _FALSE), *self._rows])
        labels = np.concatenate([np.zeros(0, np.int64), *(part[0] for part in self._missed)])
        sizes = np.concatenate([np.zeros(0, np.int64), *(part[1] for part in self._missed)])
        base = self._ap(rows, self._objects)
        kinds = {}
        places = range(len(self._sizes))
        for kind, name in enumerate(KINDS):
            bad, lost = rows["kind"] == kind, np.full(len(labels), kind == _MISSED)
            by_size = [(bad & (rows["size"] == size), lost & (sizes == size)) for size in places]
            kinds[name] = KindOfError(
                count=int(bad.sum() + lost.sum()),
                gain=self._mended(rows, bad, labels[lost]) - base,
                count_by_size=tuple(int(one.sum() + two.sum()) for one, two in by_size),
                gain_by_size=tuple(
                    self._mended(rows, one, labels[two]) - base for one, two in by_size
                ),
            )
        return ErrorReport(
            ap=base,
            iou=self._protocol.ious[0],
            sizes=tuple(self._sizes),
            kinds=kinds,
            false_gain=self._ap(rows[rows["kind"] == _HIT], self._objects) - base,
            unfound_gain=self._ap(rows, self._objects - self._unfound) - base,
            hits=int((rows["kind"] == _HIT).sum()),
            objects=int(self._objects.sum()),
        )

    def _mended(self, rows: Rows, bad: BoolArray, lost: IntArray) -> float:
        """AP with some errors mended: rows of `bad`, and objects of the classes `lost`."""
        fixed = rows[bad & (rows["becomes"] != _TAKEN_AWAY)].copy()
        fixed["label"], fixed["kind"] = fixed["becomes"], _HIT
        objects = self._objects - np.bincount(lost, minlength=self._classes)
        return self._ap(np.concatenate([rows[~bad], fixed]), objects)

    def _ap(self, rows: Rows, objects: IntArray) -> float:
        """Mean over the classes that have objects; one of which none is left gives 0."""
        points = INTERPOLATIONS[self._protocol.interpolations[0]]
        order = np.lexsort((-rows["score"], rows["label"]))
        rows = rows[order]
        ends = np.searchsorted(rows["label"], np.arange(self._classes + 1))
        values = [
            _average(rows["kind"][ends[k] : ends[k + 1]] == _HIT, int(objects[k]), points)
            for k in np.flatnonzero(self._objects).tolist()
        ]
        return float(np.mean(values)) if values else math.nan


def _average(hits: BoolArray, objects: int, points: FloatArray | None) -> float:
    """Interpolated average precision of detections by falling score."""
    count = np.cumsum(hits)
    precision = (count / np.arange(1, len(hits) + 1))[hits]
    if not len(precision) or not objects:
        return 0.0
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    if points is None:
        return float(precision.sum() / objects)
    recall = np.arange(1, len(precision) + 1) / objects
    place = np.searchsorted(recall, points, side="left")
    reached = place[place < len(precision)]
    return float(precision[reached].sum() / len(points))


def _at_first(matches: Matches) -> tuple[BoolArray, BoolArray]:
    """(N,) hits and (N,) ignored ones at the first threshold, any size."""
    hit = np.zeros(len(matches.row), np.bool_)
    passed = np.zeros(len(matches.row), np.bool_)
    hit[matches.near], passed[matches.near] = matches.hit[:, 0, 0], matches.ignored[:, 0, 0]
    return hit, passed & ~hit


def _area_of(areas: FloatArray, rows: IntArray) -> FloatArray:
    """(N,) areas of rows; anything where the row is -1."""
    return areas[rows] if len(areas) else np.zeros(len(rows))


def _best(
    found: IntArray, truth: IntArray, iou: FloatArray, count: int
) -> tuple[FloatArray, IntArray]:
    """(count,) largest overlap of each detection, 0 without, and (count,) its object, or -1."""
    best, row = np.zeros(count), np.full(count, -1)
    # Pairs of a detection stand by rising overlap, so that the last assignment is the largest.
    best[found], row[found] = iou, truth
    return best, row


def _mended(
    kind: IntArray, meant: IntArray, score: FloatArray, used: BoolArray, label: IntArray
) -> IntArray:
    """(F,) the class in which each false detection, mended, is a hit; -1 to take it away."""
    becomes = np.full(len(kind), _TAKEN_AWAY)
    for which in (_LOC, _CLASS):
        mine = np.flatnonzero(kind == which)
        mine = mine[~used[meant[mine]]]
        mine = mine[np.argsort(-score[mine], kind="stable")]
        _, first = np.unique(meant[mine], return_index=True)
        best = mine[first]
        becomes[best] = label[meant[best]]
    return becomes
