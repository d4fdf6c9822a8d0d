"""The building blocks of YOLO11 (Ultralytics, 2024), written from their published shapes.

Convolutions in `Conv` carry no bias, since BatchNorm follows; `fuse` folds the two for deployment.
Shape legend: B images, C channels, H height, W width.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

BATCH_NORM_EPS = 1e-3
BATCH_NORM_MOMENTUM = 0.03


class SiLU(nn.SiLU):
    """SiLU, in place where no gradient is wanted: with one, autograd would copy the input first."""

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(x, inplace=not torch.is_grad_enabled())


class DepthwiseConv2d(nn.Conv2d):
    """A convolution with one filter a channel; where a CPU trains in bfloat16, mostly in float32.

    oneDNN 3.12 has no kernel of its own for the bfloat16 gradients of these filters beyond 3x3 and
    stride 1: they take up to nine times as long as in float32.
    """

    def forward(self, x: Tensor) -> Tensor:
        small = self.kernel_size == (3, 3) and self.stride == (1, 1)
        training = torch.is_grad_enabled() and torch.is_autocast_enabled("cpu")
        if training and x.device.type == "cpu" and not small:
            with torch.autocast("cpu", enabled=False):
                return super().forward(x.float())
        return super().forward(x)


class Conv(nn.Module):
    """Convolution without bias, BatchNorm, activation (SiLU unless told)."""

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        kernel: int = 1,
        stride: int = 1,
        *,
        groups: int = 1,
        activation: nn.Module | None = None,
    ) -> None:
        super().__init__()
        kind = DepthwiseConv2d if groups == channels_in > 1 else nn.Conv2d
        self.conv = kind(
            channels_in, channels_out, kernel, stride, kernel // 2, groups=groups, bias=False
        )
        self.norm: nn.Module = nn.BatchNorm2d(
            channels_out, eps=BATCH_NORM_EPS, momentum=BATCH_NORM_MOMENTUM
        )
        self.activation = SiLU() if activation is None else activation

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.activation(self.norm(self.conv(x)))
        return y


def depthwise(channels_in: int, channels_out: int, kernel: int) -> Conv:
    """A `Conv` with as many groups as both channel counts allow."""
    return Conv(channels_in, channels_out, kernel, groups=math.gcd(channels_in, channels_out))


def fuse_conv_norm(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> nn.Conv2d:
    """One convolution with bias that equals `conv` followed by `norm` in evaluation mode."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    fused = nn.Conv2d(
        conv.in_channels,
        conv.out_channels,
        conv.kernel_size,  # type: ignore[arg-type]
        conv.stride,  # type: ignore[arg-type]
        conv.padding,  # type: ignore[arg-type]
        conv.dilation,  # type: ignore[arg-type]
        conv.groups,
        bias=True,
    ).to(conv.weight.device, conv.weight.dtype)
    bias = torch.zeros_like(norm.running_mean) if conv.bias is None else conv.bias
    with torch.no_grad():
        fused.weight.copy_(conv.weight * scale[:, None, None, None])
        assert fused.bias is not None
        fused.bias.copy_(norm.bias + (bias - norm.running_mean) * scale)
    return fused.requires_grad_(False)


def fuse(module: nn.Module) -> None:
    """Fold every BatchNorm that directly follows a convolution, in place.

    `Conv` names its pair; in an `nn.Sequential` neighbours are folded.
    """
    for part in list(module.modules()):
        if isinstance(part, Conv) and isinstance(part.norm, nn.BatchNorm2d):
            part.conv = fuse_conv_norm(part.conv, part.norm)
            part.norm = nn.Identity()
        elif isinstance(part, nn.Sequential):
            for first, second in zip(list(part)[:-1], list(part)[1:], strict=True):
                if isinstance(first, nn.Conv2d) and isinstance(second, nn.BatchNorm2d):
                    names = {id(child): name for name, child in part.named_children()}
                    setattr(part, names[id(first)], fuse_conv_norm(first, second))
                    setattr(part, names[id(second)], nn.Identity())


class Bottleneck(nn.Module):
    """Two 3×3 `Conv`, added to the input where channels agree."""

    def __init__(self, channels_in: int, channels_out: int, *, expansion: float = 0.5) -> None:
        super().__init__()
        hidden = int(channels_out * expansion)
        self.conv1 = Conv(channels_in, hidden, 3)
        self.conv2 = Conv(hidden, channels_out, 3)
        self.add = channels_in == channels_out

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv2(self.conv1(x))
        return x + y if self.add else y


class C3k(nn.Module):
    """Cross-stage block: two 1×1 to c/2, one through `repeats` bottlenecks, concat, 1×1."""

    def __init__(self, channels_in: int, channels_out: int, *, repeats: int = 2) -> None:
        super().__init__()
        hidden = channels_out // 2
        self.conv1 = Conv(channels_in, hidden)
        self.conv2 = Conv(channels_in, hidden)
        self.blocks = nn.Sequential(
            *(Bottleneck(hidden, hidden, expansion=1.0) for _ in range(repeats))
        )
        self.conv3 = Conv(2 * hidden, channels_out)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv3(torch.cat([self.blocks(self.conv1(x)), self.conv2(x)], dim=1))
        return y


class C3k2(nn.Module):
    """YOLO11's main block: 1×1 to 2c and split, chained blocks on one half, concat of all, 1×1."""

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        *,
        repeats: int = 1,
        deep: bool = False,
        expansion: float = 0.5,
    ) -> None:
        super().__init__()
        hidden = int(channels_out * expansion)
        block: Callable[[], nn.Module] = (
            (lambda: C3k(hidden, hidden)) if deep else (lambda: Bottleneck(hidden, hidden))
        )
        self.conv1 = Conv(channels_in, 2 * hidden)
        self.blocks = nn.ModuleList(block() for _ in range(repeats))
        self.conv2 = Conv((2 + repeats) * hidden, channels_out)

    def forward(self, x: Tensor) -> Tensor:
        pieces = list(self.conv1(x).chunk(2, dim=1))
        for block in self.blocks:
            pieces.append(block(pieces[-1]))
        y: Tensor = self.conv2(torch.cat(pieces, dim=1))
        return y


class SPPF(nn.Module):
    """Spatial pyramid pooling: three chained 5×5 max pools and the input, concat, 1×1."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        hidden = channels_in // 2
        self.conv1 = Conv(channels_in, hidden)
        self.conv2 = Conv(4 * hidden, channels_out)

    def forward(self, x: Tensor) -> Tensor:
        pieces = [self.conv1(x)]
        for _ in range(3):
            pieces.append(F.max_pool2d(pieces[-1], 5, 1, 2))
        y: Tensor = self.conv2(torch.cat(pieces, dim=1))
        return y


class Attention(nn.Module):
    """Self-attention over all positions, with a depthwise 3×3 positional term on the values."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.head_dim = channels // heads
        self.key_dim = self.head_dim // 2
        self.qkv = Conv(channels, channels + 2 * heads * self.key_dim, activation=nn.Identity())
        self.projection = Conv(channels, channels, activation=nn.Identity())
        self.position = Conv(channels, channels, 3, groups=channels, activation=nn.Identity())

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        qkv = self.qkv(x).view(batch, self.heads, 2 * self.key_dim + self.head_dim, height * width)
        query, key, value = qkv.split([self.key_dim, self.key_dim, self.head_dim], dim=2)
        weights = (query.transpose(-2, -1) @ key * self.key_dim**-0.5).softmax(dim=-1)
        mixed = (value @ weights.transpose(-2, -1)).reshape(batch, channels, height, width)
        placed = self.position(value.reshape(batch, channels, height, width))
        y: Tensor = self.projection(mixed + placed)
        return y


class PSABlock(nn.Module):
    """x + attention(x), then x + feed-forward(x)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.attention = Attention(channels, heads=channels // 64)
        self.feed_forward = nn.Sequential(
            Conv(channels, 2 * channels), Conv(2 * channels, channels, activation=nn.Identity())
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(x)
        y: Tensor = x + self.feed_forward(x)
        return y


class C2PSA(nn.Module):
    """1×1 and split in halves, `repeats` PSABlocks on one half, concat, 1×1."""

    def __init__(self, channels: int, *, repeats: int = 1) -> None:
        super().__init__()
        hidden = channels // 2
        self.conv1 = Conv(channels, 2 * hidden)
        self.blocks = nn.Sequential(*(PSABlock(hidden) for _ in range(repeats)))
        self.conv2 = Conv(2 * hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        kept, attended = self.conv1(x).chunk(2, dim=1)
        y: Tensor = self.conv2(torch.cat([kept, self.blocks(attended)], dim=1))
        return y


def upsample(x: Tensor) -> Tensor:
    """Nearest-neighbour enlargement by 2."""
    return F.interpolate(x, scale_factor=2.0, mode="nearest")
