"""YOLO11's decoupled, anchor-free head: for each level 4·16 distance logits and C class logits."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rstinynet.model.decode import REG_MAX
from rstinynet.model.layers import Conv, depthwise


class Head(nn.Module):
    """Maps of each level (B, C_l, H, W) to raw maps (B, 64 + classes, H, W).

    Biases start so that the expected side is small and a class is as likely as five objects of an
    image of 640 pixels make it, as in YOLO11. A `light` head's box branch is built like its class
    branch.
    """

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        num_classes: int,
        *,
        box_width: int | None = None,
        class_width: int | None = None,
        light: bool = False,
    ) -> None:
        super().__init__()
        box_width = box_width or max(16, channels[0] // 4, 4 * REG_MAX)
        class_width = class_width or max(channels[0], min(num_classes, 100))
        self.box = nn.ModuleList(
            nn.Sequential(
                *(_pair(width, box_width) if light else [Conv(width, box_width, 3)]),
                *(_pair(box_width, box_width) if light else [Conv(box_width, box_width, 3)]),
                nn.Conv2d(box_width, 4 * REG_MAX, 1),
            )
            for width in channels
        )
        self.classify = nn.ModuleList(
            nn.Sequential(
                *_pair(width, class_width),
                *_pair(class_width, class_width),
                nn.Conv2d(class_width, num_classes, 1),
            )
            for width in channels
        )
        # The frozen convolution that takes the expectation in YOLO11. Decoding computes the same
        # from the bins; the weights are kept because every published parameter count has them.
        self.expectation = nn.Conv2d(REG_MAX, 1, 1, bias=False).requires_grad_(False)
        bins = torch.arange(REG_MAX, dtype=torch.float32)
        self.expectation.weight.data[:] = bins.view(1, REG_MAX, 1, 1)
        for box, classify, stride in zip(self.box, self.classify, strides, strict=True):
            nn.init.constant_(_last(box).bias, 1.0)  # type: ignore[arg-type]
            prior = math.log(5 / num_classes / (640 / stride) ** 2)
            nn.init.constant_(_last(classify).bias, prior)  # type: ignore[arg-type]

    def forward(self, levels: Sequence[Tensor]) -> list[Tensor]:
        return [
            torch.cat([box(x), classify(x)], dim=1)
            for box, classify, x in zip(self.box, self.classify, levels, strict=True)
        ]


def _pair(channels_in: int, channels_out: int) -> list[Conv]:
    """A depthwise 3×3 and a 1×1 convolution."""
    return [depthwise(channels_in, channels_in, 3), Conv(channels_in, channels_out)]


def _last(branch: nn.Module) -> nn.Conv2d:
    assert isinstance(branch, nn.Sequential)
    conv = branch[-1]
    assert isinstance(conv, nn.Conv2d)
    return conv
