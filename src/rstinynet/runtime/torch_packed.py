"""Convolutions of a frozen model as oneDNN wants them, with the activation inside.

Called through torch, a convolution orders its weights anew in each forward pass, an activation is
one more pass through memory, and a 1×1 convolution in float32 becomes a matrix product of MKL,
which takes twice oneDNN's time on a processor that is not Intel's. Here the weights are ordered
once, and the activation is part of the convolution.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from rstinynet.model.layers import Conv
from rstinynet.model.lite0 import SameConv

_OPERATORS = ("_convolution_pointwise", "_reorder_convolution_weight")
Activation = tuple[str, tuple[float, ...]]
_NONE: Activation = ("none", ())
_SILU: Activation = ("swish", ())
_RELU: Activation = ("relu", ())
_RELU6: Activation = ("hardtanh", (0.0, 6.0))


class PackedConv2d(nn.Conv2d):
    """A convolution whose weights are ordered at its first call, with an activation in it.

    What is ordered is neither state nor pickled: it is made again where it is missing.
    """

    activation: Activation
    ordered: Tensor | None

    def forward(self, x: Tensor) -> Tensor:
        geometry: tuple[Any, ...] = (self.padding, self.stride, self.dilation, self.groups)
        if self.ordered is None:
            self.ordered = torch.ops.mkldnn._reorder_convolution_weight(
                self.weight, *geometry, list(x.shape)
            )
        name, numbers = self.activation
        y: Tensor = torch.ops.mkldnn._convolution_pointwise(
            x, self.ordered, self.bias, *geometry, name, list(numbers), ""
        )
        return y

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "ordered": None}


def can_pack(model: nn.Module) -> bool:
    """Whether this torch and the model's device and numbers allow it."""
    first = next(model.parameters(), None)
    there = all(hasattr(torch.ops.mkldnn, name) for name in _OPERATORS)
    if first is None or first.device.type != "cpu" or not there:
        return False
    if first.dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return first.dtype == torch.float32


def packed(model: nn.Module) -> nn.Module:
    """A copy of a fused model that shares its weights, for inference alone.

    Its numbers are the model's but for rounding. `can_pack` says whether it would run.
    """
    shared: dict[int, Any] = {id(e): e for e in (*model.parameters(), *model.buffers())}
    made = copy.deepcopy(model, shared)
    for module in list(made.modules()):
        if isinstance(module, Conv) and isinstance(module.norm, nn.Identity):
            _join(module.conv, module, "activation")
        elif isinstance(module, nn.Sequential):
            _join_neighbours(module)
        elif isinstance(module, SameConv) and module.activate:
            first = module.conv[0]
            assert isinstance(first, nn.Conv2d)
            if module.wide is not None:
                first.weight = nn.Parameter(module.wide, requires_grad=False)
                first.padding = (module.padding[0] + 1,) * 2
                module.wide, module.symmetric = None, True
            _pack(first, _RELU6)
            module.activate = False
    for module in list(made.modules()):
        if isinstance(module, nn.Conv2d) and not isinstance(module, PackedConv2d):
            _pack(module, _NONE)
    return made


def _join_neighbours(parts: nn.Sequential) -> None:
    """An activation right after a convolution, where at most a folded BatchNorm is between."""
    last: nn.Module | None = None
    for name, part in list(parts.named_children()):
        if isinstance(part, nn.Identity):
            continue
        if isinstance(last, nn.Conv2d):
            _join(last, parts, name)
        last = part


def _join(conv: nn.Conv2d, owner: nn.Module, name: str) -> None:
    activation = getattr(owner, name)
    if isinstance(activation, nn.SiLU):
        _pack(conv, _SILU)
    elif isinstance(activation, nn.ReLU):
        _pack(conv, _RELU)
    else:
        return
    setattr(owner, name, nn.Identity())


def _pack(conv: nn.Conv2d, activation: Activation) -> None:
    conv.__class__ = PackedConv2d
    conv.activation, conv.ordered = activation, None  # type: ignore[assignment]
