"""One object, one detection: joining what neighbouring tiles found.

A tile answers for its core and a margin around it, so that an object on a seam is seen whole by
at least one tile. Where two tiles report the same object, the better box stays; a box cut by a
tile's edge yields to a whole one. Pieces of an object longer than the overlap, which no tile sees
whole, become one box (`rstinynet.scenes.join`). Only detections that a later row of tiles can
still touch are held for comparison.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt
import shapely

from rstinynet.detections import Detections
from rstinynet.scenes.join import CUT_PX, Pieces, join
from rstinynet.scenes.windows import Window
from rstinynet.suppress import Metric, overlap

MERGE_IOU = 0.3
"""Overlap above which boxes of one class from two tiles are one object.

Lower than within a tile: the same object's box moves by a pixel from tile to tile, which is much
of the overlap where the object has eight. So that a distinct neighbour is not taken for it, a box
has one counterpart of another tile at most, and the nearest pairs find each other first.
"""
CUT_SHARE = 0.6
"""Share of a box cut by a tile's edge that must lie in a whole one to be part of it."""
_CHUNK = 4096

Bools = npt.NDArray[np.bool_]
Int64s = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Held:
    """Detections of several tiles and where each comes from."""

    found: Detections
    tile: Int64s
    """(N,) number of the tile."""
    window: npt.NDArray[np.float64]
    """(N, 4) the tile, XYXY."""
    cut: Bools
    """(N, 4) whether the box ends at the tile's left, top, right, bottom edge inside the scene."""
    alive: Bools
    """(N,) False for one that has lost: it only shows that its like has its match already."""

    def __getitem__(self, which: Bools | Int64s) -> _Held:
        return _Held(**{field.name: getattr(self, field.name)[which] for field in fields(self)})


class SeamMerger:
    """Takes the detections of tiles row by row and gives back those that are settled.

    The result does not depend on the order of the tiles within a row.
    """

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
        self._held: list[_Held] = []
        self._alone: list[Detections] = []

    def add(self, window: Window, found: Detections) -> None:
        """Take one tile's detections, in pixels of that tile."""
        placed = found.shifted(window.x, window.y)
        centre = (placed.boxes[:, :2] + placed.boxes[:, 2:]) / 2
        low = np.array(window.core[:2]) - self._margin
        high = np.array(window.core[2:]) + self._margin
        placed = placed[np.asarray(((centre >= low) & (centre < high)).all(axis=1))]
        x0, y0, x1, y1 = edges = _edges(window)
        inner = np.array([x0 > 0, y0 > 0, x1 < self._size[0], y1 < self._size[1]])
        reach = np.array([1, 1, -1, -1]) * (placed.boxes - edges)
        cut = np.asarray((reach <= CUT_PX) & inner)
        alone = _alone(placed.boxes, window) & ~cut.any(axis=1)
        self._alone.append(placed[alone])
        placed, cut = placed[~alone], cut[~alone]
        n = len(placed)
        self._held.append(
            _Held(
                found=placed,
                tile=np.full(n, self._tiles),
                window=np.tile(edges, (n, 1)),
                cut=cut,
                alive=np.ones(n, bool),
            )
        )
        self._tiles += 1

    def settle(self, next_y: float | None = None) -> Detections:
        """Merge what is held; return what no row of tiles that starts at `next_y` can change.

        Without `next_y` everything is returned.
        """
        held = _in_order(self._held)
        open_ = np.zeros(len(held.found), bool)
        if next_y is not None:
            open_ = held.found.boxes[:, 3] >= next_y
        cut = held.cut.any(axis=1)
        alive = _compete(held, self._iou, self._metric)
        whole = alive & ~cut
        at = np.flatnonzero(alive & cut)
        pieces = Pieces(held.found[at], held.tile[at], held.window[at], held.cut[at])
        joined = join(pieces, iou=self._iou, share=CUT_SHARE)
        alive[at] = joined.group >= 0
        # An object waits as its pieces until the last of them is settled.
        waiting = np.zeros(len(joined.found), bool)
        waiting[joined.group[open_[at] & alive[at]]] = True
        open_[at[alive[at]]] = waiting[joined.group[alive[at]]]
        lasting = _Held(
            found=held.found, tile=held.tile, window=held.window, cut=held.cut, alive=alive
        )
        self._held = [lasting[open_]]
        alone, self._alone = self._alone, []
        return Detections.concatenate([*alone, held.found[whole & ~open_], joined.found[~waiting]])


def _alone(boxes_xyxy: npt.NDArray[np.float32], window: Window) -> Bools:
    """(N,) which boxes lie where no other tile reaches, so that none can report the same.

    A core's border is half way between the edges of two tiles, which gives the neighbour's edge.
    """
    low = 2 * np.array(window.core[:2]) - (window.x, window.y)
    right, bottom = window.x + window.width, window.y + window.height
    high = 2 * np.array(window.core[2:]) - (right, bottom)
    return np.asarray(((boxes_xyxy[:, :2] >= low) & (boxes_xyxy[:, 2:] <= high)).all(axis=1))


def _edges(window: Window) -> npt.NDArray[np.float64]:
    right, bottom = window.x + window.width, window.y + window.height
    return np.array([window.x, window.y, right, bottom], float)


def _in_order(parts: list[_Held]) -> _Held:
    """All in one, whole boxes before cut ones, then the better before the worse."""
    held = _Held(
        found=Detections.concatenate([part.found for part in parts]),
        tile=np.concatenate([np.zeros(0, np.int64), *(part.tile for part in parts)]),
        window=np.concatenate([np.zeros((0, 4)), *(part.window for part in parts)]),
        cut=np.concatenate([np.zeros((0, 4), bool), *(part.cut for part in parts)]),
        alive=np.concatenate([np.zeros(0, bool), *(part.alive for part in parts)]),
    )
    found = held.found
    return held[np.lexsort((*found.boxes.T, -found.scores, held.cut.any(axis=1)))]


def _compete(held: _Held, threshold: float, metric: Metric) -> Bools:
    """(N,) which of `held`, in order of precedence, survive the whole boxes of other tiles."""
    alive = held.alive.copy()
    found, tile = held.found, held.tile
    cut: Bools = np.asarray(held.cut.any(axis=1))
    n = len(found)
    if n < 2:
        return alive
    boxes = found.boxes.astype(np.float64)
    shapes = shapely.box(*boxes.T)
    tree = shapely.STRtree(shapes)
    over: list[tuple[Int64s, Int64s, npt.NDArray[np.float64]]] = []
    beaten: list[Int64s] = []
    for start in range(0, n, _CHUNK):
        first, second = tree.query(shapes[start : start + _CHUNK])
        first = first + start
        rivals = (tile[first] != tile[second]) & ~cut[first]
        rivals &= found.labels[first] == found.labels[second]
        first, second = first[rivals], second[rivals]
        value = overlap(boxes[first], boxes[second], metric)
        part = cut[second] & (
            (value > threshold) | (_share(boxes[first], boxes[second]) > CUT_SHARE)
        )
        beaten.append(first[part] * n + second[part])
        near = (value > threshold) & ~cut[second] & (first < second)
        over.append((first[near], second[near], value[near]))
    first, second, value = (np.concatenate(part) for part in zip(*over, strict=True))
    order = np.lexsort((second, first, -value))
    matched = _partners(first[order], second[order], tile)
    for pair in np.sort(np.concatenate([matched, *beaten])).tolist():
        if alive[pair // n]:
            alive[pair % n] = False
    return alive


def _partners(first: Int64s, second: Int64s, tile: Int64s) -> Int64s:
    """`first` * N + `second` of the pairs in which each box has at most one partner a tile.

    Pairs come nearest first. Where neighbours overlap, a box's best counterpart may have a better
    one itself; the next best that is free is then its own.
    """
    n, tiles = len(tile), int(tile.max()) + 1
    there, here = first * tiles + tile[second], second * tiles + tile[first]
    taken = set[int]()
    kept = []
    for at, (one, other) in enumerate(zip(there.tolist(), here.tolist(), strict=True)):
        if one not in taken and other not in taken:
            taken.update((one, other))
            kept.append(at)
    return np.asarray(first[kept] * n + second[kept])


def _share(whole: npt.NDArray[np.float64], cut: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """(P,) how much of each box of `cut` (P, 4) lies in that of `whole` (P, 4)."""
    low = np.maximum(whole[:, :2], cut[:, :2])
    high = np.minimum(whole[:, 2:], cut[:, 2:])
    area = (cut[:, 2:] - cut[:, :2]).prod(axis=1)
    inner = np.clip(high - low, 0, None).prod(axis=1)
    return np.asarray(np.divide(inner, area, out=np.zeros_like(inner), where=area > 0))
