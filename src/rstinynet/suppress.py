"""Greedy non-maximum suppression: exact, deterministic, bounded in memory, without a timer.

Boxes are taken in blocks, best first. A block is settled within itself by a dense comparison;
then only its kept boxes look for later ones to suppress, through a spatial index. A place where
many boxes pile up keeps few, so crowds cost little; what is held at once is limited by
`MAX_PAIRS`, whatever the layout.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt
import shapely

from rstinynet.detections import Detections

Metric = Literal["iou", "ios"]
Float64Array = npt.NDArray[np.float64]

MAX_PAIRS = 8_000_000
"""Most candidate pairs held at once (two int64 each)."""
SMALL = 512
"""Up to this many boxes a dense comparison is faster than an index."""


def suppress(
    detections: Detections,
    *,
    iou: float,
    class_aware: bool = True,
    max_det: int | None = None,
    metric: Metric = "iou",
) -> Detections:
    """The detections that no better kept one overlaps by more than `iou`, best first.

    Ties in score keep the order of `detections`. With `class_aware` only objects of one class
    suppress each other. `metric` "ios" divides the intersection by the smaller box instead of
    the union, which also removes parts of objects cut by a tile's edge. `max_det` keeps that
    many of the best. Boxes without area neither suppress nor are suppressed.

    Raises ValueError for a threshold outside [0, 1], an unknown metric or boxes not finite.
    """
    if not 0 <= iou <= 1:
        raise ValueError(f"iou must lie in [0, 1], not {iou}")
    if metric not in ("iou", "ios"):
        raise ValueError(f"metric must be 'iou' or 'ios', not {metric!r}")
    if not np.isfinite(detections.boxes).all():
        raise ValueError("boxes must be finite; drop those with NaN or infinity before suppressing")
    found = detections.sorted_by_score()
    if max_det is not None and max_det <= 0:
        return found[:0]
    return found[_kept(found, iou, class_aware, metric, max_det)]


def overlap(first: Float64Array, second: Float64Array, metric: Metric = "iou") -> Float64Array:
    """Intersection over union (or over the smaller box) of boxes (..., 4), broadcast together."""
    width = np.minimum(first[..., 2], second[..., 2]) - np.maximum(first[..., 0], second[..., 0])
    height = np.minimum(first[..., 3], second[..., 3]) - np.maximum(first[..., 1], second[..., 1])
    inner = np.clip(width, 0, None) * np.clip(height, 0, None)
    a, b = _area(first), _area(second)
    whole = a + b - inner if metric == "iou" else np.minimum(a, b)
    return np.asarray(np.divide(inner, whole, out=np.zeros_like(inner), where=whole > 0))


def _area(boxes: Float64Array) -> Float64Array:
    sides = np.clip(boxes[..., 2:] - boxes[..., :2], 0, None)
    return np.asarray(sides[..., 0] * sides[..., 1])


def _kept(
    found: Detections, threshold: float, class_aware: bool, metric: Metric, max_det: int | None
) -> npt.NDArray[np.int64]:
    """Positions, in order, of the boxes kept of `found`, which is sorted best first."""
    boxes = found.boxes.astype(np.float64)
    labels = found.labels if class_aware else np.zeros_like(found.labels)
    n = len(boxes)
    block = n if n <= SMALL else int(np.clip(MAX_PAIRS // n, 16, 256))
    tree = shapely.STRtree(shapely.box(*boxes.T)) if n > block else None
    alive = np.ones(n, bool)
    kept: list[npt.NDArray[np.int64]] = []
    total, start = 0, 0
    while start < n and (max_det is None or total < max_det):
        # Take the next living boxes, not the next positions: in a crowd most are gone already.
        window = start + np.flatnonzero(alive[start : start + 16 * block])[:block]
        if not len(window):
            start += 16 * block
            continue
        start = int(window[-1]) + 1
        chosen = window[_settle(boxes[window], labels[window], threshold, metric)]
        kept.append(chosen)
        total += len(chosen)
        if tree is None or start >= n:
            continue
        query, other = tree.query(shapely.box(*boxes[chosen].T))
        query = chosen[query]
        later = (other >= start) & alive[other] & (labels[query] == labels[other])
        query, other = query[later], other[later]
        alive[other[overlap(boxes[query], boxes[other], metric) > threshold]] = False
    positions = np.concatenate(kept) if kept else np.zeros(0, np.int64)
    return positions[:max_det]


def _settle(
    boxes: Float64Array, labels: npt.NDArray[np.int64], threshold: float, metric: Metric
) -> npt.NDArray[np.int64]:
    """Greedy suppression among a few boxes, sorted best first, by comparing all with all."""
    clash = overlap(boxes[:, None], boxes[None], metric) > threshold
    clash &= labels[:, None] == labels[None]
    clash = np.triu(clash, 1)
    alive = np.ones(len(boxes), bool)
    for i in np.flatnonzero(clash.any(axis=1)):
        if alive[i]:
            alive &= ~clash[i]
    return np.flatnonzero(alive)
