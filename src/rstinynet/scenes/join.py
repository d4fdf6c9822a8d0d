"""Objects longer than the overlap of tiles: one box out of the pieces that the tiles saw."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import shapely

from rstinynet.detections import Detections
from rstinynet.suppress import overlap

CUT_PX = 2.0
"""A box that ends this close to a tile's inner edge counts as cut by it."""
ALONG_IOU = 0.5
"""Overlap of the extents along the seam above which two pieces are of one object."""

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Int64s = npt.NDArray[np.int64]


class Pieces(NamedTuple):
    """Boxes that end at an edge of their tile."""

    found: Detections
    tile: Int64s
    """(N,) number of the tile."""
    window: Floats
    """(N, 4) the tile, XYXY."""
    cut: Bools
    """(N, 4) whether the box ends at the tile's left, top, right, bottom edge."""


class Joined(NamedTuple):
    """What the pieces make up."""

    found: Detections
    """(G,) one box an object: the union of its pieces, with the best of their scores."""
    group: Int64s
    """(N,) the object of each piece; -1 for a piece that is a better one's duplicate."""


def join(pieces: Pieces, *, iou: float, share: float) -> Joined:
    """Objects made of `pieces`; the same whatever the order of the pieces.

    Two pieces are of one object where neighbouring tiles cut both at the seam they share, both
    reach across the strip that the tiles share, and their extents along the seam overlap by more
    than `ALONG_IOU`. Of objects of one class from other tiles, the one of fewer pieces or the
    worse falls where boxes overlap by more than `iou` or `share` of it lies in the other.
    """
    n = len(pieces.found)
    if not n:
        return Joined(pieces.found, np.zeros(0, np.int64))
    boxes = pieces.found.boxes.astype(np.float64)
    shapes = shapely.box(*boxes.T)
    first, second = shapely.STRtree(shapes).query(shapes)
    labels = pieces.found.labels
    rivals = (labels[first] == labels[second]) & (pieces.tile[first] != pieces.tile[second])
    first, second = first[rivals], second[rivals]
    one = np.zeros(len(first), bool)
    for axis in (0, 1):
        one |= _across(pieces, boxes, first, second, axis)
    group = _components(n, first[one], second[one])
    found, sizes = _united(pieces.found, group)
    order = np.lexsort((*found.boxes.T, -found.scores, -sizes))
    rank = np.argsort(order)
    found, group = found[order], rank[group]
    tiles = [set[int]() for _ in order]
    for at, tile in zip(group.tolist(), pieces.tile.tolist(), strict=True):
        tiles[at].add(tile)
    alive = _distinct(found, tiles, iou, share)
    number = np.where(alive, np.cumsum(alive) - 1, -1)
    return Joined(found[alive], number[group])


def _across(pieces: Pieces, boxes: Floats, first: Int64s, second: Int64s, axis: int) -> Bools:
    """(P,) whether `first` goes on in `second` to the right (axis 0) or below (axis 1)."""
    low, high, other = axis, axis + 2, 1 - axis
    tile_a, tile_b = pieces.window[first], pieces.window[second]
    a, b = boxes[first], boxes[second]
    shared = (tile_a[:, low] < tile_b[:, low]) & (tile_b[:, low] <= tile_a[:, high])
    shared &= tile_a[:, other] == tile_b[:, other]
    both = pieces.cut[first, high] & pieces.cut[second, low]
    reach = (a[:, low] <= tile_b[:, low] + 2 * CUT_PX) & (
        b[:, high] >= tile_a[:, high] - 2 * CUT_PX
    )
    inner = np.minimum(a[:, other + 2], b[:, other + 2]) - np.maximum(a[:, other], b[:, other])
    outer = np.maximum(a[:, other + 2], b[:, other + 2]) - np.minimum(a[:, other], b[:, other])
    return np.asarray(shared & both & reach & (inner > ALONG_IOU * outer))


def _components(n: int, first: Int64s, second: Int64s) -> Int64s:
    """(N,) number from 0 of the group of each, where pairs are of one group."""
    parent = list(range(n))

    def root(at: int) -> int:
        while parent[at] != at:
            parent[at] = parent[parent[at]]
            at = parent[at]
        return at

    for a, b in zip(first.tolist(), second.tolist(), strict=True):
        parent[root(a)] = root(b)
    return np.unique([root(at) for at in range(n)], return_inverse=True)[1].astype(np.int64)


def _united(found: Detections, group: Int64s) -> tuple[Detections, Int64s]:
    """The groups' boxes with their best scores, and (G,) how many pieces each has."""
    sizes = np.bincount(group)
    boxes = np.empty((len(sizes), 4), np.float32)
    boxes[:, :2], boxes[:, 2:] = np.inf, -np.inf
    scores = np.zeros(len(sizes), np.float32)
    labels = np.zeros(len(sizes), np.int64)
    np.minimum.at(boxes[:, :2], group, found.boxes[:, :2])
    np.maximum.at(boxes[:, 2:], group, found.boxes[:, 2:])
    np.maximum.at(scores, group, found.scores)
    labels[group] = found.labels
    return Detections(boxes, scores, labels), sizes


def _distinct(found: Detections, tiles: list[set[int]], iou: float, share: float) -> Bools:
    """(G,) which objects, in order of precedence, are not those of other tiles."""
    alive = np.ones(len(found), bool)
    boxes = found.boxes.astype(np.float64)
    shapes = shapely.box(*boxes.T)
    first, second = shapely.STRtree(shapes).query(shapes)
    rivals = (first < second) & (found.labels[first] == found.labels[second])
    first, second = first[rivals], second[rivals]
    smaller = boxes[second, 2:] - boxes[second, :2] <= boxes[first, 2:] - boxes[first, :2]
    within = smaller.all(axis=1) & (overlap(boxes[first], boxes[second], "ios") > share)
    same = within | (overlap(boxes[first], boxes[second]) > iou)
    for a, b in sorted(zip(first[same].tolist(), second[same].tolist(), strict=True)):
        if alive[a] and not tiles[a] & tiles[b]:
            alive[b] = False
    return alive
