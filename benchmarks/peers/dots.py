"""A stand-in for a detector, the same for every program compared: bright dots are the objects."""

from __future__ import annotations

import numpy as np

HALF = 3


def dots(image_hwc: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(N, 4) XYXY round every pixel of 255 in the first channel, and scores (N,) by the second."""
    y, x = np.nonzero(image_hwc[..., 0] == 255)
    height, width = image_hwc.shape[:2]
    boxes = np.stack([x - HALF, y - HALF, x + HALF + 1, y + HALF + 1], axis=1)
    boxes = boxes.clip(0, [width, height, width, height]).astype(np.float32)
    return boxes, (0.3 + image_hwc[y, x, 1] / 512).astype(np.float32)
