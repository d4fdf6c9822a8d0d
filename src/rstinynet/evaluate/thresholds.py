"""The confidence of each class at which precision and recall are best balanced (largest F1).

A class of which nothing right was found has no such point and gets `DEFAULT_CONF`.

Matching is COCO's at one IoU: detections by falling score take the unmatched object they overlap
most. Classes that an image does not know, and detections on regions to ignore, count neither way.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rstinynet.boxes import area, pairwise_iou
from rstinynet.data.annotations import LabelledImage, LabelledSet
from rstinynet.detections import Detections, Float32Array

DEFAULT_CONF = 0.25
"""Confidence of a class of which nothing right was found, which has no best working point."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Threshold:
    """The best working point of one class."""

    conf: float
    """Detections that score more than this are kept, as the detector does: the next number below
    the score of the last one kept. `DEFAULT_CONF` where nothing right was found."""
    precision: float
    recall: float

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall."""
        both = self.precision + self.recall
        return 2 * self.precision * self.recall / both if both else 0.0


def best_thresholds(
    labelled: LabelledSet,
    found: Mapping[int, Detections],
    *,
    iou: float = 0.5,
    slack: float = 0.0,
) -> list[Threshold]:
    """One threshold a class of `labelled`, from detections by image id with its labels.

    With `slack`, the lowest one at which F1 is at least (1 - slack) of the largest: F1 is flat
    around its top, and there a lower threshold finds more.
    """
    labels = range(len(labelled.names))
    return [_best(*judged(labelled, found, label, iou), slack) for label in labels]


def judged(
    labelled: LabelledSet, found: Mapping[int, Detections], label: int, iou: float
) -> tuple[Float32Array, npt.NDArray[np.bool_], int]:
    """Scores (N,) of a class's detections that count, whether each is right (N,), and the number
    of its objects."""
    scores = [np.zeros(0, np.float32)]
    right = [np.zeros(0, np.bool_)]
    objects = 0
    for image in labelled.images:
        mine = image.labels == label
        if not (image.known[label] and image.exhaustive[label]):
            continue
        objects += int((mine & ~image.crowd).sum())
        detections = found.get(image.id, Detections.empty())
        detections = detections[detections.labels == label].sorted_by_score()
        verdict, counts = _judge(detections.boxes, image, mine, iou)
        scores.append(detections.scores[counts])
        right.append(verdict[counts])
    return np.concatenate(scores), np.concatenate(right), objects


def _judge(
    boxes: Float32Array, image: LabelledImage, mine: npt.NDArray[np.bool_], iou: float
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """(N,) whether each box is right, and (N,) whether it counts at all."""
    verdict = np.zeros(len(boxes), np.bool_)
    overlaps = pairwise_iou(boxes, image.boxes[mine & ~image.crowd])
    for i in range(len(boxes) if overlaps.size else 0):
        best = int(overlaps[i].argmax())
        if overlaps[i, best] >= iou:
            verdict[i] = True
            overlaps[:, best] = -1
    counts = np.ones(len(boxes), np.bool_)
    crowd = image.boxes[mine & image.crowd]
    if len(crowd) and len(boxes):
        low = np.maximum(boxes[:, None, :2], crowd[None, :, :2])
        high = np.minimum(boxes[:, None, 2:], crowd[None, :, 2:])
        inside = np.clip(high - low, 0, None).prod(axis=2).max(axis=1)
        counts = verdict | (inside < iou * np.maximum(area(boxes), 1e-9))
    return verdict, counts


def _best(score: Float32Array, hit: npt.NDArray[np.bool_], objects: int, slack: float) -> Threshold:
    order = np.argsort(-score, kind="stable")
    hits = np.cumsum(hit[order])
    if not objects or not len(hits) or not hits[-1]:
        return Threshold(conf=DEFAULT_CONF, precision=0.0, recall=0.0)
    f1 = 2 * hits / (np.arange(1, len(hits) + 1) + objects)
    # A threshold keeps all detections of one score or none.
    ranked = score[order]
    f1[:-1][ranked[1:] == ranked[:-1]] = -1.0
    at = int(f1.argmax()) if not slack else int(np.flatnonzero(f1 >= (1 - slack) * f1.max())[-1])
    return Threshold(
        conf=float(np.nextafter(score[order[at]], np.float32(-np.inf))),
        precision=float(hits[at] / (at + 1)),
        recall=float(hits[at] / objects),
    )
