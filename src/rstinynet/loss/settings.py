"""Every number of the loss, in one place."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from rstinynet.errors import UsageError

CHOICES: dict[str, tuple[str, ...]] = {
    "metric": ("overlap", "simd"),
    "candidates": ("inside", "receptive_field"),
    "box_loss": ("ciou", "giou"),
    "cls_loss": ("bce", "varifocal"),
    "class_weights": ("equal", "inverse", "inverse_sqrt"),
}


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
    metric: Literal["overlap", "simd"] = "overlap"
    """What compares a predicted with a true box in the assignment: the overlap above, or the
    similarity distance (SimD: Shi et al., arXiv:2407.02394, 2024)."""
    simd_scale: tuple[float, float] | None = None
    """SimD's m and n: larger is stricter. None: taken from the training set when a run starts, as
    in the paper: the mean |offset| / (summed sides) over all pairs of a box and an anchor of an
    image, such as 267 / (13 + 32) for boxes of 13 px among anchors of 32 px on tiles of 800 px."""
    candidates: Literal["inside", "receptive_field"] = "inside"
    """Anchors that may stand for a box: those inside it, or those whose receptive field is most
    like it (RFLA: Xu et al., ECCV 2022). The latter knows no minimum candidate size."""
    field_strides: float = 5.0
    """Side of an anchor's effective receptive field, in strides of its level."""
    field_topk: int = 3
    """Candidates by receptive field of a box, besides one more at `field_decay`."""
    field_decay: float = 0.9
    """Factor on the fields when the last candidate is looked for."""
    box_loss: Literal["ciou", "giou"] = "ciou"
    """Overlap in the box loss (GIoU: Rezatofighi et al., CVPR 2019)."""
    cls_loss: Literal["bce", "varifocal"] = "bce"
    """Class loss (varifocal: Zhang et al., CVPR 2021)."""
    varifocal_alpha: float = 0.75
    """Weight of the background in the varifocal loss."""
    varifocal_gamma: float = 2.0
    """Power of the score there."""
    class_weights: Literal["equal", "inverse", "inverse_sqrt"] | tuple[float, ...] = "equal"
    """Weight of each class in the class loss: a list, or by one over the class's number of training
    boxes, or over its root. The mean over all training boxes is then 1."""
    class_weight_limit: float = 10.0
    """Most times that a rare class counts more than the commonest, where weights are by number."""

    def __post_init__(self) -> None:
        for name in (
            "box_gain", "cls_gain", "dfl_gain", "alpha", "beta", "min_candidate_px",
            "varifocal_alpha", "varifocal_gamma",
        ):  # fmt: skip
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise UsageError(f"LossSettings.{name} must be a number from 0 up, got {value}.")
        for name in ("score_floor", "nwd_weight", "field_decay"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise UsageError(f"LossSettings.{name} must lie between 0 and 1, got {value}.")
        for name in ("topk", "field_topk"):
            if getattr(self, name) < 1:
                raise UsageError(
                    f"LossSettings.{name} must be at least 1, got {getattr(self, name)}."
                )
        for name in ("field_strides", "field_decay"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise UsageError(
                    f"LossSettings.{name} must be more than 0, got {getattr(self, name)}."
                )
        scale = self.simd_scale
        if scale is not None and not (len(scale) == 2 and all(0 < x < math.inf for x in scale)):
            raise UsageError(
                f"LossSettings.simd_scale must be two numbers over 0, got {self.simd_scale}."
            )
        for name, allowed in CHOICES.items():
            value = getattr(self, name)
            if not isinstance(value, tuple) and value not in allowed:
                raise UsageError(
                    f"LossSettings.{name} must be {' or '.join(allowed)}, got {value!r}."
                )
        if not 1 <= self.class_weight_limit < math.inf:
            raise UsageError(
                "LossSettings.class_weight_limit must be a number from 1 up, got "
                f"{self.class_weight_limit}."
            )
        if not 0 < self.nwd_constant < math.inf:
            raise UsageError(
                "LossSettings.nwd_constant must be a number of pixels over 0, got "
                f"{self.nwd_constant}; use the mean object side of the data."
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
    def simd_units(self) -> tuple[float, float]:
        """SimD's m and n; UsageError where they have neither been given nor measured."""
        if self.simd_scale is None:
            raise UsageError(
                "LossSettings.simd_scale must be two numbers where metric is simd: training takes "
                "them from its data; elsewhere give them, such as (6, 6)."
            )
        return self.simd_scale

    @property
    def loss_nwd(self) -> float:
        """Share of the Wasserstein distance in the box loss."""
        return self.nwd_weight if self.nwd_in_loss else 0.0
