"""What several looks at one image agree on: views of it, or models.

Boxes are joined as in weighted boxes fusion (Solovyev et al., "Weighted boxes fusion: Ensembling
boxes from different object detection models", Image and Vision Computing, 2021), but one of each
look, and what one does not show counts as a score of 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import shapely

from rstinynet.detections import Detections
from rstinynet.suppress import overlap

OWN_IOU = 0.6
"""Overlap above which a model's own boxes are one object, before they are compared with another
model's: `predict`'s default."""
SAME_IOU = 0.4
"""Overlap above which boxes of one class in two looks are one object: a tiny object's box moves by
a pixel from one to the next, so it lies below the suppression's."""

Int64s = npt.NDArray[np.int64]


def agreed(looks: Sequence[Detections], *, iou: float = SAME_IOU) -> Detections:
    """One detection for each object of any look, best first.

    A detection, the best first, takes the nearest of the same class from each other look that
    overlaps it by more than `iou`. The box is their mean weighted by score, the score the mean
    over all looks, 0 for one that does not show it.
    """
    found = Detections.concatenate(looks)
    look = np.repeat(np.arange(len(looks)), [len(each) for each in looks])
    order = np.lexsort((*found.boxes.T, -found.scores))
    found, look = found[order], look[order]
    object_of = _objects(found, look, iou)
    count = int(object_of.max(initial=-1)) + 1
    weights = np.bincount(object_of, found.scores, minlength=count)
    boxes = [
        np.bincount(object_of, found.scores * side, minlength=count) / np.maximum(weights, 1e-12)
        for side in found.boxes.T
    ]
    labels = np.zeros(count, np.int64)
    labels[object_of] = found.labels
    return Detections(
        np.stack(boxes, axis=1).astype(np.float32).reshape(-1, 4),
        (weights / len(looks)).astype(np.float32),
        labels,
    ).sorted_by_score()


def _objects(found: Detections, look: Int64s, iou: float) -> Int64s:
    """(N,) the number of each one's object; `found` is sorted best first."""
    n = len(found)
    boxes = found.boxes.astype(np.float64)
    shapes = shapely.box(*boxes.T)
    first, second = shapely.STRtree(shapes).query(shapes)
    pairs = (first < second) & (look[first] != look[second])
    pairs &= found.labels[first] == found.labels[second]
    first, second = first[pairs], second[pairs]
    value = overlap(boxes[first], boxes[second])
    near = value > iou
    first, second, value = first[near], second[near], value[near]
    order = np.lexsort((second, -value, first))
    first, second = first[order], second[order]
    start = np.searchsorted(first, np.arange(n + 1))
    object_of = np.full(n, -1)
    objects = 0
    for at in range(n):
        if object_of[at] >= 0:
            continue
        object_of[at] = objects
        shown = {int(look[at])}
        for other in second[start[at] : start[at + 1]].tolist():
            if object_of[other] < 0 and look[other] not in shown:
                object_of[other] = objects
                shown.add(int(look[other]))
        objects += 1
    return object_of
