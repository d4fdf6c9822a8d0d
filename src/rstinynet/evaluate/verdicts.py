"""What became of each box on one image: hit, missed, false, or not judged.

COCO's matching at one IoU, after a confidence has been chosen: by falling score a detection takes
the free object of its class that it overlaps most. On partly labelled images (LVIS) a detection of
an unknown class, an unmatched one of a class not exhaustively labelled, and one in a crowd region
are not judged.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from rstinynet.boxes import area, pairwise_iou
from rstinynet.data.annotations import BoolArray, LabelledImage, LabelledSet
from rstinynet.detections import Detections

IOU = 0.5
"""Least overlap of a hit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdicts:
    """One image's outcome at one confidence."""

    detections: Detections
    """Those that were judged, best first."""
    hit: BoolArray
    """(N,) true for a hit, false for a false alarm."""
    found: BoolArray
    """(M,) objects of the image that were hit; crowd regions never are."""
    counted: BoolArray
    """(M,) objects that are to be found: all but crowd regions."""

    @property
    def hits(self) -> int:
        """Objects found."""
        return int(self.hit.sum())

    @property
    def false_alarms(self) -> int:
        """Detections where no object is."""
        return int((~self.hit).sum())

    @property
    def missed(self) -> int:
        """Objects not found."""
        return int((self.counted & ~self.found).sum())


def judge(image: LabelledImage, detections: Detections, *, iou: float = IOU) -> Verdicts:
    """The outcome of `detections`, with the labels of the image's set, on `image`."""
    detections = detections.sorted_by_score()
    hit = np.zeros(len(detections), np.bool_)
    judged = np.ones(len(detections), np.bool_)
    found = np.zeros(len(image.boxes), np.bool_)
    known = image.known.copy()
    known[image.labels] = True
    for label in np.unique(detections.labels).tolist():
        mine = np.flatnonzero(detections.labels == label)
        boxes = detections.boxes[mine]
        objects = np.flatnonzero((image.labels == label) & ~image.crowd)
        overlaps = pairwise_iou(boxes, image.boxes[objects])
        for row, at in enumerate(mine.tolist() if len(objects) else []):
            best = int(overlaps[row].argmax())
            if overlaps[row, best] >= iou:
                hit[at] = found[objects[best]] = True
                overlaps[:, best] = -1
        regions = image.boxes[(image.labels == label) & image.crowd]
        if not (known[label] and image.exhaustive[label]):
            judged[mine] = hit[mine]
        elif len(regions):
            low = np.maximum(boxes[:, None, :2], regions[None, :, :2])
            high = np.minimum(boxes[:, None, 2:], regions[None, :, 2:])
            inside = np.clip(high - low, 0, None).prod(axis=2).max(axis=1)
            judged[mine] = hit[mine] | (inside < iou * np.maximum(area(boxes), 1e-9))
    return Verdicts(
        detections=detections[judged], hit=hit[judged], found=found, counted=~image.crowd
    )


def judge_all(
    labelled: LabelledSet, found: Mapping[int, Detections], *, iou: float = IOU
) -> dict[int, Verdicts]:
    """The outcome on every image of `labelled`, by image id."""
    return {
        image.id: judge(image, found.get(image.id, Detections.empty()), iou=iou)
        for image in labelled.images
    }
