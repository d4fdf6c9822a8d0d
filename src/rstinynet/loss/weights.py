"""How much each class counts in the class loss."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from rstinynet.errors import UsageError
from rstinynet.loss.settings import LossSettings

_POWERS = {"inverse": 1.0, "inverse_sqrt": 0.5}


def class_weights(
    settings: LossSettings, num_classes: int, *, boxes: Sequence[int] | None = None
) -> Tensor | None:
    """(C,) float32 weights of the classes, or None where all are equal.

    Args:
        settings: `class_weights` and `class_weight_limit`.
        num_classes: C.
        boxes: each class's number of training boxes. A class without any is weighted like one
            with a single box.

    By number: (most / number)^power, at most the limit, divided by the mean over all boxes. So
    the rarest class counts at most `limit` times the commonest, however rare, and the class loss
    keeps its size.

    Raises:
        UsageError: a list is not of C finite weights from 0 up, one of them more than 0; or the
            numbers are needed and not given.
    """
    chosen = settings.class_weights
    if isinstance(chosen, tuple):
        fit = all(math.isfinite(weight) and weight >= 0 for weight in chosen)
        if len(chosen) != num_classes or not fit or not any(chosen):
            raise UsageError(
                f"LossSettings.class_weights must be {num_classes} numbers from 0 up, one for each "
                f"class and not all 0, got {chosen}."
            )
        return torch.tensor(chosen, dtype=torch.float32)
    if chosen == "equal":
        return None
    if boxes is None or len(boxes) != num_classes:
        raise UsageError(
            f"LossSettings.class_weights={chosen!r} needs the number of training boxes of each of "
            f"{num_classes} classes, got {boxes}."
        )
    number = torch.tensor(boxes, dtype=torch.float64)
    raw = (number.max().clamp(min=1) / number.clamp(min=1)) ** _POWERS[chosen]
    raw = raw.clamp(max=settings.class_weight_limit)
    mean = (raw * number).sum() / number.sum() if number.sum() else raw.mean()
    return (raw / mean).float()
