"""YOLO11's path aggregation neck, over any consecutive levels.

Top-down from level 5 to the finest wanted level, then bottom-up to the coarsest wanted one. With
levels 3-5 it is YOLO11's own (layers 11-22); level 2 adds one step each way.
"""

from __future__ import annotations

import torch
from torch import nn

from rstinynet.model.backbone import Pyramid
from rstinynet.model.config import SCALES, Scale
from rstinynet.model.layers import C3k2, Conv, upsample

_WIDTHS = {2: 128, 3: 256, 4: 512, 5: 1024}


class Neck(nn.Module):
    """Levels 2-5 of the backbone to the wanted `levels`."""

    def __init__(self, scale: Scale, channels: dict[int, int], levels: tuple[int, ...]) -> None:
        super().__init__()
        rule = SCALES[scale]
        always_deep = scale in ("m", "l", "x")
        widths = {level: rule.channels(base) for level, base in _WIDTHS.items()}
        self.levels = levels
        finest, coarsest = levels[0], levels[-1]
        self.top_down = nn.ModuleDict()
        above = channels[5]
        for level in range(4, finest - 1, -1):
            self.top_down[str(level)] = C3k2(
                above + channels[level], widths[level], repeats=rule.repeats(2), deep=always_deep
            )
            above = widths[level]
        self.downs = nn.ModuleDict()
        self.bottom_up = nn.ModuleDict()
        for level in range(finest + 1, coarsest + 1):
            beside = channels[5] if level == 5 else widths[level]
            below = widths[level - 1]
            self.downs[str(level)] = Conv(below, below, 3, 2)
            self.bottom_up[str(level)] = C3k2(
                below + beside,
                widths[level],
                repeats=rule.repeats(2),
                deep=always_deep or level == 5,
            )
        self.channels = tuple(widths[level] for level in levels)

    def forward(self, pyramid: Pyramid) -> Pyramid:
        finest, coarsest = self.levels[0], self.levels[-1]
        merged: Pyramid = {5: pyramid[5]}
        for level in range(4, finest - 1, -1):
            joined = torch.cat([upsample(merged[level + 1]), pyramid[level]], dim=1)
            merged[level] = self.top_down[str(level)](joined)
        out: Pyramid = {finest: merged[finest]}
        for level in range(finest + 1, coarsest + 1):
            joined = torch.cat([self.downs[str(level)](out[level - 1]), merged[level]], dim=1)
            out[level] = self.bottom_up[str(level)](joined)
        return out
