"""Composition of backbone, neck, attention, fusion and head: the network and nothing else."""

from __future__ import annotations

import copy
from typing import NamedTuple

from torch import Tensor, nn

from rstinynet.errors import UsageError
from rstinynet.model.arb import AuxiliaryBranch, DualBackbone
from rstinynet.model.backbone import Backbone, Pyramid
from rstinynet.model.config import ModelConfig
from rstinynet.model.head import Head
from rstinynet.model.layers import fuse
from rstinynet.model.lite0 import Lite0Backbone
from rstinynet.model.mdca import MDCA
from rstinynet.model.neck import Neck
from rstinynet.model.pfdh import ProgressiveFusion

_FUSED_HEAD = (64, 128)
"""Box and class widths of the heads behind PFDH (spec: c2 = 64, c3 = 128)."""


class RawMaps(NamedTuple):
    """Raw maps by level, finest first; each (B, 64 + C, H, W). See decode.py."""

    main: list[Tensor]
    auxiliary: list[Tensor] | None
    """Only in training, and only where the model has an auxiliary branch."""


class DetectorModel(nn.Module):
    """The network of one `ModelConfig`.

    Input (B, 3, H, W) in [0, 1], H and W multiples of `size_divisor`; output `RawMaps`.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.strides = config.strides
        self.num_classes = config.num_classes
        self.size_divisor = 32
        self.backbone: Backbone | DualBackbone | Lite0Backbone
        if config.backbone == "lite0":
            self.backbone = Lite0Backbone()
        elif config.arb == "dual":
            self.backbone = DualBackbone(config.scale)
        else:
            self.backbone = Backbone(config.scale)
        self.neck = Neck(config.scale, self.backbone.channels, config.levels)
        channels = self.neck.channels
        self.attention = nn.ModuleDict()
        if config.mdca is not None:
            sites = config.levels if config.mdca.sites == "all" else config.levels[:1]
            for level, width in zip(config.levels, channels, strict=True):
                if level in sites:
                    self.attention[str(level)] = MDCA(
                        width,
                        kernel=config.mdca.kernel,
                        rule=config.mdca.rule,
                        grid=config.mdca.grid,
                    )
        self.fusion: ProgressiveFusion | None = None
        if config.pfdh is None:
            self.head = Head(
                channels, config.strides, config.num_classes, class_width=config.class_width
            )
        else:
            width, light = config.pfdh.width, config.pfdh.light_head
            self.fusion = ProgressiveFusion(
                channels, width=width, reduced=config.pfdh.reduced, init=config.pfdh.init
            )
            self.head = Head(
                [width] * len(channels),
                config.strides,
                config.num_classes,
                box_width=_FUSED_HEAD[0],
                class_width=width if light else _FUSED_HEAD[1],
                light=light,
            )
        self.auxiliary_branch: AuxiliaryBranch | None = None
        self.auxiliary_head: Head | None = None
        if config.arb != "none":
            assert not isinstance(self.backbone, Lite0Backbone)
            trunk = self.backbone.trunk
            if config.arb == "pgi":
                self.auxiliary_branch = AuxiliaryBranch(config.scale, trunk)
            self.auxiliary_head = Head(
                [trunk.channels[level] for level in config.levels],
                config.strides,
                config.num_classes,
            )

    @property
    def auxiliary_strides(self) -> tuple[int, ...]:
        """Strides of `RawMaps.auxiliary`; empty where there is no auxiliary branch."""
        return () if self.auxiliary_head is None else self.strides

    def forward(self, x: Tensor) -> RawMaps:
        height, width = x.shape[-2:]
        if height % self.size_divisor or width % self.size_divisor:
            raise UsageError(
                f"image sides must be multiples of {self.size_divisor}, not {height} by {width}: "
                "pad the batch"
            )
        supervised: Pyramid | None = None
        if isinstance(self.backbone, DualBackbone):
            pyramid, supervised = self.backbone(x)
        elif self.training and self.auxiliary_branch is not None:
            assert isinstance(self.backbone, Backbone)
            pyramid, own = self.backbone.with_trunk(x)
            supervised = self.auxiliary_branch(x, own)
        else:
            pyramid = self.backbone(x)
        auxiliary = None
        if self.training and self.auxiliary_head is not None:
            assert supervised is not None
            auxiliary = self.auxiliary_head([supervised[level] for level in self.config.levels])
        out: Pyramid = self.neck(pyramid)
        maps = [
            self.attention[str(level)](out[level]) if str(level) in self.attention else out[level]
            for level in self.config.levels
        ]
        if self.fusion is not None:
            maps = self.fusion(maps)
        return RawMaps(self.head(maps), auxiliary)

    def without_auxiliary(self) -> DetectorModel:
        """A copy without the parts that only training uses; outputs are unchanged."""
        kept = copy.deepcopy(self)
        kept.auxiliary_branch = None
        kept.auxiliary_head = None
        return kept

    def deployed(self) -> DetectorModel:
        """A frozen copy for inference: training-only parts gone, BatchNorm folded, eval mode."""
        kept = self.without_auxiliary().eval().requires_grad_(False)
        fuse(kept)
        return kept
