"""Pixels with the objects in them, and what a cut leaves of an object.

What is left is either kept as an object or, by the settings, becomes a region to ignore or is
dropped; either way it is counted. Ultralytics drops such boxes unseen, and users lose tiny labels
that way (ultralytics#1960, yolov5#2442).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass, replace

import numpy as np
import numpy.typing as npt

from rstinynet.boxes import area
from rstinynet.data.annotations import BoolArray
from rstinynet.data.augment_settings import AugmentSettings
from rstinynet.data.image import RgbArray
from rstinynet.detections import Float32Array, Int64Array


@dataclass(frozen=True, slots=True)
class AugmentCounts:
    """What became of the objects that a sample's windows touch."""

    kept: int = 0
    cut: int = 0
    """Less than `min_visibility` was left: ignored, or dropped under `cut_boxes="drop"`."""
    small: int = 0
    """A side fell below `min_box_px`: likewise."""
    pasted: int = 0
    """Objects of other images that were added."""

    def __add__(self, other: AugmentCounts) -> AugmentCounts:
        pairs = zip(astuple(self), astuple(other), strict=True)
        return AugmentCounts(*(one + another for one, another in pairs))


@dataclass(frozen=True, slots=True)
class Piece:
    """Pixels with the objects in them."""

    image: RgbArray
    """(H, W, 3) uint8 RGB."""
    boxes: Float32Array
    """(N, 4) XYXY pixels of `image`, objects and crowds alike."""
    labels: Int64Array
    """(N,)"""
    crowd: BoolArray
    """(N,) true for regions to ignore."""

    def moved(self, x: int, y: int) -> Piece:
        """The same objects, their boxes moved by (x, y) pixels."""
        return replace(self, boxes=self.boxes + np.array([x, y, x, y], np.float32))


def joined(image: RgbArray, parts: Sequence[Piece]) -> Piece:
    """`image` with the objects of all `parts`, whose boxes already count its pixels."""
    if not parts:
        nothing = np.zeros(0, np.int64)
        return Piece(image, np.zeros((0, 4), np.float32), nothing, nothing.astype(np.bool_))
    return Piece(
        image,
        np.concatenate([part.boxes for part in parts]),
        np.concatenate([part.labels for part in parts]),
        np.concatenate([part.crowd for part in parts]),
    )


def surviving(
    image: RgbArray, whole: Piece, boxes: npt.NDArray[np.floating], settings: AugmentSettings
) -> tuple[Piece, AugmentCounts]:
    """`whole`'s objects in `image`, where its boxes have become `boxes` (N, 4), cut to the image.

    Objects of which nothing is in the image are not its objects, and are left out uncounted.
    """
    height, width = image.shape[:2]
    limit = np.array([width, height, width, height], np.float32)
    shown = np.asarray(np.clip(boxes, 0, limit), np.float32)
    sides = shown[:, 2:] - shown[:, :2]
    touched = (sides > 0).all(axis=1)
    shown, sides, was_crowd = shown[touched], sides[touched], whole.crowd[touched]
    hidden = area(shown) < settings.min_visibility * area(boxes[touched].astype(np.float32))
    small = sides.min(axis=1, initial=np.inf) < settings.min_box_px
    lost = np.asarray(hidden | small, np.bool_) & ~was_crowd
    counts = AugmentCounts(
        kept=int((~lost & ~was_crowd).sum()),
        cut=int((hidden & ~was_crowd).sum()),
        small=int((small & ~hidden & ~was_crowd).sum()),
    )
    labels, crowd = whole.labels[touched], np.asarray(was_crowd | lost, np.bool_)
    if settings.cut_boxes == "drop":
        return Piece(image, shown[~lost], labels[~lost], crowd[~lost]), counts
    return Piece(image, shown, labels, crowd), counts
