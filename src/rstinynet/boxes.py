"""Box algebra on the one internal format: float32 XYXY pixels, shape (N, 4)."""

from __future__ import annotations

import numpy as np

from rstinynet.detections import Float32Array


def area(boxes_xyxy: Float32Array) -> Float32Array:
    """(N,) area in square pixels; a box turned inside out has none."""
    sides = np.clip(boxes_xyxy[:, 2:] - boxes_xyxy[:, :2], 0, None)
    return np.asarray(sides[:, 0] * sides[:, 1], np.float32)


def clip(boxes_xyxy: Float32Array, *, width: float, height: float) -> Float32Array:
    """The boxes cut to an image of this size."""
    limit = np.array([width, height, width, height], np.float32)
    return np.asarray(np.clip(boxes_xyxy, 0, limit), np.float32)


def to_xywh(boxes_xyxy: Float32Array) -> Float32Array:
    """XYXY to COCO's left, top, width, height."""
    return np.concatenate([boxes_xyxy[:, :2], boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]], axis=1)


def from_xywh(boxes_xywh: Float32Array) -> Float32Array:
    """COCO's left, top, width, height to XYXY."""
    return np.concatenate([boxes_xywh[:, :2], boxes_xywh[:, :2] + boxes_xywh[:, 2:]], axis=1)


def pairwise_iou(first: Float32Array, second: Float32Array) -> Float32Array:
    """(N, M) intersection over union; 0 where both boxes are empty."""
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    sides = np.clip(high - low, 0, None)
    inner = sides[..., 0] * sides[..., 1]
    union = area(first)[:, None] + area(second)[None, :] - inner
    return np.asarray(np.divide(inner, union, out=np.zeros_like(inner), where=union > 0))
