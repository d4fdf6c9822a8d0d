"""Test-time augmentation: one image searched in several views (`agree` joins what they show).

Seen from above, nothing is upright: a flip or a quarter turn shows the same objects as well as the
image itself does, and what only one view shows is mostly no object.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from rstinynet.detections import Float32Array
from rstinynet.errors import UsageError

VIEWS = (1, 2, 4, 8)
"""How many views there can be: the image; its mirror image; both ways; all, also turned."""
MOST_SCALE = 16
"""Most by which a search enlarges an image, and a scene is enlarged in reading."""
LEAST_SCALE = 0.01
"""Least factor that an option takes: of a tile, less leaves a few pixels."""

Image = npt.NDArray[np.uint8]


def check_views(count: int) -> None:
    """UsageError unless there are so many views."""
    if count not in VIEWS:
        raise UsageError(f"tta must be 1, 2, 4 or 8 views, not {count}")


def scales_of(scale: float | Sequence[float]) -> tuple[float, ...]:
    """The resize factors, one or several. UsageError for none, or one that makes no sense."""
    try:
        found = tuple(float(s) for s in scale) if isinstance(scale, Iterable) else (float(scale),)
    except (TypeError, ValueError):
        found = ()
    if not found or not all(0 < one <= MOST_SCALE for one in found) or len(set(found)) < len(found):
        raise UsageError(
            f"scale must be over 0 and at most {MOST_SCALE}, or several such that differ, not "
            f"{scale}"
        )
    return found


def parse_scales(text: str) -> tuple[float, ...]:
    """Resize factors from `1.5` or `1,1.5`. UsageError for anything else."""
    try:
        factors = [float(part) for part in text.split(",")]
    except ValueError as error:
        raise UsageError(
            f"--scale takes a factor, or several separated by commas, not {text!r}"
        ) from error
    found = scales_of(factors)
    if min(found) < LEAST_SCALE:
        raise UsageError(
            f"--scale must be from {LEAST_SCALE} to {MOST_SCALE}, not {text!r}: less leaves "
            "nothing of a tile to see"
        )
    return found


def seen(image_HWC: Image, view: int) -> Image:
    """The image (H, W, C) in one of the eight views; those from 4 on are (W, H, C)."""
    flipped = image_HWC[:: -1 if view & 2 else 1, :: -1 if view & 1 else 1]
    return np.ascontiguousarray(flipped.transpose(1, 0, 2) if view & 4 else flipped)


def unseen(boxes_xyxy: Float32Array, view: int, *, width: int, height: int) -> Float32Array:
    """Boxes (N, 4) of a view in the pixels of the image, which is `width` by `height`."""
    x0, y0, x1, y1 = boxes_xyxy[:, [1, 0, 3, 2]].T if view & 4 else boxes_xyxy.T
    if view & 1:
        x0, x1 = width - x1, width - x0
    if view & 2:
        y0, y1 = height - y1, height - y0
    return np.stack([x0, y0, x1, y1], axis=1).astype(np.float32)
