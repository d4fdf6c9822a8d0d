"""Auxiliary reversible branch (ARB): RS-TinyNet paper, section III and equations 9-11.

Two deployable readings, both built from YOLOv9's dual backbone (CBNet's composite links):
- `DualBackbone`, which meets the paper's parameter count exactly: trunk A reads the image, its maps
  are split in pieces and added into trunk B at equal or finer levels; SPPF, C2PSA and neck read B.
  The text's auxiliary supervision is a training-only head on A (in detector.py).
- the `pgi` form, whose branch (`CompositeTrunk` with its links) is dropped after training: the
  neck reads A, and only the auxiliary head reads B.

`ReversibleCoupling` is equations 10 and 11 taken literally: x can be recovered from y.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rstinynet.model.backbone import Context, Pyramid, Trunk
from rstinynet.model.config import Scale


class CompositeLinks(nn.Module):
    """CBLinear: a 1×1 convolution with bias on each level of A, split in pieces for B.

    Level L of A gives a piece to each of B's levels 1..L, as wide as B's stride-2 convolution
    there. 1,530,944 parameters at scale m.
    """

    def __init__(self, trunk: Trunk) -> None:
        super().__init__()
        self.widths = {
            level: [trunk.down_channels[target] for target in range(1, level + 1)]
            for level in range(1, 6)
        }
        self.linears = nn.ModuleDict(
            {
                str(level): nn.Conv2d(trunk.channels[level], sum(widths), 1)
                for level, widths in self.widths.items()
            }
        )

    def forward(self, pyramid: Pyramid) -> dict[int, list[Tensor]]:
        """Pieces by target level, from the nearest source to the coarsest."""
        pieces: dict[int, list[Tensor]] = {level: [] for level in range(1, 6)}
        for level, widths in self.widths.items():
            for target, piece in enumerate(
                self.linears[str(level)](pyramid[level]).split(widths, dim=1), start=1
            ):
                pieces[target].append(piece)
        return pieces


class CompositeTrunk(nn.Module):
    """Trunk B: layers 0-8 again, A's pieces added after each stride-2 convolution."""

    def __init__(self, scale: Scale) -> None:
        super().__init__()
        self.trunk = Trunk(scale)

    def forward(self, x: Tensor, pieces: dict[int, list[Tensor]]) -> Pyramid:
        pyramid: Pyramid = {}
        for level in range(1, 6):
            x = self.trunk.downs[str(level)](x)
            for piece in pieces[level]:
                same = piece.shape[-2:] == x.shape[-2:]
                x = x + (piece if same else F.interpolate(piece, size=x.shape[-2:], mode="nearest"))
            if level > 1:
                x = self.trunk.stages[str(level)](x)
            pyramid[level] = x
        return pyramid


class DualBackbone(nn.Module):
    """A, links, B, then SPPF and C2PSA on B. Returns B's pyramid and A's (for supervision)."""

    def __init__(self, scale: Scale) -> None:
        super().__init__()
        self.trunk = Trunk(scale)
        self.links = CompositeLinks(self.trunk)
        self.composite = CompositeTrunk(scale)
        self.context = Context(scale)
        self.channels: dict[int, int] = {k: v for k, v in self.trunk.channels.items() if k > 1}

    def forward(self, x: Tensor) -> tuple[Pyramid, Pyramid]:
        first: Pyramid = self.trunk(x)
        second: Pyramid = self.composite(x, self.links(first))
        second[5] = self.context(second[5])
        return second, first


class AuxiliaryBranch(nn.Module):
    """The droppable form: reads the image and A's maps, feeds only the auxiliary head."""

    def __init__(self, scale: Scale, trunk: Trunk) -> None:
        super().__init__()
        self.links = CompositeLinks(trunk)
        self.composite = CompositeTrunk(scale)

    def forward(self, x: Tensor, pyramid: Pyramid) -> Pyramid:
        out: Pyramid = self.composite(x, self.links(pyramid))
        return out


class ReversibleCoupling(nn.Module):
    """Equations 10 (forward) and 11 (inverse): additive coupling of two channel halves.

    y1 = x1 + F(x2), y2 = x2 + G(y1); x2 = y2 - G(y1), x1 = y1 - F(x2). Any F and G may be used,
    since neither is inverted.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        if channels % 2:
            raise ValueError(f"channels must be even to be split in halves, not {channels}")
        half = channels // 2
        self.first = nn.Sequential(nn.Conv2d(half, half, 3, padding=1), nn.SiLU())
        self.second = nn.Sequential(nn.Conv2d(half, half, 3, padding=1), nn.SiLU())

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the coupled map of the same shape."""
        x1, x2 = x.chunk(2, dim=1)
        y1 = x1 + self.first(x2)
        return torch.cat([y1, x2 + self.second(y1)], dim=1)

    def inverse(self, y: Tensor) -> Tensor:
        """The input that gave `y`, to rounding."""
        y1, y2 = y.chunk(2, dim=1)
        x2 = y2 - self.second(y1)
        return torch.cat([y1 - self.first(x2), x2], dim=1)
