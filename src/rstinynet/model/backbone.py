"""YOLO11's backbone: layers 0-8 (the trunk) and SPPF + C2PSA on its coarsest output.

Layer numbers are YOLO11's. A pyramid is a dict from level L to the map of stride 2^L.
"""

from __future__ import annotations

from torch import Tensor, nn

from rstinynet.model.config import SCALES, Scale
from rstinynet.model.layers import C2PSA, SPPF, C3k2, Conv

Pyramid = dict[int, Tensor]

_STAGE_WIDTHS = {2: 256, 3: 512, 4: 512, 5: 1024}
_DOWN_WIDTHS = {1: 64, 2: 128, 3: 256, 4: 512, 5: 1024}


class Trunk(nn.Module):
    """Layers 0-8: five stride-2 convolutions, a C3k2 after each but the first.

    Image (B, 3, H, W) to levels 1 (stem) to 5.
    """

    def __init__(self, scale: Scale) -> None:
        super().__init__()
        rule = SCALES[scale]
        always_deep = scale in ("m", "l", "x")
        down = {level: rule.channels(base) for level, base in _DOWN_WIDTHS.items()}
        stage = {level: rule.channels(base) for level, base in _STAGE_WIDTHS.items()}
        self.down_channels: dict[int, int] = down
        self.channels: dict[int, int] = {1: down[1], **stage}
        self.downs = nn.ModuleDict()
        self.stages = nn.ModuleDict()
        previous = 3
        for level in range(1, 6):
            self.downs[str(level)] = Conv(previous, down[level], 3, 2)
            previous = down[level]
            if level > 1:
                self.stages[str(level)] = C3k2(
                    down[level],
                    stage[level],
                    repeats=rule.repeats(2),
                    deep=always_deep or level >= 4,
                    expansion=0.25 if level <= 3 else 0.5,
                )
                previous = stage[level]

    def forward(self, x: Tensor) -> Pyramid:
        pyramid: Pyramid = {}
        for level in range(1, 6):
            x = self.downs[str(level)](x)
            if level > 1:
                x = self.stages[str(level)](x)
            pyramid[level] = x
        return pyramid

    def up_to(self, level: int) -> list[nn.Module]:
        """The layers that lead to pyramid level `level`; none below level 1."""
        names = [str(i) for i in range(1, level + 1)]
        return [part[name] for part in (self.downs, self.stages) for name in names if name in part]


class Context(nn.Module):
    """Layers 9 and 10, SPPF and C2PSA, on level 5."""

    def __init__(self, scale: Scale) -> None:
        super().__init__()
        rule = SCALES[scale]
        width = rule.channels(1024)
        self.sppf = SPPF(width, width)
        self.attention = C2PSA(width, repeats=rule.repeats(2))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.attention(self.sppf(x))
        return y


class Backbone(nn.Module):
    """The plain YOLO11 backbone: trunk, with context on level 5. Levels 2 to 5 out."""

    def __init__(self, scale: Scale) -> None:
        super().__init__()
        self.trunk = Trunk(scale)
        self.context = Context(scale)
        self.channels: dict[int, int] = {k: v for k, v in self.trunk.channels.items() if k > 1}

    def forward(self, x: Tensor) -> Pyramid:
        return self.with_trunk(x)[0]

    def with_trunk(self, x: Tensor) -> tuple[Pyramid, Pyramid]:
        """The pyramid, and the trunk's own, whose level 5 is without context."""
        own: Pyramid = self.trunk(x)
        return {**own, 5: self.context(own[5])}, own
