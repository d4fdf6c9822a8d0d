"""One object, one detection: joining what neighbouring tiles found.

A tile answers for its core and a margin around it, so that an object on a seam is seen whole by
at least one tile. Where two tiles report the same object, the better box stays; a box cut by a
tile's edge yields to a whole one. Only detections that a later row of tiles can still touch are
held for comparison.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import shapely

from rstinynet.detections import Detections, Float32Array
from rstinynet.scenes.windows import Window
from rstinynet.suppress import Metric, overlap

MERGE_IOU = 0.3
"""Overlap above which boxes of one class from two tiles are one object.

Lower than within a tile: the same object's box moves by a pixel from tile to tile, which is much
of the overlap where the object has eight, while distinct neighbours were kept apart by their own
tile and never compete within it.
"""
CUT_IOS = 0.6
"""Share of a box cut by a tile's edge that must lie in a whole one to be part of it."""
CUT_PX = 2.0
"""A box that ends this close to a tile's inner edge counts as cut by it."""
_CHUNK = 4096


class SeamMerger:
    """Takes the detections of tiles row by row and gives back those that are settled."""

    def __init__(
        self,
        width: int,
        height: int,
        *,
        margin: float,
        iou: float = MERGE_IOU,
        metric: Metric = "iou",
    ) -> None:
        """For a scene of this size; a tile answers for `margin` pixels around its core."""
        self._size = (width, height)
        self._margin = margin
        self._iou = iou
        self._metric: Metric = metric
        self._tiles = 0
        self._found: list[Detections] = []
        self._tile: list[npt.NDArray[np.int64]] = []
        self._cut: list[npt.NDArray[np.bool_]] = []

    def add(self, window: Window, found: Detections) -> None:
        """Take one tile's detections, in pixels of that tile."""
        placed = found.shifted(window.x, window.y)
        centre = (placed.boxes[:, :2] + placed.boxes[:, 2:]) / 2
        low = np.array(window.core[:2]) - self._margin
        high = np.array(window.core[2:]) + self._margin
        own = np.asarray(((centre >= low) & (centre < high)).all(axis=1))
        placed = placed[own]
        self._found.append(placed)
        self._tile.append(np.full(len(placed), self._tiles))
        self._cut.append(self._touching(window, placed.boxes))
        self._tiles += 1

    def settle(self, next_y: float | None = None) -> Detections:
        """Merge what is held; return what no row of tiles that starts at `next_y` can change.

        Without `next_y` everything is returned.
        """
        found = Detections.concatenate(self._found)
        tile = np.concatenate([*self._tile, np.zeros(0, np.int64)])
        cut = np.concatenate([*self._cut, np.zeros(0, bool)])
        # Whole boxes come before cut ones, then the better before the worse.
        order = np.lexsort((np.arange(len(found)), -found.scores, cut))
        found, tile, cut = found[order], tile[order], cut[order]
        alive = _compete(found, tile, cut, self._iou, self._metric)
        open_ = np.zeros(len(found), bool) if next_y is None else found.boxes[:, 3] >= next_y
        held = alive & open_
        self._found, self._tile, self._cut = [found[held]], [tile[held]], [cut[held]]
        return found[alive & ~open_]

    def _touching(self, window: Window, boxes: Float32Array) -> npt.NDArray[np.bool_]:
        """Which boxes (N, 4) end at an edge of `window` that is not the scene's."""
        right, bottom = window.x + window.width, window.y + window.height
        width, height = self._size
        cut = (window.x > 0) & (boxes[:, 0] <= window.x + CUT_PX)
        cut |= (window.y > 0) & (boxes[:, 1] <= window.y + CUT_PX)
        cut |= (right < width) & (boxes[:, 2] >= right - CUT_PX)
        return np.asarray(cut | ((bottom < height) & (boxes[:, 3] >= bottom - CUT_PX)))


def _compete(
    found: Detections,
    tile: npt.NDArray[np.int64],
    cut: npt.NDArray[np.bool_],
    iou: float,
    metric: Metric,
) -> npt.NDArray[np.bool_]:
    """(N,) which of `found`, in order of precedence, survive those of other tiles."""
    alive = np.ones(len(found), bool)
    if len(found) < 2:
        return alive
    boxes = found.boxes.astype(np.float64)
    shapes = shapely.box(*boxes.T)
    tree = shapely.STRtree(shapes)
    for start in range(0, len(found), _CHUNK):
        first, second = tree.query(shapes[start : start + _CHUNK])
        first = first + start
        rivals = (second > first) & (tile[first] != tile[second])
        rivals &= found.labels[first] == found.labels[second]
        first, second = first[rivals], second[rivals]
        same = overlap(boxes[first], boxes[second], metric) > iou
        same |= cut[second] & (overlap(boxes[first], boxes[second], "ios") > CUT_IOS)
        first, second = first[same], second[same]
        for i in np.argsort(first, kind="stable"):
            if alive[first[i]]:
                alive[second[i]] = False
    return alive
