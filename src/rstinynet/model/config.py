"""What a model is made of: one frozen config whose switches combine freely."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from rstinynet.errors import UsageError

Scale = Literal["n", "s", "m", "l", "x"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ScaleRule:
    """YOLO11's compound scaling."""

    depth: float
    width: float
    max_channels: int

    def channels(self, base: int) -> int:
        """Width of a layer: min(base, max)·width, rounded up to a multiple of 8."""
        return math.ceil(min(base, self.max_channels) * self.width / 8) * 8

    def repeats(self, base: int) -> int:
        """Number of chained blocks, at least one."""
        return max(round(base * self.depth), 1)


SCALES: dict[Scale, ScaleRule] = {
    "n": ScaleRule(depth=0.5, width=0.25, max_channels=1024),
    "s": ScaleRule(depth=0.5, width=0.5, max_channels=1024),
    "m": ScaleRule(depth=0.5, width=1.0, max_channels=512),
    "l": ScaleRule(depth=1.0, width=1.0, max_channels=512),
    "x": ScaleRule(depth=1.0, width=1.5, max_channels=512),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class MDCAConfig:
    """Multi-dimensional collaborative attention (model/mdca.py)."""

    sites: Literal["all", "finest"] = "all"
    """After every neck output that feeds the head, or after the finest only."""
    kernel: int | None = None
    """Size of the channel convolution; None: the ECA rule."""
    rule: Literal["sum", "product"] = "sum"
    """How the two attentions meet the input: X·(A_c + A_s) or X·A_c·A_s."""
    grid: int = 5
    """Side of the local-context grid."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PFDHConfig:
    """Progressive fusion detection head (model/pfdh.py)."""

    width: int = 64
    """Channels of every level after fusion."""
    reduced: tuple[int, ...] | None = None
    """Channels inside the fusion, by level; None: an eighth of the neck's (as published)."""
    light_head: bool = False
    """Box branch of depthwise and 1x1 convolutions, class branch no wider than `width`."""
    init: Literal["xavier", "torch"] = "xavier"
    """Weights that the fusion starts from: Xavier with gain .02 (as published), or torch's own,
    ten times as large and more."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """One model. The paper's modules are switches; None or "none" is off."""

    scale: Scale
    num_classes: int
    backbone: Literal["yolo11", "lite0"] = "yolo11"
    levels: tuple[int, ...] = (3, 4, 5)
    """Pyramid levels with a head; level L has stride 2^L."""
    mdca: MDCAConfig | None = None
    arb: Literal["none", "dual", "pgi"] = "none"
    """Auxiliary reversible branch: published dual backbone, or the form dropped after training."""
    pfdh: PFDHConfig | None = None
    class_width: int | None = None
    """Channels of the class branches; None: YOLO11's rule, the finest level's width (and no fewer
    than classes, up to 100). With level 2 that is half of YOLO11's without it. Not with PFDH.
    """

    def __post_init__(self) -> None:
        consecutive = tuple(range(self.levels[0], self.levels[-1] + 1)) if self.levels else ()
        if self.levels != consecutive or not {*self.levels} <= {2, 3, 4, 5} or len(self.levels) < 2:
            raise UsageError(
                f"levels must be two or more consecutive numbers from 2 to 5, not {self.levels}"
            )
        if self.num_classes < 1:
            raise UsageError(f"num_classes must be 1 or more, not {self.num_classes}")
        if self.class_width is not None and (self.class_width < 1 or self.pfdh is not None):
            raise UsageError(
                f"class_width must be 1 or more, and not be given with pfdh, not {self.class_width}"
            )
        if self.backbone == "lite0" and self.arb != "none":
            raise UsageError("the lite0 backbone has no auxiliary branch: use arb='none'")

    @property
    def rule(self) -> ScaleRule:
        """Widths and depths of this scale."""
        return SCALES[self.scale]

    @property
    def strides(self) -> tuple[int, ...]:
        """Stride of each head level in pixels."""
        return tuple(2**level for level in self.levels)
