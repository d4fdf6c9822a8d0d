"""What a model is made of: one frozen config whose switches combine freely."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Integral
from typing import Any, Literal, get_args, get_type_hints

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


_LEVELS = {2, 3, 4, 5}
"""Pyramid levels that a backbone has for a head."""


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

    def __post_init__(self) -> None:
        """UsageError, which names the field and its value, for one outside what is allowed."""
        _check_choices(self, "sites", "rule")
        _check_whole(self, "grid")
        if self.kernel is not None and not (_is_whole(self.kernel) and self.kernel % 2):
            # An even one would leave a channel more or less than there are.
            raise UsageError(
                "MDCAConfig.kernel must be an odd whole number of 1 or more, or None for the ECA "
                f"rule, not {self.kernel!r}"
            )


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

    def __post_init__(self) -> None:
        """UsageError, which names the field and its value, for one outside what is allowed."""
        _check_choices(self, "init")
        _check_whole(self, "width")
        if not isinstance(self.light_head, bool):
            raise UsageError(
                f"PFDHConfig.light_head must be True or False, not {self.light_head!r}"
            )
        reduced = self.reduced
        if reduced is not None and not (
            isinstance(reduced, tuple) and all(map(_is_whole, reduced))
        ):
            raise UsageError(
                "PFDHConfig.reduced must be a tuple of whole numbers of 1 or more, one for each "
                f"level, or None for an eighth of the neck's, not {reduced!r}"
            )


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
        """UsageError, which names the field and its value, for one outside what is allowed."""
        _check_choices(self, "scale", "backbone", "arb")
        _check_whole(self, "num_classes")
        _check_levels(self.levels)
        if self.mdca is not None and not isinstance(self.mdca, MDCAConfig):
            raise UsageError(
                f"ModelConfig.mdca must be an MDCAConfig, or None to be off, not {self.mdca!r}"
            )
        if self.pfdh is not None and not isinstance(self.pfdh, PFDHConfig):
            raise UsageError(
                f"ModelConfig.pfdh must be a PFDHConfig, or None to be off, not {self.pfdh!r}"
            )
        reduced = None if self.pfdh is None else self.pfdh.reduced
        if reduced is not None and len(reduced) != len(self.levels):
            raise UsageError(
                f"PFDHConfig.reduced must have one number for each of the levels {self.levels}, "
                f"not {reduced}"
            )
        if self.class_width is not None:
            _check_whole(self, "class_width", also=", or None for YOLO11's rule")
            if self.pfdh is not None:
                raise UsageError(
                    f"ModelConfig.class_width ({self.class_width}) must not be given with pfdh, "
                    "whose own width holds: leave it None"
                )
        if self.backbone == "lite0" and self.arb != "none":
            raise UsageError(
                f"the lite0 backbone has no auxiliary branch: use arb='none', not {self.arb!r}"
            )

    @property
    def rule(self) -> ScaleRule:
        """Widths and depths of this scale."""
        return SCALES[self.scale]

    @property
    def strides(self) -> tuple[int, ...]:
        """Stride of each head level in pixels."""
        return tuple(2**level for level in self.levels)


def _is_whole(value: Any) -> bool:
    """Whether this is a whole number of 1 or more (numpy's too), and no True."""
    return not isinstance(value, bool) and isinstance(value, Integral) and int(value) >= 1


def _check_whole(config: Any, name: str, *, also: str = "") -> None:
    value = getattr(config, name)
    if not _is_whole(value):
        raise UsageError(
            f"{type(config).__name__}.{name} must be a whole number of 1 or more{also}, "
            f"not {value!r}"
        )


def _check_choices(config: Any, *names: str) -> None:
    """UsageError for a field of these with a value that its type does not list."""
    hints = get_type_hints(type(config))
    for name in names:
        value, allowed = getattr(config, name), get_args(hints[name])
        if not (isinstance(value, str) and value in allowed):
            raise UsageError(
                f"{type(config).__name__}.{name} must be one of {', '.join(allowed)}, not {value!r}"
            )


def _check_levels(levels: Any) -> None:
    sound = isinstance(levels, tuple) and len(levels) > 1 and all(map(_is_whole, levels))
    if not (sound and levels == tuple(range(levels[0], levels[-1] + 1)) and {*levels} <= _LEVELS):
        raise UsageError(
            "ModelConfig.levels must be a tuple of two or more consecutive numbers from 2 to 5, "
            f"such as (3, 4, 5), not {levels!r}"
        )
