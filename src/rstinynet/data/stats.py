"""Counting the objects of a labelled set: by class, by size, and by the anchors they get."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rstinynet.data.annotations import BoolArray, LabelledSet
from rstinynet.detections import Float32Array

SIDES_PX = (0, 2, 4, 6, 8, 12, 16, 24, 32, 64, 128)
"""Lower limits of the histogram's bins, by the square root of a box's area."""

SIZES = {"very tiny": 0.0, "tiny": 8.0**2, "small": 16.0**2, "medium": 32.0**2}
"""AI-TOD's sizes by the annotation's own area; a limit counts to the size below it."""

LEVELS = {"P3-P5": (8, 16, 32), "P2-P5": (4, 8, 16, 32), "P2-P4": (4, 8, 16)}
"""Strides of the named models' detection levels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """Counts over one split; crowd regions are not objects."""

    images: int
    empty_images: int
    boxes: int
    crowds: int
    classes: dict[str, int]
    sizes: dict[str, int]
    class_sizes: dict[str, dict[str, int]]
    sides_px: dict[str, int]
    no_anchor: dict[str, float]
    """Share of boxes without an anchor's centre strictly inside, by level set."""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def count(
    labelled: LabelledSet,
    *,
    scale: float = 1.0,
    levels: Mapping[str, Sequence[int]] = LEVELS,
) -> Stats:
    """The counts of a split; anchors of `levels` are placed on images resized by `scale`."""
    objects = [~image.crowd for image in labelled.images]
    boxes = _joined([image.boxes[own] for image, own in zip(labelled.images, objects, strict=True)])
    labels = np.concatenate(
        [np.zeros(0, np.int64)]
        + [image.labels[own] for image, own in zip(labelled.images, objects, strict=True)]
    )
    areas = np.concatenate(
        [np.zeros(0)]
        + [image.areas[own] for image, own in zip(labelled.images, objects, strict=True)]
    )
    sizes = size_of(areas)
    names = labelled.names
    return Stats(
        images=len(labelled),
        empty_images=sum(not own.any() for own in objects),
        boxes=len(boxes),
        crowds=sum(int(image.crowd.sum()) for image in labelled.images),
        classes={name: int((labels == at).sum()) for at, name in enumerate(names)},
        sizes=_by_size(sizes),
        class_sizes={name: _by_size(sizes[labels == at]) for at, name in enumerate(names)},
        sides_px=histogram(boxes),
        no_anchor=without_anchor(boxes * np.float32(scale), levels),
    )


def boxes_by_class(labelled: LabelledSet) -> list[int]:
    """Number of objects of each class, crowd regions left out."""
    total = np.zeros(len(labelled.categories), np.int64)
    for image in labelled.images:
        total += np.bincount(image.labels[~image.crowd], minlength=len(total))
    return [int(count) for count in total]


def size_of(areas: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """(N,) index into `SIZES` of areas in square pixels."""
    return np.searchsorted(list(SIZES.values())[1:], areas, side="left").astype(np.int64)


def _by_size(sizes: npt.NDArray[np.int64]) -> dict[str, int]:
    return {name: int((sizes == at).sum()) for at, name in enumerate(SIZES)}


def histogram(boxes_xyxy: Float32Array) -> dict[str, int]:
    """Number of boxes by side (square root of the area), keys like "4-6" and "128+"."""
    sides = np.sqrt(np.prod(np.clip(boxes_xyxy[:, 2:] - boxes_xyxy[:, :2], 0, None), axis=1))
    at = np.searchsorted(SIDES_PX, sides, side="right") - 1
    upper: Sequence[int | None] = (*SIDES_PX[1:], None)
    names = [f"{a}+" if b is None else f"{a}-{b}" for a, b in zip(SIDES_PX, upper, strict=True)]
    return {name: int((at == n).sum()) for n, name in enumerate(names)}


def has_anchor(boxes_xyxy: Float32Array, stride: int) -> BoolArray:
    """(N,) whether an anchor's centre, (i + 1/2) x stride, lies strictly inside each box."""
    first = np.floor(boxes_xyxy[:, :2] / stride - 0.5) + 1
    return np.asarray(((first + 0.5) * stride < boxes_xyxy[:, 2:]).all(axis=1), np.bool_)


def without_anchor(
    boxes_xyxy: Float32Array, levels: Mapping[str, Sequence[int]] = LEVELS
) -> dict[str, float]:
    """Share of boxes that no anchor of a level set lies in: YOLO's assigner cannot teach them."""
    if not len(boxes_xyxy):
        return dict.fromkeys(levels, 0.0)
    found = {stride: has_anchor(boxes_xyxy, stride) for each in levels.values() for stride in each}
    return {
        name: float(1 - np.any([found[stride] for stride in strides], axis=0).mean())
        for name, strides in levels.items()
    }


def _joined(boxes: list[Float32Array]) -> Float32Array:
    return np.concatenate([np.zeros((0, 4), np.float32), *boxes])
