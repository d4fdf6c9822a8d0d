"""Test-time augmentation: one image searched in several views, and what they agree on.

Seen from above, nothing is upright: a flip or a quarter turn shows the same objects as well as the
image itself does, and what only one view shows is mostly no object. Boxes of the views are joined
as in weighted boxes fusion (Solovyev et al., "Weighted boxes fusion: Ensembling boxes from
different object detection models", Image and Vision Computing, 2021), but one of each view.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
import shapely

from rstinynet.detections import Detections, Float32Array
from rstinynet.errors import UsageError
from rstinynet.suppress import overlap

VIEWS = (1, 2, 4, 8)
"""How many views there can be: the image; its mirror image; both ways; all, also turned."""
MOST_SCALE = 16
"""Most by which a search enlarges an image, and a scene is enlarged in reading."""
LEAST_SCALE = 0.01
"""Least factor that an option takes: of a tile, less leaves a few pixels."""
SAME_IOU = 0.4
"""Overlap above which boxes of one class in two views are one object: a tiny object's box moves by
a pixel from view to view, so it lies below the suppression's."""

Image = npt.NDArray[np.uint8]
Int64s = npt.NDArray[np.int64]


def check_views(count: int) -> None:
    """UsageError unless there are so many views."""
    if count not in VIEWS:
        raise UsageError(f"tta must be 1, 2, 4 or 8 views, not {count}")


def scales_of(scale: float | Sequence[float]) -> tuple[float, ...]:
    """The resize factors, one or several. UsageError for none, or one that makes no sense."""
    try:
        found = tuple(float(s) for s in scale) if isinstance(scale, Iterable) else (float(scale),)
    except (TypeError, ValueError):
        found = ()
    if not found or not all(0 < one <= MOST_SCALE for one in found) or len(set(found)) < len(found):
        raise UsageError(
            f"scale must be over 0 and at most {MOST_SCALE}, or several such that differ, not "
            f"{scale}"
        )
    return found


def parse_scales(text: str) -> tuple[float, ...]:
    """Resize factors from `1.5` or `1,1.5`. UsageError for anything else."""
    try:
        factors = [float(part) for part in text.split(",")]
    except ValueError as error:
        raise UsageError(
            f"--scale takes a factor, or several separated by commas, not {text!r}"
        ) from error
    found = scales_of(factors)
    if min(found) < LEAST_SCALE:
        raise UsageError(
            f"--scale must be from {LEAST_SCALE} to {MOST_SCALE}, not {text!r}: less leaves "
            "nothing of a tile to see"
        )
    return found


def seen(image_HWC: Image, view: int) -> Image:
    """The image (H, W, C) in one of the eight views; those from 4 on are (W, H, C)."""
    flipped = image_HWC[:: -1 if view & 2 else 1, :: -1 if view & 1 else 1]
    return np.ascontiguousarray(flipped.transpose(1, 0, 2) if view & 4 else flipped)


def unseen(boxes_xyxy: Float32Array, view: int, *, width: int, height: int) -> Float32Array:
    """Boxes (N, 4) of a view in the pixels of the image, which is `width` by `height`."""
    x0, y0, x1, y1 = boxes_xyxy[:, [1, 0, 3, 2]].T if view & 4 else boxes_xyxy.T
    if view & 1:
        x0, x1 = width - x1, width - x0
    if view & 2:
        y0, y1 = height - y1, height - y0
    return np.stack([x0, y0, x1, y1], axis=1).astype(np.float32)


def agreed(views: Sequence[Detections], *, iou: float = SAME_IOU) -> Detections:
    """One detection for each object of any view, best first.

    A detection, the best first, takes the nearest of the same class from each other view that
    overlaps it by more than `iou`. The box is their mean weighted by score, the score the mean
    over all views, 0 for one that does not show it.
    """
    found = Detections.concatenate(views)
    view = np.repeat(np.arange(len(views)), [len(each) for each in views])
    order = np.lexsort((*found.boxes.T, -found.scores))
    found, view = found[order], view[order]
    object_of = _objects(found, view, iou)
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
        (weights / len(views)).astype(np.float32),
        labels,
    ).sorted_by_score()


def _objects(found: Detections, view: Int64s, iou: float) -> Int64s:
    """(N,) the number of each one's object; `found` is sorted best first."""
    n = len(found)
    boxes = found.boxes.astype(np.float64)
    shapes = shapely.box(*boxes.T)
    first, second = shapely.STRtree(shapes).query(shapes)
    pairs = (first < second) & (view[first] != view[second])
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
        shown = {int(view[at])}
        for other in second[start[at] : start[at + 1]].tolist():
            if object_of[other] < 0 and view[other] not in shown:
                object_of[other] = objects
                shown.add(int(view[other]))
        objects += 1
    return object_of
