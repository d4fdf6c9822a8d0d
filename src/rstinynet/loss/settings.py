"""Every number of the loss, in one place."""

from __future__ import annotations

import math
from dataclasses import dataclass

from rstinynet.errors import UsageError


@dataclass(frozen=True, kw_only=True, slots=True)
class LossSettings:
    """YOLO11's loss with the fixes that tiny boxes need switched on; `yolo11()` has them off."""

    box_gain: float = 7.5
    """Weight of the box overlap term."""
    cls_gain: float = 0.5
    """Weight of the class term."""
    dfl_gain: float = 1.5
    """Weight of the distribution focal term."""
    topk: int = 10
    """Anchors a box may have at most."""
    alpha: float = 0.5
    """Power of the class score in the alignment metric (TOOD, equation 3)."""
    beta: float = 6.0
    """Power of the overlap in the alignment metric."""
    min_candidate_px: float = 8.0
    """Sides below this many pixels are enlarged to it when anchors are looked for; 0 = never."""
    nearest_fallback: bool = True
    """A box that holds no anchor centre at all gets the nearest one of every level."""
    score_floor: float = 0.1
    """Least target score of a box's best anchor. Where it is 0, a box that no prediction overlaps
    teaches nothing, and tiny boxes are such boxes for long."""
    exclusive_classes: bool = False
    """A labelled object is of no other class, also of none that is unknown on its image. For sets
    merged of parts that label one class each, whose classes do not overlap in meaning."""
    nwd_weight: float = 0.5
    """Share of the normalised Wasserstein distance in an overlap; the rest is CIoU. 0 = off."""
    nwd_constant: float = 12.8
    """C of the normalised Wasserstein distance in pixels: the typical object's side."""
    nwd_in_metric: bool = True
    """Mix it into the overlap that assigns anchors."""
    nwd_in_loss: bool = True
    """Mix it into the box loss."""

    def __post_init__(self) -> None:
        for name in (
            "box_gain", "cls_gain", "dfl_gain", "alpha", "beta", "min_candidate_px"
        ):  # fmt: skip
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise UsageError(f"LossSettings.{name} must be a number from 0 up, got {value}.")
        for name in ("score_floor", "nwd_weight"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise UsageError(f"LossSettings.{name} must lie between 0 and 1, got {value}.")
        if self.topk < 1:
            raise UsageError(f"LossSettings.topk must be at least 1, got {self.topk}.")
        if not self.nwd_constant > 0:
            raise UsageError(
                f"LossSettings.nwd_constant must be more than 0 pixels, got {self.nwd_constant}; "
                "use the mean object side of the data."
            )

    @classmethod
    def yolo11(cls) -> LossSettings:
        """The baseline: no fix for tiny boxes."""
        return cls(min_candidate_px=0, nearest_fallback=False, score_floor=0, nwd_weight=0)

    @property
    def metric_nwd(self) -> float:
        """Share of the Wasserstein distance in the assignment."""
        return self.nwd_weight if self.nwd_in_metric else 0.0

    @property
    def loss_nwd(self) -> float:
        """Share of the Wasserstein distance in the box loss."""
        return self.nwd_weight if self.nwd_in_loss else 0.0
