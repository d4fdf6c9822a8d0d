"""Progressive fusion detection head (PFDH): RS-TinyNet paper, equation 12.

The paper's head is AFPN (asymptotic feature pyramid) with ASFF (adaptively spatial feature fusion)
before YOLO11's heads. The text says "only neighbouring levels, N usually 3"; AFPN links levels up
to ×8 apart and fuses N = 2, 3, then 4 of them, and the published parameter counts confirm AFPN.
Inside the fusion the activation is ReLU and weights start by Xavier with gain .02, as published.
Torch's own initial weights, ten times as large, are a switch.

Shape legend: B images, C channels, N levels fused.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_COMPRESSED = 8
_BLOCKS = 4


def _conv(channels_in: int, channels_out: int, kernel: int, stride: int = 1) -> nn.Sequential:
    padding = kernel // 2 if stride == 1 else 0
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, kernel, stride, padding, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(inplace=True),
    )


class Resize(nn.Module):
    """Bring a map from one level to another: 1×1 then bilinear, or k×k with stride k."""

    def __init__(self, channels_in: int, channels_out: int, steps: int) -> None:
        super().__init__()
        self.factor = 2 ** abs(steps)
        self.enlarges = steps > 0
        self.conv = (
            _conv(channels_in, channels_out, 1)
            if self.enlarges
            else _conv(channels_in, channels_out, self.factor, self.factor)
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        if self.enlarges:
            y = F.interpolate(y, scale_factor=float(self.factor), mode="bilinear")
        return y


class ASFF(nn.Module):
    """Equation 12: a weighted sum of N maps with weights that sum to 1 at every position."""

    def __init__(self, channels: int, count: int) -> None:
        super().__init__()
        self.compress = nn.ModuleList(_conv(channels, _COMPRESSED, 1) for _ in range(count))
        self.weigh = nn.Conv2d(_COMPRESSED * count, count, 1)
        self.smooth = _conv(channels, channels, 3)

    def weights(self, maps: Sequence[Tensor]) -> Tensor:
        """(B, N, H, W) fusion weights of maps that are each (B, C, H, W)."""
        small = [compress(x) for compress, x in zip(self.compress, maps, strict=True)]
        weights: Tensor = self.weigh(torch.cat(small, dim=1)).softmax(dim=1)
        return weights

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        weights = self.weights(maps)
        fused = maps[0] * weights[:, 0:1]
        for i, x in enumerate(maps[1:], start=1):
            fused = fused + x * weights[:, i : i + 1]
        y: Tensor = self.smooth(fused)
        return y


class Residual(nn.Module):
    """Two 3×3 convolutions (with bias) and BatchNorm, added to the input; ReLU."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.body(x))


class Stage(nn.Module):
    """Fuse the first N levels with one another, then four residual blocks on each."""

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        count = len(channels)
        self.resize = nn.ModuleDict(
            {
                f"{source}_{target}": Resize(channels[source], channels[target], source - target)
                for target in range(count)
                for source in range(count)
                if source != target
            }
        )
        self.fuse = nn.ModuleList(ASFF(width, count) for width in channels)
        self.blocks = nn.ModuleList(
            nn.Sequential(*(Residual(width) for _ in range(_BLOCKS))) for width in channels
        )

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        out = []
        for target in range(len(maps)):
            brought = [
                x if source == target else self.resize[f"{source}_{target}"](x)
                for source, x in enumerate(maps)
            ]
            out.append(self.blocks[target](self.fuse[target](brought)))
        return out


class ProgressiveFusion(nn.Module):
    """AFPN: neck maps, finest first, to as many maps of `width` channels.

    Stages fuse {first two}, then one coarser level more each time. Sizes must halve exactly from
    level to level.
    """

    def __init__(
        self,
        channels: Sequence[int],
        *,
        width: int,
        reduced: Sequence[int] | None = None,
        init: Literal["xavier", "torch"] = "xavier",
    ) -> None:
        super().__init__()
        inner = [c // 8 for c in channels] if reduced is None else list(reduced)
        self.reduce = nn.ModuleList(_conv(c, r, 1) for c, r in zip(channels, inner, strict=True))
        self.enter = nn.ModuleList(_conv(r, r, 1) for r in inner)
        self.stages = nn.ModuleList(Stage(inner[:n]) for n in range(2, len(inner) + 1))
        self.leave = nn.ModuleList(_conv(r, width, 1) for r in inner)
        for module in self.modules():
            if init == "xavier" and isinstance(module, nn.Conv2d):
                nn.init.xavier_normal_(module.weight, gain=0.02)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        entered = [
            enter(reduce(x)) for enter, reduce, x in zip(self.enter, self.reduce, maps, strict=True)
        ]
        fused = entered[:1]
        for n, stage in enumerate(self.stages, start=2):
            fused = stage([*fused, entered[n - 1]])
        return [leave(x) for leave, x in zip(self.leave, fused, strict=True)]
