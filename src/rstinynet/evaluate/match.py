"""Which detection finds which object, of many images at once.

COCO's rule (cocoapi's evaluateImg): detections by falling score take, of the objects of their
class on their image that are still free and overlap them by the threshold, the one that they
overlap most; one that counts goes before one that is ignored, of equals the later one. VOC's rule
(devkit's VOCevaldet): a detection belongs to the object that it overlaps most, and is false where
that one is taken.

Every threshold and size is a lane, and all lanes of all images go together: only pairs that
overlap by the lowest threshold are looked at, and a detection's turn comes as soon as none that
scores more wants one of its objects. The result is that of going through them one by one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from rstinynet.evaluate.columns import (
    BoolArray,
    Chunk,
    Columns,
    FloatArray,
    FoundColumns,
    IntArray,
)
from rstinynet.evaluate.protocols import Protocol

_EPS = 1e-10
"""A threshold of 1 is met by an IoU this much below it, as in cocoapi."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairs:
    """Detections and objects that overlap, sorted by detection."""

    found: IntArray
    """(P,) row of the detection."""
    truth: IntArray
    """(P,) row of the object."""
    iou: FloatArray
    """(P,) overlap; with a crowd region, the share of the detection that lies in it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Matches:
    """The outcome for the detections that take part, best first in each class on each image."""

    row: IntArray
    """(N,) row of the detection in the chunk."""
    rank: IntArray
    """(N,) place among those of its class on its image, from 0."""
    near: IntArray
    """(K,) places in `row` of the detections that overlap an object; all others match nothing."""
    hit: BoolArray
    """(K, thresholds, sizes) matched to an object that counts there."""
    ignored: BoolArray
    """(K, thresholds, sizes) matched to a region or to an object of another size."""
    iou: FloatArray
    """(K,) overlap with the object taken at the first threshold and size; 0 without."""
    truth: IntArray
    """(K,) row of that object; -1 without."""


def match(chunk: Chunk, protocol: Protocol) -> Matches:
    """Match the detections of one chunk by the rules of `protocol`."""
    found, truth = chunk.found, chunk.truth
    row, rank = _ranked(found, limit=protocol.limit)
    ordered = found.take(row)
    crowd = truth.crowd if protocol.matching == "coco" else None
    pairs = overlapping(ordered, truth, least=protocol.ious[0], crowd=crowd)
    sizes = np.array([(size.low, size.high) for size in protocol.sizes])
    out = (truth.area[:, None] < sizes[:, 0]) | (truth.area[:, None] > sizes[:, 1])
    ignore = out | truth.crowd[:, None]
    if protocol.matching == "voc":
        near, best = _match_voc(pairs, truths=len(truth))
        # One size holds all: only difficult objects are ignored.
        code = np.where(best.taken, -1, best.truth)[:, None, None]
        hit = (code >= 0) & ~ignore[best.truth][:, None, :]
        passed = np.broadcast_to(ignore[best.truth][:, None, :], hit.shape)
        return Matches(
            row=row, rank=rank, near=near, hit=hit, ignored=passed,
            iou=np.where(hit[:, 0, 0], best.iou, 0.0),
            truth=np.where(hit[:, 0, 0], best.truth, -1),
        )  # fmt: skip
    thresholds = np.minimum(np.array(protocol.ious), 1 - _EPS)
    return _match_coco(pairs, thresholds, ignore, truth.crowd, row=row, rank=rank)


def _ranked(found: FoundColumns, *, limit: int) -> tuple[IntArray, IntArray]:
    """Rows by image and class, best first, up to `limit` of each; and their ranks."""
    row = np.lexsort((-found.score, found.label, found.image))
    image, label = found.image[row], found.label[row]
    new = np.ones(len(row), np.bool_)
    new[1:] = (image[1:] != image[:-1]) | (label[1:] != label[:-1])
    starts = np.flatnonzero(new)
    rank = np.arange(len(row)) - np.repeat(starts, np.diff(np.append(starts, len(row))))
    within = rank < limit
    return row[within], rank[within]


def overlapping(
    found: Columns,
    truth: Columns,
    *,
    least: float,
    crowd: BoolArray | None = None,
    across_classes: bool = False,
) -> Pairs:
    """All pairs on one image, and of one class or `across_classes`, with IoU of at least `least`.

    `crowd` marks regions of `truth` (M,), whose overlap is the covered share of the detection.
    `least` must be above 0. Among the pairs of a detection, those of higher IoU stand later, and
    of equal ones those of later objects.
    """
    regions = np.zeros(len(truth), np.bool_) if crowd is None else crowd
    group_f, group_t = _groups(found, truth, across_classes=across_classes)
    at_f, at_t = _candidates(found, truth, group_f, group_t, np.flatnonzero(~regions), least)
    if regions.any():
        more_f, more_t = _all_pairs(group_f, group_t, np.flatnonzero(regions))
        at_f, at_t = np.concatenate([at_f, more_f]), np.concatenate([at_t, more_t])
    iou = _iou(found.xywh, truth.xywh, at_f, at_t, regions)
    enough = iou >= min(least, 1 - _EPS)
    at_f, at_t, iou = at_f[enough], at_t[enough], iou[enough]
    order = np.lexsort((at_t, iou, at_f))
    return Pairs(found=at_f[order], truth=at_t[order], iou=iou[order])


def _groups(found: Columns, truth: Columns, *, across_classes: bool) -> tuple[IntArray, IntArray]:
    """Small numbers that are equal where a detection and an object may meet."""
    if not len(found) or not len(truth):
        return np.zeros(len(found), np.int64), np.zeros(len(truth), np.int64)
    first = min(int(found.image.min()), int(truth.image.min()))
    if across_classes:
        return found.image - first, truth.image - first
    classes = 1 + max(int(found.label.max()), int(truth.label.max()))
    return (
        (found.image - first) * classes + found.label,
        (truth.image - first) * classes + truth.label,
    )


def _candidates(
    found: Columns,
    truth: Columns,
    group_f: IntArray,
    group_t: IntArray,
    rows: IntArray,
    least: float,
) -> tuple[IntArray, IntArray]:
    """Pairs that may overlap by `least`, judged by their left edges.

    An overlap of `least` covers that share of either box, and so of either width. An object is
    thus at most 1 / least times as wide as the detection, and its left edge lies in a window of
    a few widths around it. Edges of all groups are laid end to end and searched at once.
    """
    if not len(rows) or not len(found):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    left, width = found.xywh[:, 0], found.xywh[:, 2]
    low = left + width * (least - 1 / least)
    high = left + width * (1 - least)
    edge = truth.xywh[rows, 0]
    start = min(float(edge.min()), float(left.min()))
    span = max(float(edge.max()), float(left.max())) - start
    stride = 1.01 * span + 1.0
    # Large numbers are coarse: the window is widened by more than they can be wrong.
    slack = 1e-6 + 64 * np.spacing(stride * (1 + float(max(group_t.max(), group_f.max()))))
    slack = min(float(slack), stride)
    key = group_t[rows] * stride + (edge - start)
    order = np.argsort(key, kind="stable")
    base = group_f * stride
    begin = np.searchsorted(key[order], base + np.clip(low - start, 0, span) - slack, side="left")
    end = np.searchsorted(key[order], base + np.clip(high - start, 0, span) + slack, side="right")
    at_f, place = _expanded(begin, end)
    at_t = rows[order][place]
    same = group_f[at_f] == group_t[at_t]
    return at_f[same], at_t[same]


def _all_pairs(group_f: IntArray, group_t: IntArray, rows: IntArray) -> tuple[IntArray, IntArray]:
    order = rows[np.argsort(group_t[rows], kind="stable")]
    begin = np.searchsorted(group_t[order], group_f, side="left")
    end = np.searchsorted(group_t[order], group_f, side="right")
    at_f, place = _expanded(begin, end)
    return at_f, order[place]


def _expanded(begin: IntArray, end: IntArray) -> tuple[IntArray, IntArray]:
    """Each row with each number from its `begin` up to its `end`."""
    count = np.maximum(end - begin, 0)
    rows = np.repeat(np.arange(len(count)), count)
    ahead = np.cumsum(count) - count
    return rows, np.arange(len(rows)) - np.repeat(ahead - begin, count)


def _iou(
    found: FloatArray, truth: FloatArray, at_f: IntArray, at_t: IntArray, regions: BoolArray
) -> FloatArray:
    """(P,) overlaps, with cocoapi's order of operations so that limits are met alike."""
    f_left, f_top, f_width, f_height = found[at_f].T
    t_left, t_top, t_width, t_height = truth[at_t].T
    across = np.minimum(f_width + f_left, t_width + t_left) - np.maximum(f_left, t_left)
    down = np.minimum(f_height + f_top, t_height + t_top) - np.maximum(f_top, t_top)
    inner = np.where((across > 0) & (down > 0), across * down, 0.0)
    area = f_width * f_height
    union = np.where(regions[at_t], area, area + t_width * t_height - inner)
    iou: FloatArray = np.divide(inner, union, out=np.zeros_like(inner), where=inner > 0)
    return iou


def _segments(values: IntArray) -> tuple[IntArray, IntArray]:
    """Starts of runs of equal values, and for each element the number of its run."""
    new = np.ones(len(values), np.bool_)
    new[1:] = values[1:] != values[:-1]
    return np.flatnonzero(new), np.cumsum(new) - 1


def _match_coco(
    pairs: Pairs,
    thresholds: FloatArray,
    ignore: BoolArray,
    crowd: BoolArray,
    *,
    row: IntArray,
    rank: IntArray,
) -> Matches:
    starts, detection = _segments(pairs.found)
    near = pairs.found[starts] if len(starts) else np.zeros(0, np.int64)
    lanes = (len(thresholds), ignore.shape[1])
    taken = np.zeros((len(ignore), *lanes), np.bool_)
    hit = np.zeros((len(near), *lanes), np.bool_)
    passed = np.zeros((len(near), *lanes), np.bool_)
    iou = np.zeros(len(near))
    truth = np.full(len(near), -1)
    # Where a pair stands among those of its detection: the later, the more it is wanted.
    place = (np.arange(len(detection)) - starts[detection] + 1).astype(np.int32)
    counts = np.int32(1 << 30)
    for ready in _turns(detection, np.where(crowd[pairs.truth], -1, pairs.truth)):
        first, which = _segments(detection[ready])
        mine, object_ = detection[ready][first], pairs.truth[ready]
        open_ = ~taken[object_] | crowd[object_][:, None, None]
        open_ &= (pairs.iou[ready][:, None] >= thresholds)[:, :, None]
        wish = place[ready][:, None, None] + np.where(ignore[object_], 0, counts)[:, None, :]
        wish = np.where(open_, wish, 0)
        best = np.maximum.reduceat(wish, first, axis=0)
        chosen = open_ & (wish == best[which])
        taken[object_] |= chosen
        hit[mine], passed[mine] = best > counts, (best > 0) & (best < counts)
        got = chosen[:, 0, 0] & ~ignore[object_, 0]
        truth[mine[which[got]]] = object_[got]
        iou[mine[which[got]]] = pairs.iou[ready][got]
    return Matches(row=row, rank=rank, near=near, hit=hit, ignored=passed, iou=iou, truth=truth)


def _turns(detection: IntArray, truth: IntArray) -> Iterator[IntArray]:
    """Pairs by turns: in each, no object (-1: shared freely) is wanted by two detections.

    A detection's turn comes after those of all earlier ones that want one of its objects.
    """
    if not len(detection):
        return
    # Detections ascend, so that along an object they stand in the order of their turns.
    order = np.argsort(truth, kind="stable")
    follows = (truth[order][1:] == truth[order][:-1]) & (truth[order][1:] >= 0)
    behind = np.full(len(detection), -1)
    behind[order[:-1][follows]] = order[1:][follows]
    waits = np.bincount(detection[order[1:][follows]], minlength=int(detection[-1]) + 1)
    ends = np.searchsorted(detection, np.arange(len(waits) + 1))
    ready = np.flatnonzero(waits == 0)
    while len(ready):
        turn = _expanded(ends[ready], ends[ready + 1])[1]
        yield turn
        later = behind[turn]
        freed, times = np.unique(detection[later[later >= 0]], return_counts=True)
        waits[freed] -= times
        ready = freed[waits[freed] == 0]


@dataclass(frozen=True, slots=True)
class _Best:
    """The object that each detection overlaps most."""

    truth: IntArray
    iou: FloatArray
    taken: BoolArray
    """A detection of higher score has the same one."""


def _match_voc(pairs: Pairs, *, truths: int) -> tuple[IntArray, _Best]:
    order = np.lexsort((-pairs.truth, pairs.iou, pairs.found))
    found, truth, iou = pairs.found[order], pairs.truth[order], pairs.iou[order]
    starts, _ = _segments(found)
    last = np.append(starts[1:], len(found)) - 1 if len(starts) else starts
    near, best = found[last], truth[last]
    earliest = np.full(truths, len(near))
    np.minimum.at(earliest, best, np.arange(len(near)))
    return near, _Best(best, iou[last], np.arange(len(near)) > earliest[best])
