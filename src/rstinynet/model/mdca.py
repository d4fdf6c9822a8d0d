"""Multi-dimensional collaborative attention (MDCA): RS-TinyNet paper, equations 1-8.

How the paper is read:
- Equation 1, read literally, averages the s×s grid and so equals global pooling. The grid is kept
  as the local context, the only reading under which "local" means anything (also MLCA's).
- The global context is the grid's mean: global average pooling when s divides H and W.
- The paper writes no output equation. Default is X·(A_channel + A_spatial), the identity when both
  attentions stand at sigmoid(0); the product X·A_channel·A_spatial is the other rule.
- "DCA" in the text is MDCA; section IV-E places it in the neck, III-B in the main trunk: the neck
  is followed.

Shape legend: B images, C channels, H height, W width, s side of the grid.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LOCAL_SHARE = 0.5
"""λ of the mix (1-λ)·global + λ·local."""


def eca_kernel(channels: int) -> int:
    """Size of the channel convolution by the ECA rule: |log2(C)/2 + 1/2| down, made odd."""
    size = int(abs(math.log2(channels) / 2 + 0.5))
    return size if size % 2 else size + 1


class MDCA(nn.Module):
    """Channel attention from local and global context, and spatial attention. Shape is kept.

    Parameters: `kernel` + `kernel` (channel, equations 2-5) + 18 (spatial, equations 6-8).
    """

    def __init__(
        self,
        channels: int,
        *,
        kernel: int | None = None,
        rule: Literal["sum", "product"] = "sum",
        grid: int = 5,
    ) -> None:
        super().__init__()
        size = eca_kernel(channels) if kernel is None else kernel
        self.grid = grid
        self.rule = rule
        self.local_conv = nn.Conv1d(1, 1, size, padding=size // 2, bias=False)
        self.global_conv = nn.Conv1d(1, 1, size, padding=size // 2, bias=False)
        self.spatial_conv = nn.Conv2d(2, 1, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        channel = self.channel_attention(x)
        spatial = self.spatial_attention(x)
        return x * (channel + spatial) if self.rule == "sum" else x * channel * spatial

    def channel_attention(self, x: Tensor) -> Tensor:
        """Equations 1-5: (B, C, H, W) attention, constant within a cell of the grid."""
        batch, channels, height, width = x.shape
        s = self.grid
        local_BCss = _grid_means(x, s)
        across_B1C = local_BCss.mean(dim=(2, 3)).unsqueeze(1)
        global_BC11 = self.global_conv(across_B1C).sigmoid().view(batch, channels, 1, 1)
        cells = local_BCss.flatten(2).transpose(1, 2).reshape(batch * s * s, 1, channels)
        local = self.local_conv(cells).sigmoid().view(batch, s * s, channels).transpose(1, 2)
        mixed = (1 - LOCAL_SHARE) * global_BC11 + LOCAL_SHARE * local.reshape(batch, channels, s, s)
        return F.interpolate(mixed, size=(height, width), mode="nearest")

    def spatial_attention(self, x: Tensor) -> Tensor:
        """Equations 6-8: (B, 1, H, W) attention from the mean and maximum over channels."""
        pooled = torch.cat([x.mean(dim=1, keepdim=True), x.amax(dim=1, keepdim=True)], dim=1)
        attention: Tensor = self.spatial_conv(pooled).sigmoid()
        return attention


def _grid_means(x: Tensor, grid: int) -> Tensor:
    """(B, C, s, s) means of the cells.

    The result is laid out as one block in memory: the backward pass of adaptive pooling on
    channels-last input is slow on a CPU.
    """
    return F.adaptive_avg_pool2d(x, grid).contiguous()
