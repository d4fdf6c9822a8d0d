"""Several teachers as one: a teacher's dense maps, corrected by what all of them agree on.

The mean of several models' raw maps is no better than the best of them, since one scores an object
at other anchors than the next. What they agree on of whole objects is: so the first one's anchors
keep their pattern around an object, and get the score and the box that all agree on.

Shape legend: A anchors of the shared levels, C classes, R bins of a side.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import shapely
from torch import Tensor

from rstinynet.agree import SAME_IOU
from rstinynet.detections import Detections
from rstinynet.model.decode import REG_MAX
from rstinynet.suppress import overlap

LEAST_SCORE = 0.001
"""An anchor or an object of a lower score is background, which needs no correction."""
OUTWARDS = np.array([-1, -1, 1, 1], np.float32)
"""Which way each coordinate of a box goes as its side grows."""

Floats = npt.NDArray[np.float32]
Int64s = npt.NDArray[np.int64]


def corrected(
    scores_AC: Floats, boxes_A4: Floats, strides_A: Floats, agreed: Detections
) -> tuple[Floats, Floats]:
    """The scores (A, C) of one image after correction, and by how much its sides grow (A, 4).

    An anchor belongs to the agreed object of its class that its box overlaps most, by more than
    `SAME_IOU`. The surest anchor of an object gets the object's score, and the others change in
    proportion. The sides, in units of the stride, go to the object of the anchor's surest class.
    What belongs to none stays. Boxes are in pixels of the image; objects that no anchor shows are
    lost.
    """
    scores, growth = scores_AC.copy(), np.zeros_like(boxes_A4)
    owned = []
    for label in range(scores.shape[1]):
        objects = agreed[agreed.labels == label]
        anchors = np.flatnonzero(scores_AC[:, label] > LEAST_SCORE)
        belongs, owner = _owners(boxes_A4[anchors], objects.boxes)
        anchors = anchors[belongs]
        own = scores_AC[anchors, label]
        surest = np.ones(len(objects), np.float32)
        surest[owner] = 0
        np.maximum.at(surest, owner, own)
        scores[anchors, label] = np.clip(own * (objects.scores / surest)[owner], 0, 1)
        owned.append((label, anchors, objects.boxes[owner]))
    # Only now: which class is the surest is known when all have their scores.
    for label, anchors, boxes in owned:
        first = scores[anchors].argmax(axis=1) == label
        anchors, moved = anchors[first], boxes[first] - boxes_A4[anchors[first]]
        growth[anchors] = moved * OUTWARDS / strides_A[anchors, None]
    return scores, growth


def _owners(boxes_A4: Floats, objects_N4: Floats) -> tuple[Int64s, Int64s]:
    """Which boxes overlap an object by more than `SAME_IOU`, and the one that each overlaps most.

    By an index: a crowd has thousands of both, and all pairs would take gigabytes.
    """
    boxes, objects = boxes_A4.astype(np.float64), objects_N4.astype(np.float64)
    at, other = shapely.STRtree(shapely.box(*objects.T)).query(shapely.box(*boxes.T))
    value = overlap(boxes[at], objects[other])
    near = value > SAME_IOU
    at, other, value = at[near], other[near], value[near]
    order = np.lexsort((other, -value, at))
    at, first = np.unique(at[order], return_index=True)
    return at, other[order][first]


def grown(sides: Tensor, growth: Tensor) -> Tensor:
    """Logits (..., A, 4·R) of the distributions, their expectations moved by `growth` (..., A, 4).

    Each goes to its neighbouring bins in part, so that it keeps its form; by one bin at most. What
    would go past the last bin stays in it.
    """
    bins = sides.reshape(*sides.shape[:-1], 4, REG_MAX).softmax(-1)
    share = growth.clamp(-1, 1).unsqueeze(-1)
    larger, smaller = bins.roll(1, -1), bins.roll(-1, -1)
    larger[..., 0], smaller[..., -1] = 0, 0
    larger[..., -1] += bins[..., -1]
    smaller[..., 0] += bins[..., 0]
    moved = (1 - share.abs()) * bins + share.clamp(min=0) * larger - share.clamp(max=0) * smaller
    # A bin without any share would have a logit of minus infinity.
    return (moved + 1e-9).log().flatten(-2)
